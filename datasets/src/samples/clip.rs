//! A short clip from a fixed camera.

use std::io::Read;
use std::path::Path;

use vision_image::Image;

use super::embedded;
use crate::{Error, Result};

const PATH: &str = "samples/walk-clip/frames.tar";

/// 115 frames of 284x160, RGB, in order: every second frame of a video of two people, one walking past,
/// one jumping from a wall, before a camera that does not move. The exposure jumps a few times between
/// frames 81 and 92, where the jumper covers the sun.
///
/// # Errors
/// If the embedded file is damaged.
pub fn walk_clip() -> Result<Vec<Image>> {
    frames(embedded!("walk-clip/frames.tar"))
}

/// The pictures in an uncompressed tar file, in its order, which must be that of their names.
fn frames(archive: &[u8]) -> Result<Vec<Image>> {
    let io = |source| Error::io(PATH, source);
    let mut frames = Vec::new();
    let mut last = String::new();
    for entry in tar::Archive::new(archive).entries().map_err(io)? {
        let mut entry = entry.map_err(io)?;
        let name = entry.path().map_err(io)?.to_string_lossy().into_owned();
        if name <= last {
            let problem = format!("follows {last:?}, frames lie in the order of their names");
            return Err(Error::Archive { path: PATH.into(), entry: name, problem });
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).map_err(io)?;
        let frame = vision_image::decode(&bytes)
            .map_err(|source| Error::Picture { path: Path::new(PATH).join(&name), source })?;
        frames.push(frame);
        last = name;
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_many_alike_and_in_order() {
        let clip = walk_clip().unwrap();
        assert_eq!(clip.len(), 115);
        assert!(clip.iter().all(|frame| (frame.width(), frame.height(), frame.channels()) == (284, 160, 3)));
        let distance = |a: &Image, b: &Image| -> f64 {
            let sum: u64 = a.data().iter().zip(b.data()).map(|(&a, &b)| u64::from(a.abs_diff(b))).sum();
            sum as f64 / a.data().len() as f64
        };
        let mut steps: Vec<f64> = clip.windows(2).map(|pair| distance(&pair[0], &pair[1])).collect();
        steps.sort_by(f64::total_cmp);
        // The camera stands still and somebody moves.
        assert!(steps[0] > 0.5 && steps[57] < 4.0, "smallest {}, median {}", steps[0], steps[57]);
    }

    #[test]
    fn damaged_archives_are_refused() {
        let archive = |names: &[&str], content: &[u8]| {
            let mut builder = tar::Builder::new(Vec::new());
            for name in names {
                let mut header = tar::Header::new_ustar();
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, name, content).unwrap();
            }
            builder.into_inner().unwrap()
        };
        let jpeg = vision_image::encode_jpeg(&Image::filled(8, 8, &[9; 3]).unwrap(), 90).unwrap();
        assert_eq!(frames(&archive(&["a", "b"], &jpeg)).unwrap().len(), 2);
        assert!(matches!(frames(&archive(&["b", "a"], &jpeg)), Err(Error::Archive { .. })));
        assert!(matches!(frames(&archive(&["a"], b"text")), Err(Error::Picture { .. })));
        assert!(frames(&[1; 700]).is_err());
    }
}
