//! Colour changes with the arithmetic of Pillow's `ImageEnhance` and torchvision's functional transforms on Pillow
//! images, so that augmented training pictures have the statistics of the originals.
//!
//! All functions take pictures of three channels. A factor of 1 changes nothing; 0 gives black, flat grey or grey.

use crate::error::{Error, Result};
use crate::picture::{Image, luma};

fn check_rgb(image: &Image) -> Result<()> {
    if image.channels() == 3 {
        return Ok(());
    }
    Err(Error::Shape { what: "picture", expected: "3 channels".into(), got: image.channels().to_string() })
}

fn check_factor(factor: f32) -> Result<()> {
    if factor.is_finite() && factor >= 0.0 {
        return Ok(());
    }
    Err(Error::argument("factor", format!("{factor} is not finite and at least 0")))
}

/// `from + factor * (to - from)` in single precision, cut towards zero and clipped, as Pillow's `Image.blend`.
fn mix(from: u8, to: u8, factor: f32) -> u8 {
    // Casting a float to an integer cuts and saturates.
    (f32::from(from) + factor * f32::from(i16::from(to) - i16::from(from))) as u8
}

/// Every sample times `factor`.
///
/// # Errors
/// `Shape` unless the picture has three channels, `Argument` if the factor is negative or not finite.
pub fn adjust_brightness(image: &mut Image, factor: f32) -> Result<()> {
    check_rgb(image)?;
    check_factor(factor)?;
    let table = table(|value| mix(0, value, factor));
    apply(image, &table);
    Ok(())
}

/// Every sample moved away from (`factor` > 1) or towards (`factor` < 1) the rounded mean of the luma.
///
/// # Errors
/// As [`adjust_brightness`].
pub fn adjust_contrast(image: &mut Image, factor: f32) -> Result<()> {
    check_rgb(image)?;
    check_factor(factor)?;
    let pixels = image.data().as_chunks::<3>().0;
    let sum: u64 = pixels.iter().map(|&rgb| u64::from(luma(rgb))).sum();
    let mean = (sum as f64 / pixels.len() as f64 + 0.5) as u8;
    let table = table(|value| mix(mean, value, factor));
    apply(image, &table);
    Ok(())
}

/// Every pixel moved away from (`factor` > 1) or towards (`factor` < 1) its own luma.
///
/// # Errors
/// As [`adjust_brightness`].
pub fn adjust_saturation(image: &mut Image, factor: f32) -> Result<()> {
    check_rgb(image)?;
    check_factor(factor)?;
    for rgb in image.data_mut().as_chunks_mut::<3>().0 {
        let grey = luma(*rgb);
        *rgb = rgb.map(|value| mix(grey, value, factor));
    }
    Ok(())
}

/// The hue turned by `shift` of a full circle, from -0.5 to 0.5, in Pillow's HSV bytes: `shift * 255` is cut towards
/// zero and added with wrap-around. Even a shift of 0 goes through HSV and loses a little, as in torchvision.
///
/// # Errors
/// `Shape` unless the picture has three channels, `Argument` if the shift is out of range.
pub fn adjust_hue(image: &mut Image, shift: f32) -> Result<()> {
    check_rgb(image)?;
    if !(-0.5..=0.5).contains(&shift) {
        return Err(Error::argument("shift", format!("{shift} is not in -0.5..=0.5")));
    }
    let turn = ((f64::from(shift) * 255.0) as i32) as u8;
    for rgb in image.data_mut().as_chunks_mut::<3>().0 {
        let [h, s, v] = rgb_to_hsv(*rgb);
        *rgb = hsv_to_rgb([h.wrapping_add(turn), s, v]);
    }
    Ok(())
}

/// The luma of each pixel, three times: torchvision's `rgb_to_grayscale(num_output_channels=3)`.
///
/// # Errors
/// `Shape` unless the picture has three channels.
pub fn grayscale3(image: &Image) -> Result<Image> {
    check_rgb(image)?;
    let mut out = image.clone();
    for rgb in out.data_mut().as_chunks_mut::<3>().0 {
        *rgb = [luma(*rgb); 3];
    }
    Ok(out)
}

fn table(f: impl Fn(u8) -> u8) -> [u8; 256] {
    let mut table = [0; 256];
    for (value, entry) in (0..=255).zip(&mut table) {
        *entry = f(value);
    }
    table
}

