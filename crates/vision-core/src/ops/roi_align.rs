//! RoIAlign (He et al., "Mask R-CNN", 2017), as torchvision 0.29's `roi_align`.
//!
//! A box times `spatial_scale`, less half a pixel if `aligned`, is cut into cells; a cell is the mean of
//! `sampling_ratio^2` samples between pixels, in the middles of its equal parts. With ratio 0 there are about as
//! many samples as the cell has pixels: `ceil(height / PH)` down and likewise across. Rows in `[-1, H]` count as
//! inside and are moved to the nearest pixel centre; samples beyond are 0 but counted. Without `aligned` a box is
//! at least one pixel wide and high.
//!
//! Differentiable in the map. Boxes must be finite; those beyond the map give 0.

use candle_core::Tensor;

use super::regions::{Grid, Region, Taps, WeightedSum, check_cells, check_map, regions, rounded, with_nchw};
use crate::FeatureMap;
use crate::error::Result;

/// Options of [`roi_align`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoiAlignArgs {
    /// Cells per region: rows, columns.
    pub output_size: [usize; 2],
    /// Pixels of the map per unit of the boxes, such as 1/16.
    pub spatial_scale: f64,
    /// Samples per cell along each axis; 0 for as many as the cell has pixels (torchvision writes -1).
    pub sampling_ratio: usize,
    /// Whether coordinate 0 is the corner of the first pixel and not its centre.
    pub aligned: bool,
}

impl Default for RoiAlignArgs {
    /// 7 x 7 cells, and otherwise torchvision's defaults: scale 1, ratio 0, not aligned.
    fn default() -> Self {
        Self { output_size: [7, 7], spatial_scale: 1.0, sampling_ratio: 0, aligned: false }
    }
}

/// Pools `boxes`, `(K, 5)` of picture number and `x1, y1, x2, y2`, from `input`, `(N, C, H, W)`, as
/// `(K, C, PH, PW)`.
///
/// # Errors
/// If shapes, element types (`f32` or `f64`, both the same) or devices do not fit, the map has no pixels, a size
/// is 0, the scale is not positive, a box is not finite or its picture not in the batch.
pub fn roi_align(input: &Tensor, boxes: &Tensor, args: &RoiAlignArgs) -> Result<Tensor> {
    with_nchw("roi_align", input, |map| roi_align_nhwc(map, boxes, args))
}

/// [`roi_align`] of a feature map.
///
/// # Errors
/// As [`roi_align`].
pub fn roi_align_nhwc(input: &FeatureMap, boxes: &Tensor, args: &RoiAlignArgs) -> Result<FeatureMap> {
    let dims = check_map("roi_align", input)?;
    check_cells("roi_align", args.output_size, args.spatial_scale, boxes, dims[3])?;
    let regions = regions("roi_align", input.nhwc(), boxes)?;
    let shift = if args.aligned { 0.5 } else { 0.0 };
    let least = if args.aligned { f64::NEG_INFINITY } else { 1.0 };
    let rounded = rounded(input.nhwc().dtype());
    let scale = rounded(args.spatial_scale);
    let axis = |axis: usize| {
        let mut taps = Taps::default();
        for Region { sides, .. } in &regions {
            let place = |side: f64| rounded(rounded(side * scale) - shift);
            let start = place(sides[1 - axis]);
            let length = rounded(place(sides[3 - axis]) - start).max(least);
            let count = args.output_size[axis];
            let cells = Cells { start, cell: rounded(length / count as f64), count };
            cells.sample(args.sampling_ratio, dims[1 + axis], &mut taps);
        }
        taps
    };
    let op = WeightedSum {
        name: "roi_align",
        grid: Grid { input: dims, cells: args.output_size, group_size: [1, 1], runs: 1 },
        images: regions.iter().map(|region| region.image).collect(),
        rows: axis(0),
        columns: axis(1),
        fill: 0.0,
    };
    op.apply(input)
}

/// A stretch of an axis, cut into equal cells.
pub(super) struct Cells {
    pub(super) start: f64,
    /// Length of a cell; negative for boxes that are inside out.
    pub(super) cell: f64,
    pub(super) count: usize,
}

