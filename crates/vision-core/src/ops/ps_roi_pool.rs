//! Position-sensitive RoI pooling (Dai et al., "R-FCN", 2016).
//!
//! A box is cut into `PH x PW` cells; cell `(i, j)` of output channel `c` is the mean of channel
//! `(c * PH + i) * PW + j` over the whole pixels from `floor(start + i h / PH)` to below
//! `ceil(start + (i + 1) h / PH)`, and likewise across, that lie on the map; 0 if there are none. Two definitions
//! of the box are in use, see [`PsRoiRounding`]; they differ by up to two pixels, so weights trained with one are
//! wrong with the other.
//!
//! Differentiable in the map. Boxes must be finite.

use candle_core::Tensor;

use super::regions::{
    Grid, Region, Taps, WeightedSum, check_cells, check_groups, check_map, regions, rounded, with_nchw,
};
use crate::FeatureMap;
use crate::error::Result;

/// Where the box of [`ps_roi_pool`] starts and ends on the map. Rounding takes halves away from zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PsRoiRounding {
    /// torchvision 0.29: from `round(x1 s)` to `round(x2 s)`, at least one pixel. Cells end before the last row and
    /// column of the map; torchvision's own gradient does not and so is not that of its forward pass.
    #[default]
    AfterScaling,
    /// R-FCN's own code and `MXNet`'s `PSROIPooling`: from `round(x1) s` to `(round(x2) + 1) s`, at least 0.1
    /// pixels.
    BeforeScaling,
}

/// Options of [`ps_roi_pool`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PsRoiPoolArgs {
    /// Cells per region, and groups of channels: rows, columns.
    pub output_size: [usize; 2],
    /// Pixels of the map per unit of the boxes, such as 1/16.
    pub spatial_scale: f64,
    /// Where the box lies on the map.
    pub rounding: PsRoiRounding,
}

impl Default for PsRoiPoolArgs {
    /// 7 x 7 cells, scale 1, torchvision's rounding.
    fn default() -> Self {
        Self { output_size: [7, 7], spatial_scale: 1.0, rounding: PsRoiRounding::AfterScaling }
    }
}

/// Pools `boxes`, `(K, 5)` of picture number and `x1, y1, x2, y2`, from `input`, `(N, C PH PW, H, W)`, as
/// `(K, C, PH, PW)`.
///
/// # Errors
/// As [`super::roi_align`], and if the channels are no multiple of the cells.
pub fn ps_roi_pool(input: &Tensor, boxes: &Tensor, args: &PsRoiPoolArgs) -> Result<Tensor> {
    with_nchw("ps_roi_pool", input, |map| ps_roi_pool_nhwc(map, boxes, args))
}

