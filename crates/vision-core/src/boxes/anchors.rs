//! Anchors: boxes of fixed sizes and shapes at every position of one or more feature maps.

use candle_core::{DType, Device, Tensor};

use crate::error::{Error, Result};

/// Places a set of boxes, the cell, at every position of each feature map, as torchvision's `AnchorGenerator`
/// 0.29.
///
/// Position `(y, x)` of a map with the stride `[sy, sx]` adds `(x sx, y sy)` to the corners of its cell.
/// Anchors are ordered by row, column and box of the cell.
///
/// ```
/// use candle_core::DType;
/// use vision_core::boxes::AnchorGenerator;
/// let anchors = AnchorGenerator::new(&[vec![32.0], vec![64.0]], &[0.5, 1.0, 2.0])?;
/// let levels = anchors.levels(&[[4, 6], [2, 3]], &[[8, 8], [16, 16]], DType::F32)?;
/// assert_eq!((levels[0].dims(), levels[1].dims()), (&[72, 4][..], &[18, 4][..]));
/// # Ok::<(), vision_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct AnchorGenerator {
    cells: Vec<Vec<[f64; 4]>>,
}

impl AnchorGenerator {
    /// Cells of [`ratio_cells`]: one list of sizes, in pixels, per feature map, all with the same ratios of
    /// height to width.
    ///
    /// # Errors
    /// If a size or ratio is not above 0, or not finite.
    pub fn new(sizes: &[Vec<f64>], aspect_ratios: &[f64]) -> Result<Self> {
        let cells = sizes.iter().map(|sizes| ratio_cells(sizes, aspect_ratios)).collect::<Result<_>>()?;
        Ok(Self { cells })
    }

    /// The given cells, one per feature map, such as those of [`scaled_cells`].
    pub fn from_cells(cells: Vec<Vec<[f64; 4]>>) -> Self {
        Self { cells }
    }

    /// The boxes of each feature map's cell, around the origin.
    pub fn cells(&self) -> &[Vec<[f64; 4]>] {
        &self.cells
    }

    /// Anchors of each feature map, `(H W A, 4)`, from the maps' sizes and strides in pixels, each
    /// `[vertical, horizontal]`.
    ///
    /// # Errors
    /// If there are not as many sizes and strides as cells, if the type is neither `f32` nor `f64`, or if a
    /// map is too large for memory.
    pub fn levels(&self, grids: &[[usize; 2]], strides: &[[usize; 2]], dtype: DType) -> Result<Vec<Tensor>> {
        for (name, count) in [("grids", grids.len()), ("strides", strides.len())] {
            if count != self.cells.len() {
                let problem = format!("{count} given for {} feature maps", self.cells.len());
                return Err(Error::argument(format!("anchors: {name}"), problem));
            }
        }
        if !matches!(dtype, DType::F32 | DType::F64) {
            let (what, expected) = ("anchors: dtype".into(), "f32 or f64".into());
            return Err(Error::Dtype { what, expected, got: dtype });
        }
        let levels = self.cells.iter().zip(grids).zip(strides);
        levels.map(|((cell, &grid), &stride)| Ok(level(cell, grid, stride)?.to_dtype(dtype)?)).collect()
    }

    /// Anchors of all feature maps, one map after the other, `(sum of H W A, 4)`.
    ///
    /// # Errors
    /// As [`AnchorGenerator::levels`].
    pub fn all(&self, grids: &[[usize; 2]], strides: &[[usize; 2]], dtype: DType) -> Result<Tensor> {
        let levels = self.levels(grids, strides, dtype)?;
        if levels.is_empty() {
            return Ok(Tensor::zeros((0, 4), dtype, &Device::Cpu)?);
        }
        Ok(Tensor::cat(&levels, 0)?)
    }
}

fn level(cell: &[[f64; 4]], [height, width]: [usize; 2], [sy, sx]: [usize; 2]) -> Result<Tensor> {
    let count = height.checked_mul(width).and_then(|n| n.checked_mul(cell.len()));
    let Some(count) = count.filter(|&n| u32::try_from(n).is_ok()) else {
        return Err(Error::argument("anchors: grids", format!("{height} x {width} is too large")));
    };
    let mut values = Vec::with_capacity(count * 4);
    // Without cells there may be any number of places.
    for y in 0..if count == 0 { 0 } else { height } {
        for x in 0..width {
            let (dx, dy) = (x as f64 * sx as f64, y as f64 * sy as f64);
            values.extend(cell.iter().flat_map(|[x1, y1, x2, y2]| [x1 + dx, y1 + dy, x2 + dx, y2 + dy]));
        }
    }
    Ok(Tensor::from_vec(values, (count, 4), &Device::Cpu)?)
}

/// Boxes around the origin as torchvision makes them, with continuous corners: for each ratio `r` of height to
/// width, then each size `s`, a box of `s / sqrt(r)` by `s sqrt(r)` whose corners are rounded to whole pixels,
/// halves to even. Computed in `f32` as there, so that ties round the same way.
///
/// # Errors
/// If a size or ratio is not above 0, or not finite.
pub fn ratio_cells(sizes: &[f64], aspect_ratios: &[f64]) -> Result<Vec<[f64; 4]>> {
    check_positive("anchors: sizes", sizes)?;
    check_positive("anchors: aspect_ratios", aspect_ratios)?;
    let cell = |&ratio: &f64| {
        let tall = (ratio as f32).sqrt();
        let wide = 1. / tall;
        sizes.iter().map(move |&size| {
            let (w, h) = (wide * size as f32, tall * size as f32);
            [-w, -h, w, h].map(|edge| f64::from((edge / 2.).round_ties_even()))
        })
    };
    Ok(aspect_ratios.iter().flat_map(cell).collect())
}

