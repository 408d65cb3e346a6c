//! RoI max pooling (Girshick, "Fast R-CNN", 2015), as torchvision 0.29's `roi_pool`.
//!
//! The corners of a box times `spatial_scale` are rounded, halves away from zero; the box is then whole pixels,
//! both corners included, at least one. Cell `i` of `P` covers rows `floor(i h / P)` to below `ceil((i + 1) h /
//! P)` of its `h`, so neighbours may share a row, and is cut off at the map. Its value is the largest pixel; the
//! gradient goes to the first of equals. A cell outside the map is 0, and NaN is never the largest.
//!
//! Differentiable in the map. Boxes must be finite.

#[cfg(feature = "cuda")]
mod cuda;

use std::sync::OnceLock;

#[cfg(feature = "cuda")]
use candle_core::CudaStorage;
use candle_core::backend::BackendStorage;
use candle_core::{CpuStorage, CustomOp1, Device, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::argmax::OUTSIDE;
use super::regions::{Region, check_cells, check_map, regions, rounded, with_nchw};
use super::support::{Float, cpu_slice, dispatch_float, storage_slice, vectorised};
use crate::FeatureMap;
use crate::error::{Error, Result};

/// Options of [`roi_pool`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RoiPoolArgs {
    /// Cells per region: rows, columns.
    pub output_size: [usize; 2],
    /// Pixels of the map per unit of the boxes, such as 1/16.
    pub spatial_scale: f64,
}

impl Default for RoiPoolArgs {
    /// 7 x 7 cells, scale 1.
    fn default() -> Self {
        Self { output_size: [7, 7], spatial_scale: 1.0 }
    }
}

/// Pools `boxes`, `(K, 5)` of picture number and `x1, y1, x2, y2`, from `input`, `(N, C, H, W)`, as
/// `(K, C, PH, PW)`.
///
/// # Errors
/// As [`super::roi_align`], and if a picture has more than 2^32 - 2 pixels.
pub fn roi_pool(input: &Tensor, boxes: &Tensor, args: &RoiPoolArgs) -> Result<Tensor> {
    with_nchw("roi_pool", input, |map| roi_pool_nhwc(map, boxes, args))
}

/// [`roi_pool`] of a feature map.
///
/// # Errors
/// As [`roi_pool`].
pub fn roi_pool_nhwc(input: &FeatureMap, boxes: &Tensor, args: &RoiPoolArgs) -> Result<FeatureMap> {
    let dims = check_map("roi_pool", input)?;
    check_cells("roi_pool", args.output_size, args.spatial_scale, boxes, dims[3])?;
    if dims[1].checked_mul(dims[2]).is_none_or(|pixels| pixels >= OUTSIDE as usize) {
        return Err(Error::argument(
            "roi_pool: input",
            format!("{} x {} pixels are too many", dims[1], dims[2]),
        ));
    }
    let regions = regions("roi_pool", input.nhwc(), boxes)?;
    let rounded = rounded(input.nhwc().dtype());
    let scale = rounded(args.spatial_scale);
    let axis = |axis: usize| -> Vec<[u32; 2]> {
        let (count, size) = (args.output_size[axis], dims[1 + axis]);
        let spans = |region: &Region| {
            let start = rounded(region.sides[1 - axis] * scale).round();
            let end = rounded(region.sides[3 - axis] * scale).round();
            let cell = rounded((end - start + 1.0).max(1.0) / count as f64);
            let inside = move |at: f64| (at + start).clamp(0.0, size as f64) as u32;
            (0..count).map(move |i| {
                [inside(rounded(i as f64 * cell).floor()), inside(rounded((i + 1) as f64 * cell).ceil())]
            })
        };
        regions.iter().flat_map(spans).collect()
    };
    let op = RoiPool {
        dims,
        cells: args.output_size,
        images: regions.iter().map(|region| region.image).collect(),
        rows: axis(0),
        columns: axis(1),
        keep: input.nhwc().track_op(),
        argmax: OnceLock::new(),
        #[cfg(feature = "cuda")]
        device_argmax: OnceLock::new(),
    };
    FeatureMap::from_nhwc(input.nhwc().apply_op1(op)?)
}

struct RoiPool {
    /// `(N, H, W, C)` of the map.
    dims: [usize; 4],
    cells: [usize; 2],
    images: Vec<usize>,
    /// Rows of each cell, `PH` per region.
    rows: Vec<[u32; 2]>,
    /// Columns of each cell, `PW` per region.
    columns: Vec<[u32; 2]>,
    /// Whether a backward pass may follow.
    keep: bool,
    /// Number of the largest pixel within its picture, for each element of the result.
    argmax: OnceLock<Vec<u32>>,
    /// The same on a CUDA device.
    #[cfg(feature = "cuda")]
    device_argmax: OnceLock<CudaStorage>,
}

