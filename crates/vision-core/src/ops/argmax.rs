//! Gradients of maxima that remember where they came from.

use rayon::prelude::*;

use super::support::Float;

/// Stands for "no pixel": a window that saw padding only.
pub(super) const OUTSIDE: u32 = u32::MAX;

/// Adds each element of `grad`, `(N, outputs, C)`, to the pixel of its image that `argmax` names: the result is
/// `(N, pixels, C)`.
pub(super) fn add_to_argmax<T: Float>(
    argmax: &[u32],
    grad: &[T],
    [batch, pixels, outputs, channels]: [usize; 4],
) -> Vec<T> {
    let mut out = vec![T::ZERO; batch * pixels * channels];
    let part = outputs * channels;
    if out.is_empty() || part == 0 {
        return out;
    }
    // Windows of one image may overlap, those of two images may not.
    let images = out.par_chunks_mut(pixels * channels);
    images.zip(grad.par_chunks(part).zip(argmax.par_chunks(part))).for_each(|(image, (grad, argmax))| {
        for (grad, argmax) in grad.chunks_exact(channels).zip(argmax.chunks_exact(channels)) {
            for (channel, (&g, &at)) in grad.iter().zip(argmax).enumerate() {
                if at != OUTSIDE {
                    image[at as usize * channels + channel] += g;
                }
            }
        }
    });
    out
}
