//! Dropout: every element is zeroed with probability `p` and the others are multiplied by `1 / (1 - p)`, as
//! `torch.nn.functional.dropout` in training.
//!
//! Which elements are dropped depends on the key and on the position in row-major order only, so backward
//! draws the mask again instead of storing it, and equal keys give equal masks whatever the number of
//! threads. Element `i` is dropped if its 32-bit word of [`Key`]'s stream for masks is below `p 2^32`, rounded.
//! As in PyTorch a dropped element is multiplied by zero (infinity becomes NaN), `p = 0` is the identity, and
//! `p = 1` drops everything.

#[cfg(feature = "cuda")]
mod cuda;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::support::{Float, check_device, check_float, cpu_slice, dispatch_float, vectorised};
use crate::error::{Error, Result};
use crate::rng::{Key, MASK_WORDS};

/// `input`, `f32` or `f64` of any shape, with each element dropped with probability `p` as `key` says.
///
/// # Errors
/// If the input is not a float tensor, lies on a device without kernels, or `p` is not in `[0, 1]`.
pub fn dropout(input: &Tensor, p: f64, key: Key) -> Result<Tensor> {
    check_float("dropout: input", input)?;
    check_device("dropout: input", input)?;
    check_probability("dropout", p)?;
    if p == 0. {
        return Ok(input.clone());
    }
    Ok(input.contiguous()?.apply_op1(Dropout { p, key })?)
}

/// Fails unless `p` is a probability.
pub(crate) fn check_probability(op: &str, p: f64) -> Result<()> {
    if (0. ..=1.).contains(&p) {
        Ok(())
    } else {
        Err(Error::argument(format!("{op}: p"), format!("{p} is not in [0, 1]")))
    }
}

/// Elements treated together: a multiple of [`MASK_WORDS`].
const BLOCK: usize = 1024;
/// Elements of a task: a multiple of [`BLOCK`].
const CHUNK: usize = 16 * BLOCK;

#[derive(Clone, Copy)]
struct Dropout {
    p: f64,
    key: Key,
}

impl Dropout {
    /// Factor of the elements that stay.
    fn scale(&self) -> f64 {
        if self.p < 1. { 1. / (1. - self.p) } else { 0. }
    }

    /// Elements with a word below this are dropped; the largest word for a `p` close to 1.
    fn threshold(&self) -> u32 {
        (self.p * 2_f64.powi(32)).round() as u32
    }

    fn apply<T: Float>(&self, x: &[T]) -> Vec<T> {
        let mut y = vec![T::ZERO; x.len()];
        let (scale, threshold) = (T::from_f64(self.scale()), self.threshold());
        y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).enumerate().for_each(|(chunk, (y, x))| {
            let first = chunk * (CHUNK / MASK_WORDS);
            let mut words = [0; BLOCK];
            for (block, (y, x)) in y.chunks_mut(BLOCK).zip(x.chunks(BLOCK)).enumerate() {
                let first = (first + block * (BLOCK / MASK_WORDS)) as u64;
                vectorised(|| {
                    let needed = y.len().next_multiple_of(MASK_WORDS);
                    // Through memory: words and elements are then both loops of vector instructions.
                    for (words, group) in words[..needed].as_chunks_mut().0.iter_mut().zip(first..) {
                        self.key.mask_words(group, words);
                    }
                    for ((y, &x), &word) in y.iter_mut().zip(x).zip(&words) {
                        let factor = if word < threshold { T::ZERO } else { scale };
                        *y = x * factor;
                    }
                });
            }
        });
        y
    }
}

