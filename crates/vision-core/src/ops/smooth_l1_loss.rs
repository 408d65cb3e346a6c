//! Smooth L1 loss, as `torch.nn.functional.smooth_l1_loss`: quadratic near zero, linear beyond.
//!
//! With `d = input - target` the loss of an element is `d^2 / (2 beta)` where `|d| < beta` and
//! `|d| - beta / 2` elsewhere; `beta = 0` is the plain L1 loss, whose derivative at zero is zero. `Mean`
//! divides by the number of elements and is NaN without any. Sums are accumulated in `f64`.

use candle_core::Tensor;

use super::bank_cross_entropy::exp::Score;
use super::cross_entropy::Reduction;
#[cfg(feature = "cuda")]
use super::pointwise_loss::cuda;
use super::pointwise_loss::{PointLoss, check_pair, pointwise_loss};
use crate::error::{Error, Result};

/// Options of [`smooth_l1_loss`]; the defaults are PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SmoothL1Args {
    /// Difference at which the loss becomes linear, at least 0. A detector's `sigma` is `beta = 1 / sigma^2`.
    pub beta: f64,
    /// How the losses of the elements become the result.
    pub reduction: Reduction,
}

impl Default for SmoothL1Args {
    fn default() -> Self {
        Self { beta: 1., reduction: Reduction::Mean }
    }
}

/// Smooth L1 loss of `input` against `target`, of the same shape and type (`f32` or `f64`): a scalar, or of
/// their shape with [`Reduction::None`]. Both get gradients.
///
/// # Errors
/// If shapes, types or devices do not fit, or `beta` is negative or not finite.
pub fn smooth_l1_loss(input: &Tensor, target: &Tensor, args: &SmoothL1Args) -> Result<Tensor> {
    check_pair("smooth_l1_loss", input, target)?;
    if !(args.beta >= 0. && args.beta.is_finite()) {
        return Err(Error::argument("smooth_l1_loss: beta", format!("{} is not at least 0", args.beta)));
    }
    pointwise_loss(SmoothL1 { beta: args.beta }, input, target, args.reduction)
}

struct SmoothL1 {
    beta: f64,
}

/// Losses from the sizes of differences.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
fn each<T: Score>(x: &[T], t: &[T], out: &mut [T], loss: impl Fn(T) -> T) {
    for (out, (&x, &t)) in out.iter_mut().zip(x.iter().zip(t)) {
        *out = loss((x - t).abs());
    }
}

/// Whether the number is a positive power of two, in the range of normal numbers of 32 bits.
fn power_of_two<T: Score>(x: T) -> bool {
    let x = x.to_f64();
    (f64::from(f32::MIN_POSITIVE)..=f64::from(f32::MAX)).contains(&x) && x.to_bits().trailing_zeros() >= 52
}

impl SmoothL1 {
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
    fn slopes<T: Score>(&self, x: &[T], t: &[T], scale: T, out: &mut [T]) {
        let beta = T::from_f64(self.beta);
        let inverse = if self.beta > 0. { T::ONE / beta } else { T::ZERO };
        for (out, (&x, &t)) in out.iter_mut().zip(x.iter().zip(t)) {
            let d = x - t;
            let inside = if beta > T::ZERO { d * inverse } else { d * T::ZERO };
            let inside = if d >= beta && d > T::ZERO { T::ONE } else { inside };
            *out = scale * if d <= -beta && d < T::ZERO { -T::ONE } else { inside };
        }
    }
}