fn apply(image: &mut Image, table: &[u8; 256]) {
    for sample in image.data_mut() {
        *sample = table[usize::from(*sample)];
    }
}

/// Pillow's `RGB` to `HSV`: hue and saturation scaled to 0..=255, all cut towards zero.
fn rgb_to_hsv([r, g, b]: [u8; 3]) -> [u8; 3] {
    let (high, low) = (r.max(g).max(b), r.min(g).min(b));
    if high == low {
        return [0, 0, high];
    }
    let range = f32::from(high - low);
    let saturation = range / f32::from(high);
    let part = |value: u8| f32::from(high - value) / range;
    // Sums in double, stored in single precision, in the order of Pillow's C code: the cut below sees the last bit.
    let sector = if r == high {
        part(b) - part(g)
    } else if g == high {
        (2.0 + f64::from(part(r)) - f64::from(part(b))) as f32
    } else {
        (4.0 + f64::from(part(g)) - f64::from(part(r))) as f32
    };
    let hue = ((f64::from(sector) / 6.0 + 1.0) % 1.0) as f32;
    [(f64::from(hue) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, high]
}

/// Pillow's `HSV` to `RGB`, rounded.
fn hsv_to_rgb([h, s, v]: [u8; 3]) -> [u8; 3] {
    if s == 0 {
        return [v; 3];
    }
    let position = f64::from(f32::from(h) * 6.0) / 255.0;
    let sector = position.floor();
    let rest = (position - sector) as f32;
    let saturation = (f64::from(s) / 255.0) as f32;
    let value = f64::from(v);
    let p = (value * (1.0 - f64::from(saturation))).round() as u8;
    let q = (value * (1.0 - f64::from(saturation * rest))).round() as u8;
    let t = (value * (1.0 - f64::from(saturation) * (1.0 - f64::from(rest)))).round() as u8;
    match sector as u8 % 6 {
        0 => [v, t, p],
        1 => [q, v, p],
        2 => [p, v, t],
        3 => [p, q, v],
        4 => [t, p, v],
        _ => [v, p, q],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_sorts() -> Image {
        Image::new(64, 64, 3, (0..64 * 64 * 3).map(|i: usize| (i * i / 7 % 256) as u8).collect()).unwrap()
    }

    #[test]
    fn factor_one_changes_nothing() {
        let want = all_sorts();
        for change in [adjust_brightness, adjust_contrast, adjust_saturation] {
            let mut image = want.clone();
            change(&mut image, 1.0).unwrap();
            assert_eq!(image, want);
        }
    }

    #[test]
    fn factor_zero_is_black_flat_or_grey() {
        let mut image = all_sorts();
        adjust_brightness(&mut image, 0.0).unwrap();
        assert!(image.data().iter().all(|&v| v == 0));
        let mut image = all_sorts();
        adjust_contrast(&mut image, 0.0).unwrap();
        assert!(image.data().windows(2).all(|pair| pair[0] == pair[1]));
        let mut image = all_sorts();
        adjust_saturation(&mut image, 0.0).unwrap();
        assert_eq!(image, grayscale3(&all_sorts()).unwrap());
    }

    #[test]
    fn hue_keeps_grey_and_turns_red_to_green() {
        let mut grey = grayscale3(&all_sorts()).unwrap();
        adjust_hue(&mut grey, 0.3).unwrap();
        assert_eq!(grey, grayscale3(&all_sorts()).unwrap());
        let mut red = Image::filled(1, 1, &[255, 0, 0]).unwrap();
        adjust_hue(&mut red, 1.0 / 3.0).unwrap();
        assert_eq!(red.data(), [0, 255, 0]);
    }

    #[test]
    fn bad_arguments_are_errors() {
        let mut image = all_sorts();
        for factor in [-0.1, f32::NAN, f32::INFINITY] {
            assert!(adjust_brightness(&mut image, factor).is_err());
            assert!(adjust_contrast(&mut image, factor).is_err());
            assert!(adjust_saturation(&mut image, factor).is_err());
        }
        for shift in [-0.51, 0.51, f32::NAN] {
            assert!(matches!(adjust_hue(&mut image, shift), Err(Error::Argument { .. })));
        }
        let mut grey = Image::filled(2, 2, &[0]).unwrap();
        assert!(matches!(adjust_hue(&mut grey, 0.1), Err(Error::Shape { .. })));
        assert!(matches!(grayscale3(&grey), Err(Error::Shape { .. })));
    }
}
