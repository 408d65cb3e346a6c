//! Colours for classes.

use crate::error::{Error, Result};

/// The colour map of PASCAL VOC for the first `count` classes, as the development kit's `VOClabelcolormap`: black for 0,
/// and the bits of the class spread over the high bits of red, green and blue. The kit has 256 colours; the rule goes on
/// to 2^24 before they repeat.
pub fn voc(count: usize) -> Vec<[u8; 3]> {
    (0..count)
        .map(|class| {
            let mut color = [0_u8; 3];
            for bit in 0..8 {
                for (channel, value) in color.iter_mut().enumerate() {
                    *value |= ((class >> (3 * bit + channel) & 1) as u8) << (7 - bit);
                }
            }
            color
        })
        .collect()
}

/// Levels per channel that [`distinct`] picks from.
const LEVELS: usize = 16;

/// All colours [`distinct`] can pick: black and white are taken.
const MOST: usize = LEVELS * LEVELS * LEVELS - 2;

/// `count` colours of which each is as far as possible from those before it and from black and white, by the distance in
/// Oklab, which follows what people see. More colours begin with the same ones, so a class keeps its colour when classes
/// are added.
///
/// # Errors
/// `Argument` for more than 4094 colours.
pub fn distinct(count: usize) -> Result<Vec<[u8; 3]>> {
    if count > MOST {
        return Err(Error::argument("count", format!("{count} colours, there are {MOST}")));
    }
    let level = |index: usize| (index % LEVELS * 255 / (LEVELS - 1)) as u8;
    let grid: Vec<[u8; 3]> = (0..LEVELS * LEVELS * LEVELS)
        .map(|index| [level(index / LEVELS / LEVELS), level(index / LEVELS), level(index)])
        .collect();
    let seen: Vec<[i32; 3]> = grid.iter().map(|&rgb| oklab(rgb)).collect();
    let (black, white) = (oklab([0; 3]), oklab([255; 3]));
    let mut nearest: Vec<i32> =
        seen.iter().map(|&color| distance(color, black).min(distance(color, white))).collect();
    let mut palette = Vec::with_capacity(count);
    while palette.len() < count {
        // The first of the farthest; a colour that is taken has distance 0.
        let Some((pick, _)) = nearest.iter().enumerate().rev().max_by_key(|&(_, &distance)| distance) else {
            break;
        };
        palette.push(grid[pick]);
        for (nearest, &color) in nearest.iter_mut().zip(&seen) {
            *nearest = (*nearest).min(distance(color, seen[pick]));
        }
    }
    Ok(palette)
}

/// Squared distance of two colours.
fn distance(a: [i32; 3], b: [i32; 3]) -> i32 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// A colour in Oklab (Ottosson 2020), in steps of 1/8192: whole numbers, so that the last bit of a root decides nothing.
fn oklab(rgb: [u8; 3]) -> [i32; 3] {
    let [r, g, b] = rgb.map(|value| {
        let value = f64::from(value) / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    });
    let l = (0.412_221_470_8 * r + 0.536_332_536_3 * g + 0.051_445_992_9 * b).cbrt();
    let m = (0.211_903_498_2 * r + 0.680_699_545_1 * g + 0.107_396_956_6 * b).cbrt();
    let s = (0.088_302_461_9 * r + 0.281_718_837_6 * g + 0.629_978_700_5 * b).cbrt();
    [
        0.210_454_255_3 * l + 0.793_617_785_0 * m - 0.004_072_046_8 * s,
        1.977_998_495_1 * l - 2.428_592_205_0 * m + 0.450_593_709_9 * s,
        0.025_904_037_1 * l + 0.782_771_766_2 * m - 0.808_675_766_0 * s,
    ]
    .map(|value| (value * 8192.0).round() as i32)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn voc_colours_are_those_of_the_kit() {
        let palette = voc(256);
        // background, aeroplane, bicycle, person, tvmonitor, not labelled.
        let known: [(usize, [u8; 3]); 6] = [
            (0, [0, 0, 0]),
            (1, [128, 0, 0]),
            (2, [0, 128, 0]),
            (15, [192, 128, 128]),
            (20, [0, 64, 128]),
            (255, [224, 224, 192]),
        ];
        for (class, color) in known {
            assert_eq!(palette[class], color, "class {class}");
        }
        assert_eq!(palette.iter().collect::<BTreeSet<_>>().len(), 256);
        assert!(voc(0).is_empty());
    }

    #[test]
    fn distinct_colours_differ_and_stay() {
        let palette = distinct(256).unwrap();
        assert_eq!(distinct(19).unwrap(), palette[..19]);
        assert!(distinct(0).unwrap().is_empty());
        let least = |colors: &[[u8; 3]]| {
            let all: Vec<_> = colors.iter().map(|&rgb| oklab(rgb)).collect();
            let pairs = (0..all.len()).flat_map(|a| (0..a).map(move |b| (a, b)));
            pairs.map(|(a, b)| distance(all[a], all[b])).min().unwrap()
        };
        let with_ends = |count: usize| [&palette[..count], &[[0; 3], [255; 3]]].concat();
        // A just noticeable difference is about 0.02.
        for (count, apart) in [(20, 0.15), (150, 0.06), (256, 0.045)] {
            let got = f64::from(least(&with_ends(count))).sqrt() / 8192.0;
            assert!(got > apart, "{count} colours: {got}");
        }
    }

    #[test]
    fn every_colour_of_the_grid_can_be_had_once() {
        let palette = distinct(MOST).unwrap();
        assert_eq!(palette.iter().collect::<BTreeSet<_>>().len(), MOST);
        assert!(matches!(distinct(MOST + 1), Err(Error::Argument { name: "count", .. })));
    }
}
