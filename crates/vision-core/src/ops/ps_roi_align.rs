//! Position-sensitive RoIAlign (Li et al., "Light-Head R-CNN", 2017), as torchvision 0.29's `ps_roi_align`.
//!
//! A box times `spatial_scale`, less half a pixel, is cut into `PH x PW` cells, each the mean of samples as in
//! [`super::roi_align`] with `aligned`, but cell `(i, j)` of output channel `c` reads channel
//! `(c * PH + i) * PW + j`. Boxes may be of any size; those without extent, or inside out with ratio 0, have no
//! samples and give 0 (torchvision divides 0 by 0 where the extent is 0).
//!
//! Differentiable in the map. Boxes must be finite.

use candle_core::Tensor;

use super::regions::{
    Grid, Region, Taps, WeightedSum, check_cells, check_groups, check_map, regions, rounded, with_nchw,
};
use super::roi_align::Cells;
use crate::FeatureMap;
use crate::error::Result;

/// Options of [`ps_roi_align`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PsRoiAlignArgs {
    /// Cells per region, and groups of channels: rows, columns.
    pub output_size: [usize; 2],
    /// Pixels of the map per unit of the boxes, such as 1/16.
    pub spatial_scale: f64,
    /// Samples per cell along each axis; 0 for as many as the cell has pixels (torchvision writes -1).
    pub sampling_ratio: usize,
}

impl Default for PsRoiAlignArgs {
    /// 7 x 7 cells, scale 1, ratio 0.
    fn default() -> Self {
        Self { output_size: [7, 7], spatial_scale: 1.0, sampling_ratio: 0 }
    }
}

/// Pools `boxes`, `(K, 5)` of picture number and `x1, y1, x2, y2`, from `input`, `(N, C PH PW, H, W)`, as
/// `(K, C, PH, PW)`.
///
/// # Errors
/// As [`super::roi_align`], and if the channels are no multiple of the cells.
pub fn ps_roi_align(input: &Tensor, boxes: &Tensor, args: &PsRoiAlignArgs) -> Result<Tensor> {
    with_nchw("ps_roi_align", input, |map| ps_roi_align_nhwc(map, boxes, args))
}

/// [`ps_roi_align`] of a feature map.
///
/// # Errors
/// As [`ps_roi_align`].
pub fn ps_roi_align_nhwc(input: &FeatureMap, boxes: &Tensor, args: &PsRoiAlignArgs) -> Result<FeatureMap> {
    let dims = check_map("ps_roi_align", input)?;
    check_cells("ps_roi_align", args.output_size, args.spatial_scale, boxes, dims[3])?;
    check_groups("ps_roi_align", dims[3], args.output_size)?;
    let regions = regions("ps_roi_align", input.nhwc(), boxes)?;
    let rounded = rounded(input.nhwc().dtype());
    let scale = rounded(args.spatial_scale);
    let axis = |axis: usize| {
        let mut taps = Taps::default();
        for Region { sides, .. } in &regions {
            let place = |side: f64| rounded(rounded(side * scale) - 0.5);
            let (start, end) = (place(sides[1 - axis]), place(sides[3 - axis]));
            let count = args.output_size[axis];
            let cells = Cells { start, cell: rounded(rounded(end - start) / count as f64), count };
            cells.sample(args.sampling_ratio, dims[1 + axis], &mut taps);
        }
        taps
    };
    let op = WeightedSum {
        name: "ps_roi_align",
        grid: Grid { input: dims, cells: args.output_size, group_size: args.output_size, runs: 1 },
        images: regions.iter().map(|region| region.image).collect(),
        rows: axis(0),
        columns: axis(1),
        fill: 0.0,
    };
    op.apply(input)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::ops::{RoiAlignArgs, roi_align};
    use crate::rng::Key;
    use crate::testing::gradcheck;

    fn inputs() -> (Tensor, Tensor) {
        let x = Key::new(1).normal((2, 12, 7, 6), 0., 1., DType::F64, &Device::Cpu).unwrap();
        let boxes = Tensor::new(
            &[[0., 0.3, 1.2, 4.9, 5.1], [1., -2., -2., 9., 9.], [0., 2., 2., 2., 2.], [1., 4., 4., 1., 1.]],
            &Device::Cpu,
        );
        (x, boxes.unwrap())
    }

    #[test]
    fn each_cell_reads_its_channel() {
        let (x, boxes) = inputs();
        let boxes = boxes.narrow(0, 0, 2).unwrap();
        let args = PsRoiAlignArgs { output_size: [2, 3], sampling_ratio: 2, ..PsRoiAlignArgs::default() };
        let got = ps_roi_align(&x, &boxes, &args).unwrap();
        assert_eq!(got.dims(), [2, 2, 2, 3]);
        let all =
            RoiAlignArgs { output_size: [2, 3], sampling_ratio: 2, aligned: true, ..RoiAlignArgs::default() };
        let all = roi_align(&x, &boxes, &all).unwrap().to_vec2_of_cells();
        let got = got.flatten_all().unwrap().to_vec1::<f64>().unwrap();
        for (at, got) in got.iter().enumerate() {
            let (region, channel, cell) = (at / 12, at % 12 / 6, at % 6);
            let want = all[region][(channel * 6 + cell) * 6 + cell];
            assert!((got - want).abs() < 1e-12);
        }
    }

    trait Cells2 {
        fn to_vec2_of_cells(&self) -> Vec<Vec<f64>>;
    }
    impl Cells2 for Tensor {
        fn to_vec2_of_cells(&self) -> Vec<Vec<f64>> {
            self.flatten_from(1).unwrap().to_vec2().unwrap()
        }
    }

    #[test]
    fn gradient_of_the_map_also_with_empty_and_inverted_boxes() {
        let (x, boxes) = inputs();
        for sampling_ratio in [0, 2] {
            let args = PsRoiAlignArgs { output_size: [2, 3], spatial_scale: 0.9, sampling_ratio };
            gradcheck(|t| ps_roi_align(&t[0], &boxes, &args), std::slice::from_ref(&x), 1e-6, 1e-8).unwrap();
        }
    }

    #[test]
    fn channels_must_be_a_multiple_of_the_cells() {
        let (x, boxes) = inputs();
        let error = ps_roi_align(&x, &boxes, &PsRoiAlignArgs::default()).unwrap_err().to_string();
        assert!(error.contains("12 channels are no multiple of 7 x 7"), "{error}");
    }
}
