//! Numbers that need no file, so that a whole network can be compared with the original's.

#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::case_sensitive_file_extension_comparisons, reason = "names of tensors")]

use candle_core::{DType, Device, Tensor};
use vision_core::params::ParamStore;

/// Element `i` of stream `number`, in [-1, 1).
pub(crate) fn stream(number: u64, i: u64) -> f64 {
    let mut z = ((number << 32) + i).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^= z >> 31;
    2.0 * ((z >> 40) as f64 / f64::from(1 << 24)) - 1.0
}

/// A tensor of a stream's first numbers, each changed by `map`.
pub(crate) fn tensor(number: u64, dims: &[usize], dtype: DType, map: impl Fn(f64) -> f64) -> Tensor {
    let count: usize = dims.iter().product();
    let values: Vec<f64> = (0..count as u64).map(|i| map(stream(number, i))).collect();
    Tensor::from_vec(values, dims, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// Gives every parameter and buffer, in order of their names, the numbers of the stream of its place.
pub(crate) fn fill(params: &ParamStore) {
    for (number, (name, var)) in (0..).zip(params.all()) {
        let fan_in = |dims: &[usize]| dims[1..].iter().product::<usize>() as f64;
        let map: Box<dyn Fn(f64) -> f64> = match var.dims() {
            dims @ [_, _, _, _] => {
                let bound = (6.0 / fan_in(dims)).sqrt();
                Box::new(move |v| v * bound)
            }
            [codes, channels] if name.ends_with(".codewords") => {
                let bound = ((codes * channels) as f64).sqrt();
                Box::new(move |v| v / bound)
            }
            dims @ [_, _] => {
                let bound = (3.0 / fan_in(dims)).sqrt();
                Box::new(move |v| v * bound)
            }
            _ if name.ends_with(".scale") => Box::new(|v| -0.5 + 0.4 * v),
            _ if name.ends_with(".running_var") => Box::new(|v| 1.0 + 0.5 * v.abs()),
            _ if name.ends_with(".running_mean") || name.ends_with(".bias") => Box::new(|v| 0.1 * v),
            _ if name.contains(".bn3.") => Box::new(|v| 0.3 * (1.0 + 0.1 * v)),
            _ => Box::new(|v| 1.0 + 0.1 * v),
        };
        var.set(&tensor(number, var.dims(), var.dtype(), map)).unwrap();
    }
}

/// All elements, in row-major order.
pub(crate) fn numbers(x: &Tensor) -> Vec<f64> {
    x.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

/// Mean and standard deviation (of a sample, as PyTorch's `std`).
pub(crate) fn mean_std(x: &Tensor) -> [f64; 2] {
    let x = numbers(x);
    let n = x.len() as f64;
    let mean = x.iter().sum::<f64>() / n;
    [mean, (x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()]
}

/// Fails unless the numbers agree within an absolute and a relative tolerance.
pub(crate) fn near(what: &str, got: &[f64], want: &[f64], absolute: f64, relative: f64) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().zip(want) {
        assert!((got - want).abs() <= absolute + relative * want.abs(), "{what}: got {got}, expected {want}");
    }
}