impl CustomOp1 for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!("dropout: input", s.dtype(), T => {
            let y = self.apply(cpu_slice::<T>("dropout: input", s, l)?);
            Ok((T::to_cpu_storage_owned(y), l.shape().clone()))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        Ok((cuda::apply(self, s, l)?, l.shape().clone()))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        if !arg.track_op() {
            return Ok(None);
        }
        // Linear in its input: the gradient goes through the same mask.
        grad.contiguous()?.apply_op1_no_bwd(self).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
    use proptest::prelude::*;

    use super::*;
    use crate::testing::gradcheck;

    fn ones(count: usize) -> Var {
        Var::ones(count, DType::F32, &Device::Cpu).unwrap()
    }

    fn values(t: &Tensor) -> Vec<f32> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn share_scale_and_reproducibility() {
        let count = 200_003;
        let x = ones(count);
        for p in [0.1, 0.5, 0.9] {
            let y = values(&dropout(&x, p, Key::new(3)).unwrap());
            let dropped = y.iter().filter(|v| **v == 0.).count() as f64 / count as f64;
            // Five standard deviations.
            assert!((dropped - p).abs() < 5. * (p * (1. - p) / count as f64).sqrt(), "{p}: {dropped}");
            let scale = (1. / (1. - p)) as f32;
            assert!(y.iter().all(|v| *v == 0. || *v == scale));
            assert_eq!(y, values(&dropout(&x, p, Key::new(3)).unwrap()));
            assert_ne!(y, values(&dropout(&x, p, Key::new(4)).unwrap()));
            let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
            assert_eq!(y, one.install(|| values(&dropout(&x, p, Key::new(3)).unwrap())));
            // A longer tensor starts with the same mask.
            assert_eq!(y[..1000], values(&dropout(&ones(1000), p, Key::new(3)).unwrap()));
        }
    }

    #[test]
    fn neighbours_are_independent() {
        let count = 1 << 18;
        let y = values(&dropout(&ones(count), 0.5, Key::new(9)).unwrap());
        for distance in [1, 2, 7, 8, 16, 31, 32, 64] {
            let both = (distance..count).filter(|&i| y[i] > 0. && y[i - distance] > 0.).count();
            let share = both as f64 / (count - distance) as f64;
            assert!((share - 0.25).abs() < 0.005, "{distance}: {share}");
        }
    }

    #[test]
    fn ends_of_the_range() {
        let x = Var::new(&[1_f32, -2., f32::INFINITY], &Device::Cpu).unwrap();
        assert_eq!(values(&dropout(&x, 0., Key::new(1)).unwrap()), values(&x));
        let y = dropout(&x, 1., Key::new(1)).unwrap();
        assert!(values(&y)[..2].iter().all(|v| *v == 0.) && values(&y)[2].is_nan());
        let grads = y.narrow(0, 0, 2).unwrap().sum_all().unwrap().backward().unwrap();
        assert_eq!(values(grads.get(&x).unwrap()), [0.; 3]);
        let nearly = values(&dropout(&ones(1000), 1. - 1e-12, Key::new(1)).unwrap());
        assert!(nearly.iter().all(|v| *v == 0.));
    }

    #[test]
    fn the_gradient_has_the_same_mask() {
        let x = ones(5000);
        let y = dropout(&x, 0.3, Key::new(2)).unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(values(grads.get(&x).unwrap()), values(&y));
        let x = Key::new(1).normal((3, 5, 7), 0., 1., DType::F64, &Device::Cpu).unwrap();
        gradcheck(|t| dropout(&t[0].transpose(0, 2)?, 0.4, Key::new(5)), &[x], 1e-6, 1e-8).unwrap();
    }

    #[test]
    fn strided_empty_and_wrong_input() {
        let x = Key::new(1).normal((40, 30), 0., 1., DType::F32, &Device::Cpu).unwrap();
        let view = x.t().unwrap();
        let want = dropout(&view.contiguous().unwrap(), 0.5, Key::new(1)).unwrap();
        assert_eq!(values(&dropout(&view, 0.5, Key::new(1)).unwrap()), values(&want));
        let none = Var::zeros((0, 3), DType::F32, &Device::Cpu).unwrap();
        let y = dropout(&none, 0.5, Key::new(1)).unwrap();
        assert_eq!(y.sum_all().unwrap().backward().unwrap().get(&none).unwrap().dims(), [0, 3]);
        for p in [-0.1, 1.1, f64::NAN] {
            assert!(dropout(&x, p, Key::new(1)).unwrap_err().to_string().starts_with("dropout: p"));
        }
        let integers = x.to_dtype(DType::U32).unwrap();
        assert!(matches!(dropout(&integers, 0.5, Key::new(1)), Err(Error::Dtype { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn nothing_panics(count in 0_usize..200, p in 0_f64..=1., seed: u64) {
            let y = dropout(&ones(count), p, Key::new(seed)).unwrap();
            prop_assert_eq!(y.dims(), [count]);
        }
    }
}