impl RoiPool {
    fn region_len(&self) -> usize {
        self.cells[0] * self.cells[1] * self.dims[3]
    }

    fn forward<T: Float>(&self, input: &[T]) -> (Vec<T>, Option<Vec<u32>>) {
        let mut out = vec![T::ZERO; self.images.len() * self.region_len()];
        let mut argmax = vec![OUTSIDE; if self.keep { out.len() } else { 0 }];
        if !out.is_empty() {
            let len = self.region_len();
            if self.keep {
                let parts = out.par_chunks_mut(len).zip(argmax.par_chunks_mut(len));
                parts
                    .enumerate()
                    .for_each(|(region, (out, argmax))| self.region(region, input, out, Some(argmax)));
            } else {
                let parts = out.par_chunks_mut(len).enumerate();
                parts.for_each(|(region, out)| self.region(region, input, out, None));
            }
        }
        (out, self.keep.then_some(argmax))
    }

    fn region<T: Float>(&self, region: usize, input: &[T], out: &mut [T], argmax: Option<&mut [u32]>) {
        let ([_, h, w, c], [ph, pw]) = (self.dims, self.cells);
        let image = &input[self.images[region] * h * w * c..][..h * w * c];
        let mut argmax = argmax.map(|argmax| argmax.chunks_exact_mut(c));
        for (cell, out) in out.chunks_exact_mut(c).enumerate() {
            let [top, bottom] = self.rows[region * ph + cell / pw];
            let [left, right] = self.columns[region * pw + cell % pw];
            if top < bottom && left < right {
                out.fill(T::LOWEST);
            }
            let mut argmax = argmax.as_mut().and_then(Iterator::next);
            for pixel in (top..bottom).flat_map(|y| (left..right).map(move |x| y * w as u32 + x)) {
                let x = &image[pixel as usize * c..][..c];
                match &mut argmax {
                    None => vectorised(|| {
                        for (out, &x) in out.iter_mut().zip(x) {
                            *out = if x > *out { x } else { *out };
                        }
                    }),
                    Some(argmax) => vectorised(|| {
                        for ((out, at), &x) in out.iter_mut().zip(argmax.iter_mut()).zip(x) {
                            let larger = x > *out;
                            *out = if larger { x } else { *out };
                            *at = if larger { pixel } else { *at };
                        }
                    }),
                }
            }
        }
    }

    /// Each task owns some rows of the batch and takes what falls into them, in the order of the regions.
    fn backward<T: Float>(&self, argmax: &[u32], grad: &[T]) -> Vec<T> {
        let [n, h, w, c] = self.dims;
        let mut out = vec![T::ZERO; n * h * w * c];
        if out.is_empty() || grad.is_empty() {
            return out;
        }
        let share = (n * h).div_ceil(rayon::current_num_threads()) * w;
        out.par_chunks_mut(share * c).enumerate().for_each(|(task, out)| {
            let (low, high) = (task * share, task * share + out.len() / c);
            let regions = grad.chunks_exact(self.region_len()).zip(argmax.chunks_exact(self.region_len()));
            for ((region, &image), (grad, argmax)) in self.images.iter().enumerate().zip(regions) {
                let first = image * h * w;
                let cells = grad.chunks_exact(c).zip(argmax.chunks_exact(c)).enumerate();
                for (cell, (grad, argmax)) in cells {
                    let [top, bottom] =
                        self.rows[region * self.cells[0] + cell / self.cells[1]].map(|row| row as usize);
                    let (top, bottom) = (first + top * w, first + bottom * w);
                    if top >= bottom || top >= high || bottom <= low {
                        continue;
                    }
                    for (channel, (&g, &at)) in grad.iter().zip(argmax).enumerate() {
                        let pixel = first + at as usize;
                        if at != OUTSIDE && pixel >= low && pixel < high {
                            out[(pixel - low) * c + channel] += g;
                        }
                    }
                }
            }
        });
        out
    }
}

