//! Names and colours of the classes of segmentation sets; their `classes.json`.

use serde::Serialize;
use vision_image::palette::voc;

use crate::{Error, Result};

/// The value of pixels that do not count.
pub(super) const IGNORE: u8 = 255;

/// What `classes.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Classes {
    /// The name of each class.
    #[serde(rename = "classes")]
    pub(super) names: Vec<String>,
    /// A colour for each class.
    pub(super) palette: Vec<[u8; 3]>,
    /// The value of pixels that do not count.
    pub(super) ignore: u8,
    /// What is added to a class for submission files.
    pub(super) submission_offset: u8,
    /// How results are scored.
    pub(super) evaluation: String,
}

impl Classes {
    pub(super) fn new(
        names: impl IntoIterator<Item = impl Into<String>>,
        submission_offset: u8,
        evaluation: &str,
    ) -> Self {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        let offset = usize::from(submission_offset);
        // The colour of the number that stands in submissions.
        let palette = voc(names.len() + offset).into_iter().skip(offset).collect();
        let evaluation = evaluation.to_owned();
        Self { names, palette, ignore: IGNORE, submission_offset, evaluation }
    }

    pub(super) fn with_palette(mut self, palette: &[[u8; 3]]) -> Self {
        self.palette = palette.to_vec();
        self
    }

    pub(super) fn to_json(&self) -> Result<String> {
        serde_json::to_string(self)
            .map(|text| text + "\n")
            .map_err(|error| Error::Manifest { what: "classes.json".to_owned(), problem: error.to_string() })
    }
}

/// The classes of PASCAL VOC, the background first.
pub(super) const VOC: [&str; 21] = [
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
];

/// How VOC is scored.
pub(super) const VOC_EVALUATION: &str =
    "mean IoU over 21 classes, the background is one; pixels labelled 255 do not count";

/// The colours in which ADE20K is usually shown, as red, green and blue.
pub(super) fn ade20k_palette() -> [[u8; 3]; 150] {
    ADE20K_COLOURS.map(|colour| {
        let [_, red, green, blue] = u32::to_be_bytes(colour);
        [red, green, blue]
    })
}

#[rustfmt::skip]
const ADE20K_COLOURS: [u32; 150] = [
    0x787878, 0xb47878, 0x06e6e6, 0x503232, 0x04c803, 0x787850, 0x8c8c8c, 0xcc05ff, 0xe6e6e6, 0x04fa07,
    0xe005ff, 0xebff07, 0x96053d, 0x787846, 0x08ff33, 0xff0652, 0x8fff8c, 0xccff04, 0xff3307, 0xcc4603,
    0x0066c8, 0x3de6fa, 0xff0633, 0x0b66ff, 0xff0747, 0xff09e0, 0x0907e6, 0xdcdcdc, 0xff095c, 0x7009ff,
    0x08ffd6, 0x07ffe0, 0xffb806, 0x0aff47, 0xff290a, 0x07ffff, 0xe0ff08, 0x6608ff, 0xff3d06, 0xffc207,
    0xff7a08, 0x00ff14, 0xff0829, 0xff0599, 0x0633ff, 0xeb0cff, 0xa09614, 0x00a3ff, 0x8c8c8c, 0xfa0a0f,
    0x14ff00, 0x1fff00, 0xff1f00, 0xffe000, 0x99ff00, 0x0000ff, 0xff4700, 0x00ebff, 0x00adff, 0x1f00ff,
    0x0bc8c8, 0xff5200, 0x00fff5, 0x003dff, 0x00ff70, 0x00ff85, 0xff0000, 0xffa300, 0xff6600, 0xc2ff00,
    0x008fff, 0x33ff00, 0x0052ff, 0x00ff29, 0x00ffad, 0x0a00ff, 0xadff00, 0x00ff99, 0xff5c00, 0xff00ff,
    0xff00f5, 0xff0066, 0xffad00, 0xff0014, 0xffb8b8, 0x001fff, 0x00ff3d, 0x0047ff, 0xff00cc, 0x00ffc2,
    0x00ff52, 0x000aff, 0x0070ff, 0x3300ff, 0x00c2ff, 0x007aff, 0x00ffa3, 0xff9900, 0x00ff0a, 0xff7000,
    0x8fff00, 0x5200ff, 0xa3ff00, 0xffeb00, 0x08b8aa, 0x8500ff, 0x00ff5c, 0xb800ff, 0xff001f, 0x00b8ff,
    0x00d6ff, 0xff0070, 0x5cff00, 0x00e0ff, 0x70e0ff, 0x46b8a0, 0xa300ff, 0x9900ff, 0x47ff00, 0xff00a3,
    0xffcc00, 0xff008f, 0x00ffeb, 0x85ff00, 0xff00eb, 0xf500ff, 0xff007a, 0xfff500, 0x0abed4, 0xd6ff00,
    0x00ccff, 0x1400ff, 0xffff00, 0x0099ff, 0x0029ff, 0x00ffcc, 0x2900ff, 0x29ff00, 0xad00ff, 0x00f5ff,
    0x4700ff, 0x7a00ff, 0x00ffb8, 0x005cff, 0xb8ff00, 0x0085ff, 0xffd600, 0x19c2c2, 0x66ff00, 0x5c00ff,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_follow_submissions() {
        assert_eq!(Classes::new(VOC, 0, "").palette[15], [192, 128, 128]);
        assert_eq!(Classes::new(["aeroplane", "bag"], 1, "").palette, [[128, 0, 0], [0, 128, 0]]);
        let ade = ade20k_palette();
        assert_eq!((ade[0], ade[1], ade[149]), ([120; 3], [180, 120, 120], [92, 0, 255]));
    }
}
