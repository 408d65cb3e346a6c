//! The training objectives: full non-parametric softmax, NCE, InfoNCE and the proximal term
//! (paper §3.1-3.3).
//!
//! All of them compare the features of a batch, `(B, D)` of unit length, with rows of the
//! [memory bank](crate::bank::MemoryBank). The functions are the formulas; [`Criterion`] chooses among
//! them, draws negatives and keeps the normaliser `Z`.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};
use vision_core::ops;

use crate::error::{Error, Result};

mod criterion;

pub use criterion::{Criterion, LossOutput};

/// The constant the released code adds inside both logarithms of the NCE loss.
pub const NCE_EPSILON: f64 = 1e-7;

/// Two ways to write the same NCE loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NceForm {
    /// As the released code: probabilities with [`NCE_EPSILON`] in the denominators, which adds about
    /// `n·1e-7` to the loss. Overflows at small temperatures.
    Epsilon,
    /// `softplus(∓(s − ln Z − ln(m/n)))`: no epsilon, finite for all scores.
    #[default]
    LogSpace,
}

/// Scores `V[index]·f / τ`, `(B, K)`, for rows `index` `(B, K)`; gradient to the features only.
///
/// # Errors
/// If shapes disagree, an index is not a row, or `tau` is not positive.
pub fn scores(features: &Tensor, bank: &Tensor, index: &Tensor, tau: f64) -> Result<Tensor> {
    check_tau(tau)?;
    Ok(ops::gather_scores(features, bank, index, 1.0 / tau)?)
}

/// Full non-parametric softmax (paper Eq. 2-3): mean over the batch of `−ln softmax(V·f/τ)[target]`.
///
/// Works in tiles of the bank, so memory stays at `O(B·D)` even for a million rows.
///
/// # Errors
/// If shapes disagree, a target is not a row, or `tau` is not positive.
pub fn full_softmax(features: &Tensor, bank: &Tensor, target: &Tensor, tau: f64) -> Result<Tensor> {
    check_tau(tau)?;
    Ok(ops::bank_cross_entropy(features, bank, target, 1.0 / tau)?.mean_all()?)
}

/// The Monte-Carlo estimate of the normaliser from one batch of scores: `Z = n · mean(exp(s))`, positives
/// included, as the released code does (paper Eq. 8 averages over the sampled rows; the difference is
/// `O(1/m)`).
///
/// # Errors
/// If there are no scores or the estimate is not finite and positive.
pub fn first_batch_z(scores: &Tensor, n: usize) -> Result<f64> {
    if scores.elem_count() == 0 {
        return Err(Error::size("scores for Z", "at least one", 0));
    }
    let z = scores.detach().to_dtype(DType::F64)?.exp()?.mean_all()?.to_scalar::<f64>()? * n as f64;
    if z.is_finite() && z > 0.0 {
        Ok(z)
    } else {
        Err(Error::config(
            "loss.temperature",
            format!("the normaliser Z is {z}: scores are out of range, raise the temperature"),
        ))
    }
}

/// Noise-contrastive estimation (paper Eq. 5-7) of scores `(B, m + 1)`, already divided by `τ`, column 0
/// the positive: mean over the batch of `−ln h(0) − Σ_k ln(1 − h(k))` with
/// `h = P/(P + m/n)`, `P = exp(s)/Z`.
///
/// # Errors
/// If there is no negative, or `n` or `z` is not positive.
pub fn nce(scores: &Tensor, n: usize, z: f64, form: NceForm) -> Result<Tensor> {
    let (batch, columns) = scores.dims2()?;
    if columns < 2 {
        return Err(Error::size(
            "nce scores",
            "(B, m + 1) with m at least 1",
            format!("({batch}, {columns})"),
        ));
    }
    if n == 0 || !(z.is_finite() && z > 0.0) {
        return Err(Error::config("loss.z", format!("needs n > 0 and a positive Z, got n = {n}, Z = {z}")));
    }
    let noise = (columns - 1) as f64 / n as f64;
    let per_sample = match form {
        NceForm::LogSpace => {
            let odds = (scores - (z.ln() + noise.ln()))?;
            let positive = ops::softplus(&odds.narrow(1, 0, 1)?.neg()?)?.sum(1)?;
            let negative = ops::softplus(&odds.narrow(1, 1, columns - 1)?.contiguous()?)?.sum(1)?;
            (positive + negative)?
        }
        NceForm::Epsilon => {
            let p = (scores.exp()? * (1.0 / z))?;
            let all = (&p + (noise + NCE_EPSILON))?;
            let positive = (all.narrow(1, 0, 1)?.log()? - p.narrow(1, 0, 1)?.log()?)?.sum(1)?;
            let negative = (all.narrow(1, 1, columns - 1)?.log()? - noise.ln())?.sum(1)?;
            (positive + negative)?
        }
    };
    Ok(per_sample.mean_all()?)
}

/// Softmax cross entropy over the same scores `(B, m + 1)` with the positive in column 0; no `Z`.
///
/// # Errors
/// If the scores are not a matrix.
pub fn info_nce(scores: &Tensor) -> Result<Tensor> {
    let (batch, _) = scores.dims2()?;
    let target = Tensor::zeros(batch, DType::U32, scores.device())?;
    Ok(ops::cross_entropy(scores, &target, &ops::CrossEntropyArgs::default())?)
}

/// The proximal term (paper Eq. 9-10): mean over the batch of `λ·‖f − v‖²`, `v` the bank rows of the
/// previous epoch `(B, D)`. For unit vectors this is `2λ(1 − f·v)`.
///
/// # Errors
/// If shapes disagree.
pub fn proximal(features: &Tensor, previous: &Tensor, lambda: f64) -> Result<Tensor> {
    if features.dims() != previous.dims() {
        return Err(Error::size(
            "proximal: previous rows",
            format!("{:?}", features.dims()),
            format!("{:?}", previous.dims()),
        ));
    }
    let per_sample = (features - previous.detach())?.sqr()?.sum(1)?;
    Ok((per_sample.mean_all()? * lambda)?)
}

