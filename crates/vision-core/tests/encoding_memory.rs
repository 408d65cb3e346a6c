//! The memory that encoding a batch takes, forward and backward: nothing of the size of all residuals.

#![allow(clippy::unwrap_used, reason = "tests")]
#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use candle_core::{DType, Device, Var};
use vision_core::ops;
use vision_core::rng::Key;

struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(NOW.fetch_add(layout.size(), Relaxed) + layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A line of this process' status, in bytes.
#[cfg(target_os = "linux")]
fn status(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<usize>().unwrap() * 1024
}

#[test]
fn forward_and_backward_stay_within_a_few_times_the_input() {
    let (shape, codes) = ((4, 3600, 512), 32);
    let key = Key::new(1);
    let draw = |name: &str, dims: &[usize], low: f64, high: f64| {
        Var::from_tensor(&key.fold(name).uniform(dims, low, high, DType::F32, &Device::Cpu).unwrap()).unwrap()
    };
    let input = draw("input", &[shape.0, shape.1, shape.2], 0.0, 1.0);
    let (codewords, scale) =
        (draw("codewords", &[codes, shape.2], -0.01, 0.01), draw("scale", &[codes], -1.0, 0.0));
    let bytes = input.elem_count() * 4;

    #[cfg(target_os = "linux")]
    let resident = {
        // Forgets the peak so far.
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        status("VmRSS:")
    };
    let before = NOW.load(Relaxed);
    PEAK.store(before, Relaxed);
    let encoded = ops::encoding(&input, &codewords, &scale, &ops::EncodingArgs::default()).unwrap();
    let forward = PEAK.load(Relaxed) - before;
    assert!(forward * 4 <= bytes, "forward takes {forward} bytes beside an input of {bytes}");
    let grads = encoded.sum_all().unwrap().backward().unwrap();
    assert!(grads.get(&input).is_some());
    // The tensor library starts every gradient as zeros and adds to them: two more of the input's size.
    let own = PEAK.load(Relaxed) - before - 2 * bytes;
    assert!(own * 5 <= 6 * bytes, "backward takes {own} bytes beside an input of {bytes}");
    // Those zeros are asked for, but as they are only read the system never gives memory for them.
    #[cfg(target_os = "linux")]
    {
        let grown = status("VmHWM:") - resident;
        assert!(grown <= 3 * bytes, "resident memory grows by {grown} bytes beside an input of {bytes}");
    }
}
