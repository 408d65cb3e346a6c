//! The four pixels around a position between pixels, for operations that sample maps bilinearly.

use rayon::prelude::*;

use super::support::Float;

/// The pixels around a position `(y, x)`, in the order (low, low), (low, high), (high, low), (high, high) of
/// rows and columns. `(0, 0)` is the centre of the first pixel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Corners<T> {
    /// Row of the two upper and of the two lower pixels, unless it lies outside.
    rows: [Option<usize>; 2],
    /// Column of the two left and of the two right pixels, unless it lies outside.
    columns: [Option<usize>; 2],
    /// Distance from the upper row, in `[0, 1)`.
    dy: T,
    /// Distance from the left column, in `[0, 1)`.
    dx: T,
}

/// The pixels below and above a coordinate, and its distance from the lower one.
fn neighbours<T: Float>(at: T, size: usize) -> ([Option<usize>; 2], T) {
    let low = at.to_f64().floor();
    // NaN and infinities are nowhere inside.
    let inside = |at: f64| (at >= 0. && at < size as f64).then_some(at as usize);
    ([inside(low), inside(low + 1.)], at - T::from_f64(low))
}

impl<T: Float> Corners<T> {
    /// The pixels around `position` in an image of `size` rows and columns.
    pub(super) fn new(position: [T; 2], size: [usize; 2]) -> Self {
        let (rows, dy) = neighbours(position[0], size[0]);
        let (columns, dx) = neighbours(position[1], size[1]);
        Self { rows, columns, dy, dx }
    }

    /// No pixel at all, without weight.
    pub(super) fn nowhere() -> Self {
        Self { rows: [None; 2], columns: [None; 2], dy: T::ZERO, dx: T::ZERO }
    }

    /// What each pixel counts for.
    pub(super) fn weights(&self) -> [T; 4] {
        let (ey, ex) = (T::ONE - self.dy, T::ONE - self.dx);
        [ey * ex, ey * self.dx, self.dy * ex, self.dy * self.dx]
    }

    /// Row and column of each pixel that lies inside.
    fn inside(&self) -> [Option<(usize, usize)>; 4] {
        let at = |row: usize, column: usize| Some((self.rows[row]?, self.columns[column]?));
        [at(0, 0), at(0, 1), at(1, 0), at(1, 1)]
    }

    /// The channels `from..from + len` of each pixel of an image of rows of `width` pixels of `c` channels.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must end up inside a function with vector instructions")]
    fn pixels<'a>(
        &self,
        image: &'a [T],
        [width, c]: [usize; 2],
        [from, len]: [usize; 2],
    ) -> [Option<&'a [T]>; 4] {
        self.inside().map(|at| {
            at.map(|(y, x)| {
                let start = (y * width + x) * c + from;
                &image[start..start + len]
            })
        })
    }

    /// Writes the interpolated channels `from..from + out.len()` times `scale`.
    ///
    /// Pixels outside are zero; where no position is a number neither is the result.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must end up inside a function with vector instructions")]
    pub(super) fn sample(&self, image: &[T], [width, c]: [usize; 2], from: usize, scale: T, out: &mut [T]) {
        let weights = self.weights().map(|weight| weight * scale);
        let pixels = self.pixels(image, [width, c], [from, out.len()]);
        if let [Some(p0), Some(p1), Some(p2), Some(p3)] = pixels {
            let [w0, w1, w2, w3] = weights;
            for ((((out, &a), &b), &c), &d) in out.iter_mut().zip(p0).zip(p1).zip(p2).zip(p3) {
                *out = a * w0 + b * w1 + c * w2 + d * w3;
            }
            return;
        }
        let outside = pixels.iter().zip(&weights).filter(|(pixel, _)| pixel.is_none());
        out.fill(outside.fold(T::ZERO, |sum, (_, &weight)| sum + T::ZERO * weight));
        for (pixel, weight) in pixels.into_iter().zip(weights) {
            if let Some(pixel) = pixel {
                for (out, &a) in out.iter_mut().zip(pixel) {
                    *out += a * weight;
                }
            }
        }
    }

    /// The products of `grad` with the channels `from..from + grad.len()` of each pixel; 0 outside.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must end up inside a function with vector instructions")]
    pub(super) fn products(&self, image: &[T], size: [usize; 2], from: usize, grad: &[T]) -> [T; 4] {
        let pixels = self.pixels(image, size, [from, grad.len()]);
        if let [Some(p0), Some(p1), Some(p2), Some(p3)] = pixels {
            return products(grad, [p0, p1, p2, p3]);
        }
        pixels.map(|pixel| pixel.map_or(T::ZERO, |pixel| products(grad, [pixel])[0]))
    }

    /// Derivatives of the interpolated value along (y, x), from values (or products with them) at the pixels.
    pub(super) fn slopes(&self, at: [T; 4]) -> [T; 2] {
        let (ey, ex) = (T::ONE - self.dy, T::ONE - self.dx);
        let [a, b, c, d] = at;
        [(c - a) * ex + (d - b) * self.dx, (b - a) * ey + (d - c) * self.dy]
    }

    /// Adds `grad` times weight and `scale` to the channels from `from` of those pixels whose rows `band` has.
    ///
    /// `first_row` is where the rows of the image start among those dealt out.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "must end up inside a function with vector instructions")]
    pub(super) fn scatter(
        &self,
        band: &mut Band<'_, T>,
        first_row: usize,
        [c, from]: [usize; 2],
        scale: T,
        grad: &[T],
    ) {
        for (at, weight) in self.inside().into_iter().zip(self.weights()) {
            let Some((y, x)) = at else { continue };
            let Some(row) = band.row(first_row + y) else { continue };
            let (weight, start) = (weight * scale, x * c + from);
            for (to, &g) in row[start..start + grad.len()].iter_mut().zip(grad) {
                *to += g * weight;
            }
        }
    }
}

