//! From plain pixels to tensors: the one place where pictures enter the tensor world.

use candle_core::{Device, Tensor};
use rayon::prelude::*;
use vision_core::{Error, Result};
use vision_datasets::transforms::Pixels;

/// Stacks pictures of equal size into a `(N, C, H, W)` tensor of f32 on `device`, with one copy to it.
///
/// # Errors
/// If there is no picture, they differ in size, or one does not hold as many numbers as its size says.
pub fn to_tensor(pixels: &[Pixels], device: &Device) -> Result<Tensor> {
    let [height, width, channels] = common_size(pixels)?;
    let plane = height * width;
    let mut data = vec![0f32; pixels.len() * channels * plane];
    if plane * channels > 0 {
        data.par_chunks_mut(channels * plane).zip(pixels).for_each(|(out, picture)| {
            for (channel, out) in out.chunks_mut(plane).enumerate() {
                for (value, pixel) in out.iter_mut().zip(picture.data.chunks_exact(channels)) {
                    *value = pixel[channel];
                }
            }
        });
    }
    Ok(Tensor::from_vec(data, (pixels.len(), channels, height, width), device)?)
}

/// Stacks pictures of equal size into a `(N, H, W, C)` tensor of f32 on `device`: the layout of
/// [`FeatureMap`](vision_core::FeatureMap).
///
/// # Errors
/// As [`to_tensor`].
pub fn to_tensor_nhwc(pixels: &[Pixels], device: &Device) -> Result<Tensor> {
    let [height, width, channels] = common_size(pixels)?;
    let mut data = Vec::with_capacity(pixels.len() * height * width * channels);
    for picture in pixels {
        data.extend_from_slice(&picture.data);
    }
    Ok(Tensor::from_vec(data, (pixels.len(), height, width, channels), device)?)
}

/// Height, width and channels of all pictures.
fn common_size(pixels: &[Pixels]) -> Result<[usize; 3]> {
    let size = |picture: &Pixels| [picture.height, picture.width, picture.channels];
    let failed = |problem: String| Err(Error::argument("batch of pictures", problem));
    let Some(first) = pixels.first().map(size) else {
        return failed("no pictures".to_owned());
    };
    for (index, picture) in pixels.iter().enumerate() {
        if size(picture) != first {
            return failed(format!(
                "picture {index} has height, width, channels {:?}, the first has {first:?}",
                size(picture)
            ));
        }
        let expected = first.iter().product::<usize>();
        if picture.data.len() != expected {
            return failed(format!("picture {index} holds {} numbers, not {expected}", picture.data.len()));
        }
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Value of pixel (x, y) in channel c is 100 c + 10 y + x.
    fn picture(add: f32) -> Pixels {
        let mut data = Vec::new();
        for y in 0..2 {
            for x in 0..3 {
                for c in 0..2 {
                    data.push(add + (100 * c + 10 * y + x) as f32);
                }
            }
        }
        Pixels { data, height: 2, width: 3, channels: 2 }
    }

    #[test]
    fn both_layouts_hold_the_same_numbers() {
        let pictures = [picture(0.0), picture(1000.0)];
        let nchw = to_tensor(&pictures, &Device::Cpu).unwrap();
        assert_eq!(nchw.dims(), [2, 2, 2, 3]);
        let nhwc = to_tensor_nhwc(&pictures, &Device::Cpu).unwrap();
        assert_eq!(nhwc.dims(), [2, 2, 3, 2]);
        let flat = |t: &Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert_eq!(flat(&nchw)[..6], [0.0, 1.0, 2.0, 10.0, 11.0, 12.0]);
        assert_eq!(flat(&nchw), flat(&nhwc.permute((0, 3, 1, 2)).unwrap().contiguous().unwrap()));
    }

    #[test]
    fn unequal_sizes_and_nothing_are_errors() {
        assert!(to_tensor(&[], &Device::Cpu).is_err());
        let mut small = picture(0.0);
        small.height = 1;
        small.data.truncate(6);
        let error = to_tensor(&[picture(0.0), small.clone()], &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("picture 1"), "{error}");
        small.data.pop();
        assert!(to_tensor_nhwc(&[small], &Device::Cpu).is_err());
    }
}