fn check_tau(tau: f64) -> Result<()> {
    if tau > 0.0 && tau.is_finite() {
        Ok(())
    } else {
        Err(Error::config("loss.temperature", format!("must be positive, is {tau}")))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};
    use vision_core::rng::Key;
    use vision_core::testing::gradcheck;

    use super::*;
    use crate::sampler::NegativeSampler;

    fn unit(rows: usize, dim: usize, seed: u64) -> Tensor {
        let x = Key::new(seed).normal((rows, dim), 0.0, 1.0, DType::F64, &Device::Cpu).unwrap();
        ops::l2_normalize(&x, 1e-12).unwrap()
    }

    fn scalar(x: &Tensor) -> f64 {
        x.to_dtype(DType::F64).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn gradients_match_finite_differences() {
        let (f, v) = (unit(3, 8, 1), unit(20, 8, 2));
        let target = Tensor::new(&[4u32, 0, 19], &Device::Cpu).unwrap();
        let index = NegativeSampler::new(20).unwrap().draw(Key::new(3), &[4, 0, 19], 6).unwrap();
        gradcheck(
            |x| Ok(full_softmax(&x[0], &v, &target, 0.1).unwrap()),
            std::slice::from_ref(&f),
            1e-6,
            1e-6,
        )
        .unwrap();
        for form in [NceForm::Epsilon, NceForm::LogSpace] {
            gradcheck(
                |x| Ok(nce(&scores(&x[0], &v, &index, 0.1).unwrap(), 20, 300.0, form).unwrap()),
                std::slice::from_ref(&f),
                1e-6,
                1e-6,
            )
            .unwrap();
        }
        gradcheck(
            |x| Ok(info_nce(&scores(&x[0], &v, &index, 0.1).unwrap()).unwrap()),
            std::slice::from_ref(&f),
            1e-6,
            1e-6,
        )
        .unwrap();
        let old = unit(3, 8, 5);
        gradcheck(|x| Ok(proximal(&x[0], &old, 30.0).unwrap()), &[f], 1e-6, 1e-6).unwrap();
    }

    #[test]
    fn proximal_is_two_lambda_one_minus_cosine() {
        let (f, v) = (unit(5, 16, 1), unit(5, 16, 2));
        let cosine = scalar(&(&f * &v).unwrap().sum(1).unwrap().mean_all().unwrap());
        let loss = scalar(&proximal(&f, &v, 30.0).unwrap());
        assert!((loss - 60.0 * (1.0 - cosine)).abs() < 1e-6);
        assert!(proximal(&f, &unit(4, 16, 2), 1.0).is_err());
    }

    #[test]
    fn the_epsilon_form_adds_n_times_epsilon() {
        // The two forms differ by about n·1e-7, 0.128 for the 1,281,167 pictures of ImageNet.
        let n = 1_281_167;
        let s = Key::new(4).uniform((8, 4097), -3.0, 3.0, DType::F64, &Device::Cpu).unwrap();
        let z = first_batch_z(&s, n).unwrap();
        let difference = scalar(&nce(&s, n, z, NceForm::Epsilon).unwrap())
            - scalar(&nce(&s, n, z, NceForm::LogSpace).unwrap());
        let expected = n as f64 * NCE_EPSILON;
        assert!((difference - expected).abs() < 0.1 * expected, "{difference}");
    }

    #[test]
    fn the_probabilities_of_the_batch_that_sets_z_add_up() {
        // ΣP = B(m+1)/n exactly.
        let s = Key::new(4).uniform((6, 33), -9.0, 9.0, DType::F64, &Device::Cpu).unwrap();
        let z = first_batch_z(&s, 500).unwrap();
        let sum = scalar(&s.exp().unwrap().sum_all().unwrap()) / z;
        assert!((sum - 6.0 * 33.0 / 500.0).abs() < 1e-9);
    }

    #[test]
    fn no_gradient_reaches_the_bank() {
        let f = Var::from_tensor(&unit(3, 8, 1)).unwrap();
        let v = Var::from_tensor(&unit(20, 8, 2)).unwrap();
        let target = Tensor::new(&[4u32, 0, 19], &Device::Cpu).unwrap();
        let grads = full_softmax(&f, &v, &target, 0.1).unwrap().backward().unwrap();
        assert!(grads.get(&f).is_some() && grads.get(&v).is_none());
    }

    #[test]
    fn impossible_arguments_are_refused() {
        let (f, v) = (unit(2, 8, 1), unit(5, 8, 2));
        let target = Tensor::new(&[0u32, 5], &Device::Cpu).unwrap();
        assert!(full_softmax(&f, &v, &target, 0.1).is_err());
        assert!(full_softmax(&f, &v, &Tensor::new(&[0u32, 1], &Device::Cpu).unwrap(), 0.0).is_err());
        let s = Tensor::zeros((2, 1), DType::F64, &Device::Cpu).unwrap();
        assert!(nce(&s, 5, 1.0, NceForm::LogSpace).is_err());
        let s = Tensor::zeros((2, 3), DType::F64, &Device::Cpu).unwrap();
        assert!(nce(&s, 5, f64::NAN, NceForm::LogSpace).is_err());
        let huge = (Tensor::ones((2, 3), DType::F64, &Device::Cpu).unwrap() * 1e4).unwrap();
        assert!(first_batch_z(&huge, 5).unwrap_err().to_string().contains("temperature"));
    }
}