/// Boxes as Faster R-CNN's published code makes them, whose corners are pixels that belong to the box
/// ([`crate::ops::BoxExtent::Inclusive`]): around the centre of a square of `base` pixels at the origin, for
/// each ratio `r` a box of `round(sqrt(base^2 / r))` pixels by `r` times as many, rounded, enlarged by each of
/// the scales. Halves are rounded to even.
///
/// # Errors
/// If a number is not above 0, or not finite.
pub fn scaled_cells(base: f64, aspect_ratios: &[f64], scales: &[f64]) -> Result<Vec<[f64; 4]>> {
    check_positive("anchors: base", &[base])?;
    check_positive("anchors: aspect_ratios", aspect_ratios)?;
    check_positive("anchors: scales", scales)?;
    let centre = 0.5 * (base - 1.);
    let cell = |&ratio: &f64| {
        let w = (base * base / ratio).sqrt().round_ties_even();
        let h = (w * ratio).round_ties_even();
        scales.iter().map(move |scale| {
            let (w, h) = (0.5 * (w * scale - 1.), 0.5 * (h * scale - 1.));
            [centre - w, centre - h, centre + w, centre + h]
        })
    };
    Ok(aspect_ratios.iter().flat_map(cell).collect())
}

fn check_positive(what: &str, values: &[f64]) -> Result<()> {
    match values.iter().find(|value| !(**value > 0. && value.is_finite())) {
        None => Ok(()),
        Some(value) => Err(Error::argument(what, format!("{value} is not above 0"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_torchvision() {
        let cells = ratio_cells(&[128.], &[0.5, 1., 2.]).unwrap();
        assert_eq!(cells, [[-91., -45., 91., 45.], [-64., -64., 64., 64.], [-45., -91., 45., 91.]]);
        // 15 / 2 lies between two even numbers' halves: 7.5 rounds to 8, 2.5 to 2.
        assert_eq!(ratio_cells(&[15., 5.], &[1.]).unwrap(), [[-8., -8., 8., 8.], [-2., -2., 2., 2.]]);
    }

    #[test]
    fn cells_of_faster_rcnn() {
        let cells = scaled_cells(16., &[0.5, 1., 2.], &[4., 8., 16., 32.]).unwrap();
        assert_eq!(cells[..3], [[-38., -16., 53., 31.], [-84., -40., 99., 55.], [-176., -88., 191., 103.]]);
        assert_eq!(cells[4..6], [[-24., -24., 39., 39.], [-56., -56., 71., 71.]]);
        assert_eq!(cells[8..10], [[-14., -36., 29., 51.], [-36., -80., 51., 95.]]);
        let small = scaled_cells(16., &[0.5, 1., 2.], &[2.]).unwrap();
        assert_eq!(small, [[-15., -4., 30., 19.], [-8., -8., 23., 23.], [-3., -14., 18., 29.]]);
    }

    #[test]
    fn row_column_box() {
        let anchors = AnchorGenerator::from_cells(vec![vec![[-1., -2., 1., 2.], [0., 0., 3., 3.]]]);
        let got = anchors.all(&[[2, 2]], &[[10, 100]], DType::F32).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(
            got[..4],
            [[-1., -2., 1., 2.], [0., 0., 3., 3.], [99., -2., 101., 2.], [100., 0., 103., 3.]]
        );
        assert_eq!(got[4], [-1., 8., 1., 12.]);
        let none = anchors.all(&[[0, 7]], &[[8, 8]], DType::F64).unwrap();
        assert_eq!(none.dims(), [0, 4]);
        let empty = AnchorGenerator::from_cells(vec![]).all(&[], &[], DType::F32).unwrap();
        assert_eq!(empty.dims(), [0, 4]);
    }

    #[test]
    fn wrong_arguments_are_named() {
        let text = |r: Result<Vec<Tensor>>| r.unwrap_err().to_string();
        let anchors = AnchorGenerator::new(&[vec![32.]], &[1.]).unwrap();
        assert!(text(anchors.levels(&[], &[[8, 8]], DType::F32)).starts_with("anchors: grids"));
        assert!(text(anchors.levels(&[[1, 1]], &[], DType::F32)).starts_with("anchors: strides"));
        assert!(text(anchors.levels(&[[1, 1]], &[[8, 8]], DType::U8)).starts_with("anchors: dtype"));
        let huge = [[usize::MAX, 2]];
        assert!(text(anchors.levels(&huge, &[[8, 8]], DType::F32)).starts_with("anchors: grids"));
        assert!(AnchorGenerator::new(&[vec![0.]], &[1.]).unwrap_err().to_string().contains("sizes"));
        assert!(ratio_cells(&[1.], &[-1.]).unwrap_err().to_string().contains("aspect_ratios"));
        assert!(scaled_cells(f64::NAN, &[1.], &[1.]).unwrap_err().to_string().contains("base"));
    }
}
