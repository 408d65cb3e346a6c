//! Pictures that ask to be turned when they are shown.

/// The JPEG file without its Exif segments, and so without a turn; its pixels are untouched.
pub(super) fn upright(jpeg: &[u8]) -> std::result::Result<Vec<u8>, String> {
    const SOS: u8 = 0xda;
    let bad = || "it asks to be turned in a way that cannot be taken out of it".to_owned();
    let Some((start, mut rest)) = jpeg.split_at_checked(2).filter(|(start, _)| start == &[0xff, 0xd8]) else {
        return Err(bad());
    };
    let mut out = start.to_vec();
    loop {
        let Some(&[0xff, marker, high, low]) = rest.first_chunk::<4>() else {
            return Err(bad());
        };
        if marker == SOS {
            out.extend_from_slice(rest);
            return Ok(out);
        }
        let length = 2 + usize::from(u16::from_be_bytes([high, low]));
        let Some((segment, after)) = rest.split_at_checked(length) else {
            return Err(bad());
        };
        let exif = marker == 0xe1 && segment.get(4..).is_some_and(|data| data.starts_with(b"Exif\0"));
        if !exif {
            out.extend_from_slice(segment);
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vision_image::{Image, decode, encode_jpeg, probe};

    #[test]
    fn the_turn_goes_and_the_pixels_stay() {
        let plain = encode_jpeg(&Image::new(8, 4, 1, (0..32).map(|i| i * 8).collect()).unwrap(), 90).unwrap();
        // An Exif segment of one entry: orientation 6, a quarter turn.
        let exif =
            b"\xff\xe1\x00\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let turned = [&plain[..2], exif, &plain[2..]].concat();
        assert_eq!((decode(&turned).unwrap().width(), decode(&turned).unwrap().height()), (4, 8));
        let found = probe(&turned).unwrap();
        assert_eq!((found.width, found.height, found.turned), (8, 4, true));
        assert_eq!(upright(&turned).unwrap(), plain);
        assert_eq!(upright(&plain).unwrap(), plain);
        for end in 0..turned.len() / 2 {
            drop(upright(&turned[..end]));
        }
    }
}
