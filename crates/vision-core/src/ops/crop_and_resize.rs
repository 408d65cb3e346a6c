//! Crops resized to one size, as TensorFlow's `tf.image.crop_and_resize`.
//!
//! Boxes are `y1, x1, y2, x2` in units of the picture less one pixel: 0 and 1 are the centres of its corner pixels.
//! Row `i` of `CH` is read at `y1 (H - 1) + i (y2 - y1) (H - 1) / (CH - 1)`, or in the middle of the box if `CH` is
//! 1, and columns likewise: bilinearly between the four pixels around, or at the nearest one with halves away from
//! zero. Places above 0 or beyond `H - 1` give `extrapolation_value`. `y2 < y1` turns the crop over.
//!
//! Differentiable in the picture (TensorFlow's gradient of the boxes is not there). Boxes must be finite.

use candle_core::{DType, Device, Tensor};

use super::regions::{Grid, Taps, WeightedSum, check_map, rounded};
use super::support::{check_dims, check_dtype, check_result, check_same_device};
use crate::FeatureMap;
use crate::error::{Error, Result};

/// How [`crop_and_resize`] reads between pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CropMethod {
    /// The four pixels around a place, by distance.
    #[default]
    Bilinear,
    /// The nearest pixel.
    Nearest,
}

/// Options of [`crop_and_resize`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CropAndResizeArgs {
    /// Rows and columns of a crop.
    pub crop_size: [usize; 2],
    /// How to read between pixels.
    pub method: CropMethod,
    /// Value of places outside the picture.
    pub extrapolation_value: f64,
}

impl Default for CropAndResizeArgs {
    /// 7 x 7, bilinear, 0 outside.
    fn default() -> Self {
        Self { crop_size: [7, 7], method: CropMethod::Bilinear, extrapolation_value: 0.0 }
    }
}

/// Crops `boxes`, `(K, 4)` of `y1, x1, y2, x2`, from the pictures `box_ind`, `(K)` of type `u32` or `i64`, of
/// `image` and resizes them to `(K, CH, CW, C)`.
///
/// # Errors
/// If shapes, element types (`f32` or `f64`, both the same) or devices do not fit, the image has no pixels, a size
/// is 0, a box is not finite or its picture not in the batch.
pub fn crop_and_resize(
    image: &FeatureMap,
    boxes: &Tensor,
    box_ind: &Tensor,
    args: &CropAndResizeArgs,
) -> Result<FeatureMap> {
    let dims = check_map("crop_and_resize", image)?;
    if args.crop_size.contains(&0) {
        let problem = format!("{:?} contains 0", args.crop_size);
        return Err(Error::argument("crop_and_resize: crop_size", problem));
    }
    let ([down, across], boxes_given) = (args.crop_size, boxes.dims().first().copied().unwrap_or(0));
    check_result("crop_and_resize: crop_size", &[boxes_given, down, across, dims[3]])?;
    check_dtype("crop_and_resize: boxes", boxes, image.nhwc().dtype())?;
    check_same_device("crop_and_resize: boxes", boxes, image.nhwc())?;
    if boxes.rank() != 2 || boxes.dims()[1] != 4 {
        return Err(Error::shape("crop_and_resize: boxes", "(K, 4)", boxes.dims()));
    }
    let boxes: Vec<f64> =
        boxes.detach().to_device(&Device::Cpu)?.flatten_all()?.to_dtype(DType::F64)?.to_vec1()?;
    if let Some(at) = boxes.iter().position(|side| !side.is_finite()) {
        let problem = format!("box {} contains {}", at / 4, boxes[at]);
        return Err(Error::argument("crop_and_resize: boxes", problem));
    }
    let rounded = rounded(image.nhwc().dtype());
    let axis = |axis: usize| {
        let (count, last) = (args.crop_size[axis], (dims[1 + axis] - 1) as f64);
        let mut taps = Taps::default();
        for sides in boxes.chunks_exact(4) {
            let (low, high) = (sides[axis], sides[2 + axis]);
            let step = if count > 1 {
                rounded(rounded(rounded(high - low) * last) / (count - 1) as f64)
            } else {
                0.0
            };
            let start = if count > 1 {
                rounded(low * last)
            } else {
                rounded(rounded(0.5 * rounded(low + high)) * last)
            };
            for index in 0..count {
                let at = rounded(start + rounded(index as f64 * step));
                if (0.0..=last).contains(&at) {
                    match args.method {
                        CropMethod::Nearest => taps.add(at.round() as usize, 1.0),
                        CropMethod::Bilinear => {
                            let beyond = at - at.floor();
                            taps.add(at as usize, 1.0 - beyond);
                            if beyond > 0.0 {
                                taps.add(at as usize + 1, beyond);
                            }
                        }
                    }
                }
                taps.end();
            }
        }
        taps
    };
    let op = WeightedSum {
        name: "crop_and_resize",
        grid: Grid { input: dims, cells: args.crop_size, group_size: [1, 1], runs: 1 },
        images: images(box_ind, boxes.len() / 4, image.nhwc())?,
        rows: axis(0),
        columns: axis(1),
        fill: args.extrapolation_value,
    };
    op.apply(image)
}