impl PointLoss for SmoothL1 {
    const NAME: &'static str = "smooth_l1_loss";

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
    fn values<T: Score>(&self, _first: usize, x: &[T], t: &[T], out: &mut [T]) {
        let (beta, half) = (T::from_f64(self.beta), T::from_f64(0.5));
        let inverse = T::ONE / beta;
        // A product is cheaper, and the same number if one factor is a power of two.
        if power_of_two(beta) && power_of_two(inverse) {
            each(x, t, out, |d| if d < beta { half * d * d * inverse } else { d - half * beta });
        } else {
            // Without a quadratic part the comparison is false, and the division not looked at.
            each(x, t, out, |d| if d < beta { half * d * d / beta } else { d - half * beta });
        }
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
    fn input_slopes<T: Score>(&self, _first: usize, x: &[T], t: &[T], scale: T, out: &mut [T]) {
        self.slopes(x, t, scale, out);
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
    fn target_slopes<T: Score>(&self, _first: usize, x: &[T], t: &[T], scale: T, out: &mut [T]) {
        self.slopes(x, t, -scale, out);
    }

    #[cfg(feature = "cuda")]
    fn constants(&self) -> cuda::Constants {
        cuda::Constants { beta: self.beta, ..Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Key;
    use crate::testing::{assert_close, gradcheck};

    fn args(beta: f64, reduction: Reduction) -> SmoothL1Args {
        SmoothL1Args { beta, reduction }
    }

    fn random(name: &str, dims: &[usize]) -> Tensor {
        Key::new(2).fold(name).normal(dims, 0., 2., DType::F64, &Device::Cpu).unwrap()
    }

    #[test]
    fn quadratic_inside_linear_outside() {
        let x = Tensor::new(&[0., 0.5, -2., 3., f64::INFINITY], &Device::Cpu).unwrap();
        let zero = x.zeros_like().unwrap();
        let each =
            |beta| smooth_l1_loss(&x, &zero, &args(beta, Reduction::None)).unwrap().to_vec1::<f64>().unwrap();
        assert_eq!(each(1.), [0., 0.125, 1.5, 2.5, f64::INFINITY]);
        assert_eq!(each(0.), [0., 0.5, 2., 3., f64::INFINITY]);
        assert_eq!(each(4.), [0., 0.03125, 0.5, 1.125, f64::INFINITY]);
        assert_eq!(each(3.)[1..4], [0.5 * 0.5 * 0.5 / 3., 0.5 * 2. * 2. / 3., 1.5]);
        let finite = x.narrow(0, 0, 4).unwrap();
        let reduce = |r| {
            let zero = finite.zeros_like().unwrap();
            smooth_l1_loss(&finite, &zero, &args(1., r)).unwrap().to_scalar::<f64>().unwrap()
        };
        assert_eq!((reduce(Reduction::Sum), reduce(Reduction::Mean)), (4.125, 4.125 / 4.));
    }

    #[test]
    fn gradients() {
        let inputs = [random("x", &[3, 7]), random("t", &[3, 7])];
        for reduction in [Reduction::None, Reduction::Mean, Reduction::Sum] {
            for beta in [0., 0.3, 1., 5.] {
                gradcheck(|t| smooth_l1_loss(&t[0], &t[1], &args(beta, reduction)), &inputs, 1e-5, 1e-6)
                    .unwrap();
            }
        }
        // The plain L1 loss is flat at its minimum.
        let x = Var::new(&[1_f32, 2., 3.], &Device::Cpu).unwrap();
        let t = Tensor::new(&[1_f32, 1., 5.], &Device::Cpu).unwrap();
        let grads = smooth_l1_loss(&x, &t, &args(0., Reduction::Sum)).unwrap().backward().unwrap();
        assert_eq!(grads.get(&x).unwrap().to_vec1::<f32>().unwrap(), [0., 1., -1.]);
    }

    #[test]
    fn long_strided_and_empty_inputs() {
        let (x, t) = (random("x", &[301, 170]), random("t", &[301, 170]));
        let a = args(0.7, Reduction::Mean);
        let want = smooth_l1_loss(&x, &t, &args(0.7, Reduction::None)).unwrap().mean_all().unwrap();
        assert_close(&smooth_l1_loss(&x, &t, &a).unwrap(), &want, 1e-12, 0.).unwrap();
        let (xt, tt) = (x.t().unwrap(), t.t().unwrap());
        assert_close(&smooth_l1_loss(&xt, &tt, &a).unwrap(), &want, 1e-12, 0.).unwrap();
        let none = Var::zeros((0, 4), DType::F32, &Device::Cpu).unwrap();
        let sum = smooth_l1_loss(&none, &none, &args(1., Reduction::Sum)).unwrap();
        assert_eq!(sum.to_scalar::<f32>().unwrap(), 0.);
        assert_eq!(sum.backward().unwrap().get(&none).unwrap().dims(), [0, 4]);
        assert!(smooth_l1_loss(&none, &none, &a).unwrap().to_scalar::<f32>().unwrap().is_nan());
    }

    #[test]
    fn wrong_arguments_are_named() {
        let x = random("x", &[2, 3]);
        let text =
            |t: &Tensor, beta| smooth_l1_loss(&x, t, &args(beta, Reduction::Mean)).unwrap_err().to_string();
        assert!(text(&x, -1.).starts_with("smooth_l1_loss: beta"));
        assert!(text(&x, f64::NAN).starts_with("smooth_l1_loss: beta"));
        assert!(text(&x.t().unwrap(), 1.).starts_with("smooth_l1_loss: target"));
        assert!(text(&x.to_dtype(DType::F32).unwrap(), 1.).starts_with("smooth_l1_loss: target"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn nothing_panics(values in prop::collection::vec(prop::num::f32::ANY, 0..50), beta in 0_f64..3.) {
            let x = Var::new(values.as_slice(), &Device::Cpu).unwrap();
            let t = Var::new(values.iter().rev().copied().collect::<Vec<_>>(), &Device::Cpu).unwrap();
            let loss = smooth_l1_loss(&x, &t, &args(beta, Reduction::Mean)).unwrap();
            let grads = loss.backward().unwrap();
            prop_assert_eq!(grads.get(&x).unwrap().dims(), [values.len()]);
        }
    }
}
