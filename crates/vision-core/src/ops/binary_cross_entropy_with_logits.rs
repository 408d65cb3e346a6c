//! Binary cross entropy of logits, as `torch.nn.functional.binary_cross_entropy_with_logits`.
//!
//! With target `t` in `[0, 1]` (not checked, as in PyTorch), weight `w` and weight of positives `q` (both 1
//! unless given), the loss of logit `x` is `w ((1 - t) x + (1 + (q - 1) t) ln(1 + e^-x))`. The logarithm is
//! taken as `max(-x, 0) + ln(1 + e^-|x|)`, so no finite logit overflows. `Mean` divides by the number of
//! elements, whatever the weights, and is NaN without any. Sums are accumulated in `f64`.

use candle_core::{DType, Tensor};

use super::bank_cross_entropy::exp::Score;
use super::cross_entropy::Reduction;
#[cfg(feature = "cuda")]
use super::pointwise_loss::cuda;
use super::pointwise_loss::{BLOCK, PointLoss, check_pair, pointwise_loss};
use super::support::{check_float, check_same_device};
use crate::error::{Error, Result};

/// Options of [`binary_cross_entropy_with_logits`]; the defaults are PyTorch's.
#[derive(Clone, Debug, Default)]
pub struct BceWithLogitsArgs {
    /// Factor of every loss; of a float type and any shape that broadcasts to the input's. It gets no gradient.
    pub weight: Option<Tensor>,
    /// Factor of the positive part, such as `(C,)` for an input `(N, C)`; as `weight`.
    pub pos_weight: Option<Tensor>,
    /// How the losses of the elements become the result.
    pub reduction: Reduction,
}

/// Binary cross entropy of logits `input` against `target`, of the same shape and type (`f32` or `f64`): a
/// scalar, or of their shape with [`Reduction::None`]. Both get gradients.
///
/// # Errors
/// If shapes, types or devices do not fit, or a weight takes part in a graph.
pub fn binary_cross_entropy_with_logits(
    input: &Tensor,
    target: &Tensor,
    args: &BceWithLogitsArgs,
) -> Result<Tensor> {
    check_pair(NAME, input, target)?;
    let weight = |name: &str, weight: Option<&Tensor>| {
        weight.map(|weight| Factor::new(&format!("{NAME}: {name}"), weight, input)).transpose()
    };
    let loss = Bce {
        weight: weight("weight", args.weight.as_ref())?,
        pos_weight: weight("pos_weight", args.pos_weight.as_ref())?,
    };
    pointwise_loss(loss, input, target, args.reduction)
}

const NAME: &str = "binary_cross_entropy_with_logits";

/// Numbers that repeat along the elements of the input.
struct Factor {
    numbers: Vec<f64>,
    /// Instead of the numbers, if the input is on a CUDA device; of its type.
    #[cfg(feature = "cuda")]
    on_device: Option<Tensor>,
}

impl Factor {
    fn new(what: &str, weight: &Tensor, input: &Tensor) -> Result<Self> {
        check_float(what, weight)?;
        check_same_device(what, weight, input)?;
        if weight.track_op() {
            return Err(Error::argument(what, "weights get no gradient; detach them"));
        }
        let own: Vec<usize> = weight.dims().iter().copied().skip_while(|&size| size == 1).collect();
        // A row of the input, as class weights are: repeating it is all there is to broadcasting.
        let weight = if input.dims().ends_with(&own) {
            weight.clone()
        } else {
            let wrong = |_| Error::shape(what, format!("{:?}, broadcast", input.dims()), weight.dims());
            weight.broadcast_as(input.shape()).map_err(wrong)?
        };
        #[cfg(feature = "cuda")]
        if input.device().is_cuda() {
            // Nobody reads the factors of no elements, and the tensor library cannot convert them.
            let empty = input.elem_count() == 0;
            let on_device = if empty { None } else { Some(weight.to_dtype(input.dtype())?.contiguous()?) };
            return Ok(Self { numbers: Vec::new(), on_device });
        }
        Ok(Self {
            numbers: weight.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?,
            #[cfg(feature = "cuda")]
            on_device: None,
        })
    }

    /// Writes the factors of the elements from number `first` on.
    fn fill<T: Score>(&self, first: usize, out: &mut [T]) {
        if let [single] = self.numbers[..] {
            return out.fill(T::from_f64(single));
        }
        let mut start = first % self.numbers.len().max(1);
        let mut rest = out;
        while !rest.is_empty() && start < self.numbers.len() {
            let (part, behind) = rest.split_at_mut(rest.len().min(self.numbers.len() - start));
            for (out, &factor) in part.iter_mut().zip(&self.numbers[start..]) {
                *out = T::from_f64(factor);
            }
            (start, rest) = (0, behind);
        }
    }
}

struct Bce {
    weight: Option<Factor>,
    pos_weight: Option<Factor>,
}

