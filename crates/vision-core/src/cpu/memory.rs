//! What becomes of memory that is freed.

/// Makes the allocator keep freed memory for the next step instead of handing it back to the system.
///
/// A training step frees and asks for the same large blocks again and again, and pages fresh from the system cost
/// as much time as a pass over them. Threads share one heap: those of their own, which deep backward passes run on,
/// would be handed back whenever they are empty. For programs, as the first thing they do, before there are other
/// threads; a library leaves such settings to its user. Returns whether anything was set: only the allocator of the
/// GNU C library has the setting.
pub fn keep_memory() -> bool {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        #[allow(unsafe_code, reason = "a call into the C library")]
        // SAFETY: `mallopt` takes plain numbers and may be called at any time.
        let set = |parameter, value| unsafe { libc::mallopt(parameter, value) == 1 };
        // Blocks below a gigabyte come from the heap, of which up to two gigabytes stay when they are free.
        set(libc::M_MMAP_THRESHOLD, 1 << 30)
            & set(libc::M_TRIM_THRESHOLD, i32::MAX)
            & set(libc::M_ARENA_MAX, 1)
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}
