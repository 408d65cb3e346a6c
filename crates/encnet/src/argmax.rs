//! Decisions.

use rayon::prelude::*;

/// The place of the largest of each `classes` numbers, one group after another; among equals the first.
pub(crate) fn argmax(values: &[f32], classes: usize) -> Vec<u32> {
    let best = |values: &[f32]| {
        let larger = |best: (u32, f32), (class, &value): (u32, &f32)| {
            if value > best.1 { (class, value) } else { best }
        };
        (0..).zip(values).fold((0, f32::NEG_INFINITY), larger).0
    };
    values.par_chunks(classes.max(1)).with_min_len(1 << 10).map(best).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_the_largest() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0, -2.0, -5.0, -2.0], 3), [1, 0]);
        assert_eq!(argmax(&[f32::NAN, 1.0, f32::NEG_INFINITY, f32::NEG_INFINITY], 2), [1, 0]);
        assert_eq!(argmax(&[], 0), [0; 0]);
        let many: Vec<f32> = (0..300).map(|class| if class == 299 { 1.0 } else { 0.0 }).collect();
        assert_eq!(argmax(&many, 300), [299]);
    }
}
