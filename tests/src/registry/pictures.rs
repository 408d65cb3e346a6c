//! Picture operations of `vision_image`, against Pillow.

use anyhow::{Result, bail};
use candle_core::Tensor;
use vision_image::{Filter, Image, colour, resize, resize_box};

use super::{Op, op};
use crate::case::{Case, Outputs};

pub(super) const OPS: &[Op] = &[
    op("image.resize", &[], resize_image),
    op("image.to_gray", &[], to_gray),
    op("image.adjust_brightness", &[], |case| adjust(case, "brightness_factor", colour::adjust_brightness)),
    op("image.adjust_contrast", &[], |case| adjust(case, "contrast_factor", colour::adjust_contrast)),
    op("image.adjust_saturation", &[], |case| adjust(case, "saturation_factor", colour::adjust_saturation)),
    op("image.adjust_hue", &[], |case| adjust(case, "hue_factor", colour::adjust_hue)),
];

fn image(case: &Case) -> Result<Image> {
    let array = case.array("image")?;
    let &[height, width, channels] = array.shape.as_slice() else {
        bail!("in.image must be (height, width, channels), is {:?}", array.shape)
    };
    Ok(Image::new(width.try_into()?, height.try_into()?, channels.try_into()?, array.data.clone())?)
}

fn outputs(case: &Case, image: Image) -> Result<Outputs> {
    let shape = (image.height() as usize, image.width() as usize, usize::from(image.channels()));
    Ok(Outputs::default().with("image", Tensor::from_vec(image.into_data(), shape, &case.device)?))
}

fn resize_image(case: &Case) -> Result<Outputs> {
    let Some([width, height]) = case.args.pair("size")? else { bail!("argument size is missing") };
    let (width, height) = (width.try_into()?, height.try_into()?);
    let filter = match case.args.need_text("filter")?.as_str() {
        "nearest" => Filter::Nearest,
        "bilinear" => Filter::Bilinear,
        "bicubic" => Filter::Bicubic,
        "lanczos" => Filter::Lanczos,
        other => bail!("unknown filter {other}"),
    };
    let image = image(case)?;
    let resized = match case.args.numbers("box")?.as_deref() {
        None => resize(&image, width, height, filter)?,
        Some(&[x1, y1, x2, y2]) => {
            resize_box(&image, [x1 as f32, y1 as f32, x2 as f32, y2 as f32], width, height, filter)?
        }
        Some(other) => bail!("box must have four numbers, has {}", other.len()),
    };
    outputs(case, resized)
}

fn to_gray(case: &Case) -> Result<Outputs> {
    outputs(case, image(case)?.to_gray())
}

fn adjust(
    case: &Case,
    name: &str,
    change: fn(&mut Image, f32) -> vision_image::Result<()>,
) -> Result<Outputs> {
    let mut image = image(case)?;
    change(&mut image, case.args.need_f64(name)? as f32)?;
    outputs(case, image)
}