/// [`ps_roi_pool`] of a feature map.
///
/// # Errors
/// As [`ps_roi_pool`].
pub fn ps_roi_pool_nhwc(input: &FeatureMap, boxes: &Tensor, args: &PsRoiPoolArgs) -> Result<FeatureMap> {
    let dims = check_map("ps_roi_pool", input)?;
    check_cells("ps_roi_pool", args.output_size, args.spatial_scale, boxes, dims[3])?;
    check_groups("ps_roi_pool", dims[3], args.output_size)?;
    let regions = regions("ps_roi_pool", input.nhwc(), boxes)?;
    let rounded = rounded(input.nhwc().dtype());
    let scale = rounded(args.spatial_scale);
    let axis = |axis: usize| {
        let (count, size) = (args.output_size[axis], dims[1 + axis]);
        let mut taps = Taps::default();
        for Region { sides, .. } in &regions {
            let (low, high) = (sides[1 - axis], sides[3 - axis]);
            for index in 0..count {
                let (from, to, limit) = match args.rounding {
                    PsRoiRounding::AfterScaling => {
                        let (start, end) = (rounded(low * scale).round(), rounded(high * scale).round());
                        let cell = rounded((end - start).max(1.0) / count as f64);
                        let from = rounded(index as f64 * cell).floor() + start;
                        (from, rounded((index + 1) as f64 * cell).ceil() + start, size - 1)
                    }
                    PsRoiRounding::BeforeScaling => {
                        let start = rounded(low.round() * scale);
                        let end = rounded((high.round() + 1.0) * scale);
                        let cell = rounded(rounded(end - start).max(0.1) / count as f64);
                        let place = |i: usize| rounded(rounded(i as f64 * cell) + start);
                        (place(index).floor(), place(index + 1).ceil(), size)
                    }
                };
                let inside = |at: f64| at.clamp(0.0, limit as f64) as usize;
                let pixels = inside(from)..inside(to);
                let weight = 1.0 / pixels.len() as f64;
                pixels.for_each(|pixel| taps.add(pixel, weight));
                taps.end();
            }
        }
        taps
    };
    let op = WeightedSum {
        name: "ps_roi_pool",
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
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Key;
    use crate::testing::gradcheck;

    fn flat(t: &Tensor) -> Vec<f64> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn assert_near(got: &[f64], want: &[f64]) {
        assert_eq!(got.len(), want.len());
        assert!(got.iter().zip(want).all(|(got, want)| (got - want).abs() < 1e-12), "{got:?}");
    }

    #[test]
    fn the_two_boxes() {
        // One channel per cell, each a row 0, 1, 2, … 9.
        let row = Tensor::arange(0f64, 10., &Device::Cpu).unwrap();
        let x = row.reshape((1, 1, 1, 10)).unwrap().broadcast_as((1, 2, 2, 10)).unwrap();
        let boxes = Tensor::new(&[[0., 4., 0., 12., 2.]], &Device::Cpu).unwrap();
        let pool = |rounding| {
            let args = PsRoiPoolArgs { output_size: [1, 2], spatial_scale: 0.5, rounding };
            flat(&ps_roi_pool(&x, &boxes, &args).unwrap())
        };
        // Columns 2-6 in halves of two pixels.
        assert_near(&pool(PsRoiRounding::AfterScaling), &[2.5, 4.5]);
        // Columns 2-6.5: 2 to below 4.25 and 4.25 to below 6.5.
        assert_near(&pool(PsRoiRounding::BeforeScaling), &[3.0, 5.0]);
    }

    #[test]
    fn gradient_of_the_map() {
        let x = Key::new(1).normal((2, 12, 7, 6), 0., 1., DType::F64, &Device::Cpu).unwrap();
        let boxes = Tensor::new(
            &[[0., 0.3, 1.2, 4.9, 5.1], [1., -2., -2., 9., 9.], [0., 40., 2., 50., 2.], [1., 4., 4., 1., 1.]],
            &Device::Cpu,
        )
        .unwrap();
        for rounding in [PsRoiRounding::AfterScaling, PsRoiRounding::BeforeScaling] {
            let args = PsRoiPoolArgs { output_size: [2, 3], spatial_scale: 0.9, rounding };
            gradcheck(|t| ps_roi_pool(&t[0], &boxes, &args), std::slice::from_ref(&x), 1e-6, 1e-8).unwrap();
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(
            size in prop::array::uniform4(0usize..5),
            sides in prop::collection::vec(prop::array::uniform4(prop::num::f64::ANY), 0..4),
            output_size in prop::array::uniform2(0usize..3),
            spatial_scale in prop::num::f64::ANY,
            before: bool,
        ) {
            let x = Tensor::ones(&size, DType::F64, &Device::Cpu).unwrap();
            let numbers: Vec<f64> = sides.iter().flat_map(|s| [0., s[0], s[1], s[2], s[3]]).collect();
            let boxes = Tensor::from_vec(numbers, (sides.len(), 5), &Device::Cpu).unwrap();
            let rounding = if before { PsRoiRounding::BeforeScaling } else { PsRoiRounding::AfterScaling };
            let _ = ps_roi_pool(&x, &boxes, &PsRoiPoolArgs { output_size, spatial_scale, rounding });
        }
    }
}