impl CustomOp1 for RoiPool {
    fn name(&self) -> &'static str {
        "roi_pool"
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        dispatch_float!("roi_pool: input", s.dtype(), T => {
            let (out, argmax) = self.forward(cpu_slice::<T>("roi_pool: input", s, l)?);
            if let Some(argmax) = argmax {
                // Filled once: the op is made for one call.
                let _ = self.argmax.set(argmax);
            }
            let shape = (self.images.len(), self.cells[0], self.cells[1], self.dims[3]);
            Ok((T::to_cpu_storage_owned(out), Shape::from(shape)))
        })
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, s: &CudaStorage, l: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        let (out, argmax) = cuda::forward(self, s, l)?;
        let _ = self.device_argmax.set(argmax);
        Ok((out, Shape::from((self.images.len(), self.cells[0], self.cells[1], self.dims[3]))))
    }

    fn bwd(&self, arg: &Tensor, _res: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        #[cfg(feature = "cuda")]
        if let (true, Some(argmax)) = (arg.track_op(), self.device_argmax.get()) {
            return Ok(Some(cuda::gradient(self, argmax, arg, &grad.contiguous()?)?));
        }
        let (true, Some(argmax)) = (arg.track_op(), self.argmax.get()) else {
            return Ok(None);
        };
        let grad = grad.contiguous()?;
        let (s, l) = grad.storage_and_layout();
        dispatch_float!("roi_pool: gradient", grad.dtype(), T => {
            let dx = self.backward(argmax, storage_slice::<T>("roi_pool: gradient", &s, l)?);
            Ok(Some(Tensor::from_vec(dx, arg.dims(), &Device::Cpu)?))
        })
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Key;
    use crate::testing::gradcheck;

    fn boxes(rows: &[[f64; 5]]) -> Tensor {
        let numbers: Vec<f64> = rows.iter().flatten().copied().collect();
        Tensor::from_vec(numbers, (rows.len(), 5), &Device::Cpu).unwrap()
    }

    fn flat(t: &Tensor) -> Vec<f64> {
        t.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn cells_share_rows_that_do_not_divide() {
        let x = Tensor::arange(0f64, 15., &Device::Cpu).unwrap().reshape((1, 1, 3, 5)).unwrap();
        let args = RoiPoolArgs { output_size: [2, 2], spatial_scale: 0.5 };
        // Corners (0, 0) and (4, 2): rows 0-1 and 1-2, columns 0-2 and 2-4.
        let y = roi_pool(&x, &boxes(&[[0., 0.4, 0., 8.2, 4.]]), &args).unwrap();
        assert_eq!(flat(&y), [7., 9., 12., 14.]);
        // 2.5 pixels round to 3, beyond the map: only the first row of cells has pixels.
        let y = roi_pool(&x, &boxes(&[[0., 0., 5., 0., 3.]]), &args).unwrap();
        assert_eq!(flat(&y), [0., 0., 0., 0.]);
    }

    #[test]
    fn the_first_of_equals_gets_the_gradient_and_nan_is_never_the_largest() {
        let x = Tensor::new(&[[[[f64::NAN, 3., 3.]]]], &Device::Cpu).unwrap();
        let x = Var::from_tensor(&x).unwrap();
        let args = RoiPoolArgs { output_size: [1, 1], ..RoiPoolArgs::default() };
        let y = roi_pool(&x, &boxes(&[[0., 0., 0., 2., 0.], [0., 0., 0., 2., 0.]]), &args).unwrap();
        assert_eq!(flat(&y), [3., 3.]);
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(flat(grads.get(&x).unwrap()), [0., 2., 0.]);
    }

    #[test]
    fn gradient_of_the_map() {
        let x = Key::new(1).normal((2, 3, 7, 6), 0., 1., DType::F64, &Device::Cpu).unwrap();
        let at = boxes(&[[0., 0.3, 1.2, 4.9, 5.1], [1., -2., -2., 9., 9.], [0., 20., 2., 22., 2.]]);
        let args = RoiPoolArgs { output_size: [3, 2], spatial_scale: 0.9 };
        gradcheck(|t| roi_pool(&t[0], &at, &args), &[x], 1e-7, 1e-7).unwrap();
    }

    #[test]
    fn errors_name_the_argument() {
        let x = Tensor::zeros((1, 1, 2, 2), DType::F64, &Device::Cpu).unwrap();
        let error = roi_pool(&x, &boxes(&[[0.5, 0., 0., 1., 1.]]), &RoiPoolArgs::default()).unwrap_err();
        assert!(error.to_string().starts_with("roi_pool: boxes"), "{error}");
    }

    proptest! {
        #[test]
        fn nothing_panics(
            size in prop::array::uniform4(0usize..5),
            sides in prop::collection::vec(prop::array::uniform4(prop::num::f64::ANY), 0..4),
            output_size in prop::array::uniform2(0usize..4),
            spatial_scale in prop::num::f64::ANY,
        ) {
            let x = Tensor::ones(&size, DType::F64, &Device::Cpu).unwrap();
            let rows: Vec<[f64; 5]> = sides.iter().map(|s| [0., s[0], s[1], s[2], s[3]]).collect();
            let _ = roi_pool(&x, &boxes(&rows), &RoiPoolArgs { output_size, spatial_scale });
        }
    }
}