impl Cells {
    /// Means of `ratio` samples per cell, or of as many as a cell has pixels, on an axis of `size` pixels.
    pub(super) fn sample(&self, ratio: usize, size: usize, taps: &mut Taps) {
        let cell = self.cell;
        let samples = if ratio > 0 { ratio as f64 } else { cell.ceil().max(0.0) };
        let step = cell / samples.max(1.0);
        let last = size as f64 - 1.0;
        let finite = self.start.is_finite() && cell.is_finite();
        for index in 0..self.count {
            let start = self.start + index as f64 * cell;
            // Boxes may be far larger than the map: only samples about [-1, size] are visited.
            let number = |at: f64| (at - start) / step - 0.5;
            let (mut low, mut high) = (0.0, samples - 1.0);
            if step != 0.0 {
                let (first, end) = if step > 0.0 { (-1.0, last + 1.0) } else { (last + 1.0, -1.0) };
                low = number(first).floor().max(low);
                high = number(end).ceil().min(high);
            }
            if finite && low <= high {
                // As many samples as pixels are at most two per pixel.
                let most = if ratio > 0 { ratio } else { 2 * size + 4 };
                for sample in 0..=((high - low) as usize).min(most) {
                    Self::add(start + (low + sample as f64 + 0.5) * step, size, taps);
                }
            }
            // Also samples outside count.
            taps.scale(1.0 / samples.max(1.0));
            taps.end();
        }
    }

