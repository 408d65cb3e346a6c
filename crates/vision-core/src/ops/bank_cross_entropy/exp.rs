//! Exponentials of shifted scores, fast enough to stand beside a matrix product.

use crate::ops::support::Float;

/// A float type with a fast exponential for numbers that are not positive.
pub(in crate::ops) trait Score: Float {
    /// `e^self` for `self <= 0`; NaN stays NaN, numbers far below zero give 0.
    fn exp_nonpositive(self) -> Self;
}

impl Score for f64 {
    fn exp_nonpositive(self) -> Self {
        self.exp()
    }
}

impl Score for f32 {
    /// No calls and no branches, so that a loop over it becomes vector instructions: `e^x = 2^n e^r` with
    /// `n` the nearest integer to `x / ln 2`. The relative error is below 2e-7; below -87, where results
    /// leave the range of normal numbers, it returns 0.
    #[inline]
    fn exp_nonpositive(self) -> Self {
        // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
        const ROUND: f32 = 12_582_912.;
        // ln 2 in two parts; products of the first with small integers are exact.
        const LN_2_HIGH: f32 = 355. / 512.;
        const LN_2_LOW: f32 = -2.121_944_4e-4;
        let shifted = self * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = self - n * LN_2_HIGH - n * LN_2_LOW;
        let mut series = 1. / 5040.;
        for coefficient in [1. / 720., 1. / 120., 1. / 24., 1. / 6., 0.5, 1., 1.] {
            series = series * r + coefficient;
        }
        let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
        if self < -87. { 0. } else { series * power }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_to_the_standard_function() {
        for i in 0..=870_000 {
            let x = -(i as f32) * 1e-4;
            let want = f64::from(x).exp();
            let error = (f64::from(x.exp_nonpositive()) - want).abs() / want;
            assert!(error < 2e-7, "{x}: {error:e}");
        }
        assert_eq!(0_f32.exp_nonpositive(), 1.);
        for x in [-88., -1e30, f32::NEG_INFINITY] {
            assert_eq!(x.exp_nonpositive(), 0., "{x}");
        }
        assert!(f32::NAN.exp_nonpositive().is_nan());
    }
}