/// Inner products of `grad` with vectors of the same length, in lanes whose order depends on the length only.
#[inline(always)]
#[allow(clippy::inline_always, reason = "must end up inside a function with vector instructions")]
fn products<T: Float, const N: usize>(grad: &[T], pixels: [&[T]; N]) -> [T; N] {
    const LANES: usize = 8;
    let mut lanes = [[T::ZERO; LANES]; N];
    let whole = grad.len() / LANES * LANES;
    for start in (0..whole).step_by(LANES) {
        let grad = &grad[start..start + LANES];
        for (lanes, pixel) in lanes.iter_mut().zip(&pixels) {
            for ((lane, &g), &a) in lanes.iter_mut().zip(grad).zip(&pixel[start..start + LANES]) {
                *lane += g * a;
            }
        }
    }
    let mut sums = lanes.map(|lanes| lanes.into_iter().fold(T::ZERO, |sum, lane| sum + lane));
    for (sum, pixel) in sums.iter_mut().zip(&pixels) {
        for (&g, &a) in grad[whole..].iter().zip(&pixel[whole..]) {
            *sum += g * a;
        }
    }
    sums
}

/// Rows of images, dealt out in turn: the part of them that one task may write.
pub(super) struct Band<'a, T> {
    rows: Vec<&'a mut [T]>,
    index: usize,
    bands: usize,
}

impl<T> Band<'_, T> {
    /// Row `y` of those dealt out if it belongs to this band.
    fn row(&mut self, y: usize) -> Option<&mut [T]> {
        if y % self.bands == self.index {
            self.rows.get_mut(y / self.bands).map(|row| &mut **row)
        } else {
            None
        }
    }
}

/// Calls `work` for bands of `images`, of rows of `row_len`, side by side.
///
/// Each row belongs to one call, so what is added to it arrives in the order of that call, whatever the number
/// of bands.
pub(super) fn for_each_band<T: Send>(
    images: &mut [T],
    row_len: usize,
    bands: usize,
    work: impl Fn(&mut Band<'_, T>) + Send + Sync,
) {
    if row_len == 0 {
        return;
    }
    let mut parts: Vec<Band<'_, T>> =
        (0..bands).map(|index| Band { rows: Vec::new(), index, bands }).collect();
    for (y, row) in images.chunks_mut(row_len).enumerate() {
        parts[y % bands].rows.push(row);
    }
    parts.par_iter_mut().for_each(work);
}

/// Bands per image that keep all threads busy.
pub(super) fn bands(images: usize) -> usize {
    rayon::current_num_threads().div_ceil(images.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pixels_around_a_position() {
        let image = [1.0f64, 2.0, 3.0, 4.0];
        let sample = |y, x| {
            let mut out = [9.0];
            Corners::new([y, x], [2, 2]).sample(&image, [2, 1], 0, 1.0, &mut out);
            out[0]
        };
        assert_eq!(sample(0.0, 0.0), 1.0);
        assert_eq!(sample(0.5, 0.5), 2.5);
        // Half of the position lies outside, where the map is zero.
        assert_eq!(sample(-0.5, 0.0), 0.5);
        assert_eq!(sample(1.0, 1.75), 1.0);
        assert_eq!(sample(-1.0, 0.0), 0.0);
        assert_eq!(sample(1e300, 0.0), 0.0);
        assert!(sample(f64::NAN, 0.0).is_nan());
    }

    #[test]
    fn bands_share_out_all_rows() {
        for bands in 1..5 {
            let mut image = vec![0.0f32; 7 * 2];
            for_each_band(&mut image, 2, bands, |band| {
                for y in 0..8 {
                    let corners = Corners::new([y as f32, 0.0], [7, 2]);
                    corners.scatter(band, 0, [1, 0], 2.0, &[(y + 1) as f32]);
                }
            });
            assert_eq!(image.iter().step_by(2).copied().collect::<Vec<_>>(), [2., 4., 6., 8., 10., 12., 14.]);
        }
    }

    #[test]
    fn products_of_any_length() {
        for len in [0, 1, 7, 8, 9, 31] {
            let a: Vec<f64> = (0..len).map(f64::from).collect();
            let want: f64 = a.iter().map(|a| a * a).sum();
            assert_eq!(products(&a, [&a, &a]), [want, want]);
        }
    }
}
