//! What becomes of memory that is freed.

/// Makes the allocator keep freed memory for the next step instead of handing it back to the system, and asks for large
/// pages.
///
/// A training step frees and asks for the same large blocks again and again, and pages fresh from the system cost
/// as much time as a pass over them. For programs, as the first thing they do, before there are other threads; a library
/// leaves such settings to its user. Returns whether everything was set: only the allocator of the GNU C library has the
/// settings, and only Linux the pages.
pub fn keep_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        gnu::keep_memory()
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod gnu {
    #![allow(unsafe_code, reason = "calls into the C library")]

    /// Blocks below this come from the heap.
    const LARGEST: usize = 1 << 30;
    /// Address space for which large pages are asked, in blocks that come from the heap.
    const BLOCKS: [usize; 2] = [LARGEST - (1 << 20); 2];
    const PAGE: usize = 4096;

    pub(super) fn keep_memory() -> bool {
        // SAFETY: `mallopt` takes plain numbers and may be called at any time.
        let set = |parameter, value| unsafe { libc::mallopt(parameter, value) == 1 };
        // One heap: those that other threads get are small, and are given back when they are empty. Up to two gigabytes
        // of it stay when they are free.
        let kept = set(libc::M_ARENA_MAX, 1)
            & set(libc::M_MMAP_THRESHOLD, LARGEST as i32)
            & set(libc::M_TRIM_THRESHOLD, i32::MAX);
        kept & large_pages()
    }

    /// Makes the heap grow once, by address space only, and asks for large pages there; false if that was refused.
    fn large_pages() -> bool {
        // SAFETY: `malloc` may be asked for anything; null says no.
        let blocks = BLOCKS.map(|size| (unsafe { libc::malloc(size) }, size));
        let mut advised = true;
        for (block, size) in blocks {
            // Whole pages inside the block.
            let skip = block.align_offset(PAGE);
            advised &= !block.is_null() && {
                let start = block.wrapping_byte_add(skip);
                // SAFETY: the pages lie in a block of ours, and the advice changes none of their contents.
                unsafe { libc::madvise(start, (size - skip) / PAGE * PAGE, libc::MADV_HUGEPAGE) == 0 }
            };
        }
        for (block, _) in blocks {
            // SAFETY: each block came from `malloc`, or is null, and is not used again.
            unsafe { libc::free(block) };
        }
        advised
    }
}