    /// Adds a sample at `at`, unless it is outside.
    fn add(at: f64, size: usize, taps: &mut Taps) {
        let last = size as f64 - 1.0;
        if (-1.0..=last + 1.0).contains(&at) {
            let at = at.clamp(0.0, last);
            let pixel = at as usize;
            let beyond = at - pixel as f64;
            taps.add(pixel, 1.0 - beyond);
            if pixel + 1 < size {
                taps.add(pixel + 1, beyond);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Key;
    use crate::testing::gradcheck;

    fn ramp(h: usize, w: usize) -> Tensor {
        let values: Vec<f64> = (0..h * w).map(|i| (i / w * 10 + i % w) as f64).collect();
        Tensor::from_vec(values, (1, 1, h, w), &Device::Cpu).unwrap()
    }

    fn boxes(rows: &[[f64; 5]]) -> Tensor {
        let numbers: Vec<f64> = rows.iter().flatten().copied().collect();
        Tensor::from_vec(numbers, (rows.len(), 5), &Device::Cpu).unwrap()
    }

    fn flat(t: &Tensor) -> Vec<f64> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn means_of_a_ramp_are_its_values_at_the_middle() {
        let args = RoiAlignArgs { output_size: [1, 2], aligned: true, ..RoiAlignArgs::default() };
        // Pixels 1 to 3 down and 2 to 6 across; the middle of the left half is at (1.5, 2.5) between centres.
        let y = roi_align(&ramp(8, 8), &boxes(&[[0., 2., 1., 6., 3.]]), &args).unwrap();
        assert_eq!(flat(&y), [17.5, 19.5]);
        let legacy = RoiAlignArgs { aligned: false, sampling_ratio: 3, ..args };
        let y = roi_align(&ramp(8, 8), &boxes(&[[0., 2., 1., 6., 3.]]), &legacy).unwrap();
        assert_eq!(flat(&y).map_round(), [23.0, 25.0]);
    }

    trait MapRound {
        fn map_round(self) -> Vec<f64>;
    }
    impl MapRound for Vec<f64> {
        fn map_round(self) -> Vec<f64> {
            self.into_iter().map(|x| (x * 1e9).round() / 1e9).collect()
        }
    }

    #[test]
    fn far_huge_and_inverted_boxes_end_quickly() {
        let args = RoiAlignArgs { output_size: [2, 2], aligned: true, ..RoiAlignArgs::default() };
        let odd = [
            [0., 100., 100., 120., 130.],
            [0., -1e9, -1e9, 1e9, 1e9],
            [0., 5., 5., 1., 1.],
            [0., -1e300, 0., 1e300, 1.],
        ];
        let y = flat(&roi_align(&ramp(8, 8), &boxes(&odd), &args).unwrap());
        assert_eq!(y[..4], [0.0; 4]);
        assert!(y.iter().all(|y| y.is_finite()), "{y:?}");
    }

    #[test]
    fn gradient_of_the_map() {
        let x = Key::new(1).normal((2, 3, 7, 6), 0., 1., DType::F64, &Device::Cpu).unwrap();
        let at = boxes(&[[0., 0.3, 1.2, 4.9, 5.1], [1., -2., -2., 9., 9.], [0., 2., 2., 2., 2.]]);
        for (sampling_ratio, aligned) in [(0, true), (2, false), (3, true)] {
            let args = RoiAlignArgs { output_size: [3, 2], spatial_scale: 0.9, sampling_ratio, aligned };
            gradcheck(|t| roi_align(&t[0], &at, &args), std::slice::from_ref(&x), 1e-6, 1e-8).unwrap();
        }
    }

    #[test]
    fn the_gradient_does_not_depend_on_the_number_of_threads() {
        let x = Key::new(1).normal((2, 5, 16, 16), 0., 1., DType::F32, &Device::Cpu).unwrap();
        let at = Key::new(2).uniform((40, 4), 0., 16., DType::F32, &Device::Cpu).unwrap();
        let at = Tensor::cat(&[&Tensor::zeros((40, 1), DType::F32, &Device::Cpu).unwrap(), &at], 1).unwrap();
        let gradient = |threads| {
            rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(|| {
                let x = candle_core::Var::from_tensor(&x).unwrap();
                let y = roi_align(&x, &at, &RoiAlignArgs::default()).unwrap();
                let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
                grads.get(&x).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
            })
        };
        assert_eq!(gradient(1), gradient(3));
    }

    #[test]
    fn errors_name_the_argument() {
        let (x, at, args) = (ramp(4, 4), boxes(&[[0., 0., 0., 1., 1.]]), RoiAlignArgs::default());
        let fails = |x: &Tensor, at: &Tensor, args: &RoiAlignArgs, message: &str| {
            let error = roi_align(x, at, args).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        };
        fails(&x.squeeze(0).unwrap(), &at, &args, "roi_align: input");
        fails(&x, &at.narrow(1, 0, 4).unwrap(), &args, "roi_align: boxes");
        fails(&x, &at.to_dtype(DType::F32).unwrap(), &args, "roi_align: boxes");
        fails(&x, &boxes(&[[1., 0., 0., 1., 1.]]), &args, "picture 1");
        fails(&x, &boxes(&[[0., f64::NAN, 0., 1., 1.]]), &args, "not finite");
        fails(&x, &at, &RoiAlignArgs { output_size: [0, 1], ..args }, "output_size");
        fails(&x, &at, &RoiAlignArgs { spatial_scale: -1., ..args }, "spatial_scale");
        let none = Tensor::zeros((1, 1, 0, 4), DType::F64, &Device::Cpu).unwrap();
        fails(&none, &at, &args, "at least one pixel");
    }

    #[test]
    fn no_boxes_and_no_channels() {
        let none = Tensor::zeros((0, 5), DType::F64, &Device::Cpu).unwrap();
        assert_eq!(roi_align(&ramp(4, 4), &none, &RoiAlignArgs::default()).unwrap().dims(), [0, 1, 7, 7]);
        let x = Tensor::zeros((1, 0, 4, 4), DType::F64, &Device::Cpu).unwrap();
        let y = roi_align(&x, &boxes(&[[0., 0., 0., 1., 1.]]), &RoiAlignArgs::default()).unwrap();
        assert_eq!(y.dims(), [1, 0, 7, 7]);
    }

    proptest! {
        #[test]
        fn nothing_panics(
            size in prop::array::uniform4(0usize..5),
            numbers in prop::collection::vec(prop::num::f64::ANY, 0..15),
            output_size in prop::array::uniform2(0usize..4),
            spatial_scale in prop::num::f64::ANY,
            sampling_ratio in 0usize..4,
            aligned: bool,
        ) {
            let x = Tensor::ones(&size, DType::F64, &Device::Cpu).unwrap();
            let mut rows: Vec<[f64; 5]> =
                numbers.chunks_exact(5).map(|row| [row[0], row[1], row[2], row[3], row[4]]).collect();
            for row in &mut rows {
                row[0] = row[0].abs() % 2.0;
                row[0] = row[0].floor();
            }
            let args = RoiAlignArgs { output_size, spatial_scale, sampling_ratio, aligned };
            let _ = roi_align(&x, &boxes(&rows), &args);
        }
    }
}