/// The picture of each of `count` boxes.
fn images(box_ind: &Tensor, count: usize, map: &Tensor) -> Result<Vec<usize>> {
    let batch = map.dims()[0];
    let what = "crop_and_resize: box_ind";
    check_dims(what, box_ind, &[count])?;
    check_same_device(what, box_ind, map)?;
    if !matches!(box_ind.dtype(), DType::U32 | DType::I64) {
        return Err(Error::Dtype {
            what: what.to_owned(),
            expected: "u32 or i64".to_owned(),
            got: box_ind.dtype(),
        });
    }
    let numbers: Vec<i64> = box_ind.to_device(&Device::Cpu)?.to_dtype(DType::I64)?.to_vec1()?;
    let image = |(k, image): (usize, i64)| {
        usize::try_from(image).ok().filter(|&image| image < batch).ok_or_else(|| {
            Error::argument(what, format!("box {k} is of picture {image}, the batch has {batch}"))
        })
    };
    numbers.into_iter().enumerate().map(image).collect()
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Key;
    use crate::testing::gradcheck;

    const BOXES: [[f64; 4]; 5] = [
        [0., 0., 1., 1.],
        [0.25, 0.25, 0.75, 0.75],
        [-0.2, 0.5, 0.6, 1.2],
        [1., 1., 0., 0.],
        [0.5, 0.1, 0.5, 0.1],
    ];

    fn crops(crop_size: [usize; 2], boxes: &[[f64; 4]]) -> Vec<Vec<f64>> {
        let image = Tensor::arange(0f64, 20., &Device::Cpu).unwrap().reshape((1, 4, 5, 1)).unwrap();
        let boxes = Tensor::from_vec(boxes.concat(), (boxes.len(), 4), &Device::Cpu).unwrap();
        let ind = Tensor::zeros(boxes.dims()[0], DType::U32, &Device::Cpu).unwrap();
        let args = CropAndResizeArgs { crop_size, ..CropAndResizeArgs::default() };
        let y = crop_and_resize(&FeatureMap::from_nhwc(image).unwrap(), &boxes, &ind, &args).unwrap();
        let rounded = |x: &f64| (x * 1e9).round() / 1e9;
        y.nhwc()
            .flatten_from(1)
            .unwrap()
            .to_vec2::<f64>()
            .unwrap()
            .iter()
            .map(|row| row.iter().map(rounded).collect())
            .collect()
    }

    #[test]
    fn crops_of_a_ramp() {
        let y = crops([3, 3], &BOXES);
        assert_eq!(y[0], [0., 2., 4., 7.5, 9.5, 11.5, 15., 17., 19.]);
        assert_eq!(y[1], [4.75, 5.75, 6.75, 8.5, 9.5, 10.5, 12.25, 13.25, 14.25]);
        assert_eq!(y[2], [0., 0., 0., 5., 6.4, 0., 11., 12.4, 0.]);
        assert_eq!(y[3], [19., 17., 15., 11.5, 9.5, 7.5, 4., 2., 0.]);
        assert_eq!(y[4], [7.9; 9]);
        assert_eq!(crops([1, 1], &BOXES[..3]).concat(), [9.5, 9.5, 6.4]);
    }

    #[test]
    fn gradient_of_the_image() {
        let image = Key::new(1).normal((2, 5, 4, 3), 0., 1., DType::F64, &Device::Cpu).unwrap();
        let boxes = Tensor::new(&BOXES, &Device::Cpu).unwrap();
        let ind = Tensor::new(&[0i64, 1, 1, 0, 1], &Device::Cpu).unwrap();
        for method in [CropMethod::Bilinear, CropMethod::Nearest] {
            let args = CropAndResizeArgs { crop_size: [3, 4], method, extrapolation_value: 0.5 };
            let run = |t: &[Tensor]| {
                Ok(crop_and_resize(&FeatureMap::from_nhwc(t[0].clone())?, &boxes, &ind, &args)?
                    .nhwc()
                    .clone())
            };
            gradcheck(run, std::slice::from_ref(&image), 1e-6, 1e-8).unwrap();
        }
    }

    #[test]
    fn errors_name_the_argument() {
        let image =
            FeatureMap::from_nhwc(Tensor::zeros((1, 2, 2, 1), DType::F32, &Device::Cpu).unwrap()).unwrap();
        let boxes = Tensor::new(&[[0f32, 0., 1., 1.]], &Device::Cpu).unwrap();
        let fails = |boxes: &Tensor, ind: &Tensor, message: &str| {
            let error =
                crop_and_resize(&image, boxes, ind, &CropAndResizeArgs::default()).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        };
        let ind = |k: i64| Tensor::new(&[k], &Device::Cpu).unwrap();
        fails(&boxes, &ind(1), "picture 1");
        fails(&boxes, &ind(-1), "picture -1");
        fails(&boxes, &boxes.squeeze(0).unwrap(), "crop_and_resize: box_ind");
        fails(&boxes.squeeze(0).unwrap(), &ind(0), "crop_and_resize: boxes");
        fails(&(&boxes * f64::NAN).unwrap(), &ind(0), "box 0 contains NaN");
    }

    proptest! {
        #[test]
        fn nothing_panics(
            size in prop::array::uniform4(0usize..5),
            sides in prop::array::uniform4(prop::num::f32::ANY),
            crop_size in prop::array::uniform2(0usize..4),
            image in 0i64..3,
            nearest: bool,
        ) {
            let map = FeatureMap::from_nhwc(Tensor::ones(&size, DType::F32, &Device::Cpu).unwrap()).unwrap();
            let method = if nearest { CropMethod::Nearest } else { CropMethod::Bilinear };
            let args = CropAndResizeArgs { crop_size, method, ..CropAndResizeArgs::default() };
            let boxes = Tensor::new(&[sides], &Device::Cpu).unwrap();
            let _ = crop_and_resize(&map, &boxes, &Tensor::new(&[image], &Device::Cpu).unwrap(), &args);
        }
    }
}