impl Bce {
    /// `q - 1` of every element; nothing where it is zero throughout.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
    fn extra<'a, T: Score>(&self, first: usize, buffer: &'a mut [T]) -> Option<&'a [T]> {
        let factor = self.pos_weight.as_ref()?;
        factor.fill(first, buffer);
        for q in buffer.iter_mut() {
            *q -= T::ONE;
        }
        Some(buffer)
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
    fn weigh<T: Score>(&self, first: usize, out: &mut [T]) {
        if let Some(factor) = &self.weight {
            let mut buffer = [T::ZERO; BLOCK];
            let weights = &mut buffer[..out.len()];
            factor.fill(first, weights);
            for (out, &w) in out.iter_mut().zip(&*weights) {
                *out *= w;
            }
        }
    }
}

/// `ln(1 + e)` for `e` in `[0, 1]`, without calls and branches, to the last bits of the type.
///
/// `ln(1 + e) = 2 artanh(e / (2 + e))`, and the series of artanh converges fast up to 1/3.
#[inline(always)]
#[allow(clippy::inline_always, reason = "part of vectorised loops")]
fn ln_1p_unit<T: Score>(e: T) -> T {
    let terms = if size_of::<T>() == 4 { 8 } else { 17 };
    let s = e / (T::ONE + T::ONE + e);
    let z = s * s;
    let mut sum = T::ZERO;
    for k in (0..terms).rev() {
        sum = sum * z + T::from_f64(1. / f64::from(2 * k + 1));
    }
    (s + s) * sum
}

/// `ln(1 + e^-x)`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "part of vectorised loops")]
fn softplus_of_negative<T: Score>(x: T) -> T {
    let negative = if x < T::ZERO { -x } else { T::ZERO };
    negative + ln_1p_unit((-x.abs()).exp_nonpositive())
}

/// `1 / (1 + e^x)`.
#[inline(always)]
#[allow(clippy::inline_always, reason = "part of vectorised loops")]
fn sigmoid_of_negative<T: Score>(x: T) -> T {
    let e = (-x.abs()).exp_nonpositive();
    let top = if x >= T::ZERO { e } else { T::ONE };
    top / (T::ONE + e)
}

impl PointLoss for Bce {
    const NAME: &'static str = NAME;

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
    fn values<T: Score>(&self, first: usize, x: &[T], t: &[T], out: &mut [T]) {
        let mut buffer = [T::ZERO; BLOCK];
        match self.extra(first, &mut buffer[..x.len()]) {
            None => {
                for (out, (&x, &t)) in out.iter_mut().zip(x.iter().zip(t)) {
                    *out = (T::ONE - t) * x + softplus_of_negative(x);
                }
            }
            Some(extra) => {
                for ((out, (&x, &t)), &extra) in out.iter_mut().zip(x.iter().zip(t)).zip(extra) {
                    *out = (T::ONE - t) * x + (extra * t + T::ONE) * softplus_of_negative(x);
                }
            }
        }
        self.weigh(first, out);
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
    fn input_slopes<T: Score>(&self, first: usize, x: &[T], t: &[T], scale: T, out: &mut [T]) {
        let mut buffer = [T::ZERO; BLOCK];
        match self.extra(first, &mut buffer[..x.len()]) {
            None => {
                for (out, (&x, &t)) in out.iter_mut().zip(x.iter().zip(t)) {
                    *out = scale * ((T::ONE - t) - sigmoid_of_negative(x));
                }
            }
            Some(extra) => {
                for ((out, (&x, &t)), &extra) in out.iter_mut().zip(x.iter().zip(t)).zip(extra) {
                    *out = scale * ((T::ONE - t) - (extra * t + T::ONE) * sigmoid_of_negative(x));
                }
            }
        }
        self.weigh(first, out);
    }

    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must be compiled with the features of `vectorised`")]
    fn target_slopes<T: Score>(&self, first: usize, x: &[T], _t: &[T], scale: T, out: &mut [T]) {
        let mut buffer = [T::ZERO; BLOCK];
        match self.extra(first, &mut buffer[..x.len()]) {
            None => {
                for (out, &x) in out.iter_mut().zip(x) {
                    *out = -scale * x;
                }
            }
            Some(extra) => {
                for ((out, &x), &extra) in out.iter_mut().zip(x).zip(extra) {
                    *out = scale * (extra * softplus_of_negative(x) - x);
                }
            }
        }
        self.weigh(first, out);
    }

    #[cfg(feature = "cuda")]
    fn constants(&self) -> cuda::Constants {
        let on_device = |factor: &Option<Factor>| factor.as_ref().and_then(|f| f.on_device.clone());
        cuda::Constants { weight: on_device(&self.weight), pos_weight: on_device(&self.pos_weight), beta: 0. }
    }
}

#[cfg(test)]
mod tests;
