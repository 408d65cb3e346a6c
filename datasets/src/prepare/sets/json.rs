//! Masks in annotation files of COCO's form.

use std::io::BufReader;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use vision_eval::rle::Rle;

use super::bad;
use crate::Result;
use crate::prepare::archive::Source;

/// Which pixels an object covers.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Mask {
    /// Outlines `[x, y, x, y, …]`.
    Polygons(Vec<Vec<f64>>),
    /// Runs of pixels outside and inside in turn, column by column.
    Runs {
        /// Height and width.
        size: [u32; 2],
        counts: Counts,
    },
}

/// The lengths of runs.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Counts {
    /// Packed into a text.
    Packed(String),
    /// As numbers.
    Plain(Vec<u32>),
}

impl Mask {
    /// Calls `paint` with the position, row by row, of every pixel that the mask covers, possibly more
    /// than once. The error says what is wrong.
    pub(super) fn each(
        &self,
        width: u32,
        height: u32,
        mut paint: impl FnMut(usize),
    ) -> std::result::Result<(), String> {
        let masks = match self {
            // Fewer than three corners surround nothing.
            Self::Polygons(polygons) => polygons
                .iter()
                .filter(|polygon| polygon.len() >= 6)
                .map(|polygon| Rle::from_polygon(height, width, polygon))
                .collect::<std::result::Result<Vec<_>, _>>(),
            Self::Runs { size, .. } if *size != [height, width] => {
                let [h, w] = size;
                return Err(format!("a mask of {w} x {h} pixels for a picture of {width} x {height}"));
            }
            Self::Runs { counts: Counts::Packed(text), .. } => {
                Rle::from_text(height, width, text).map(|mask| vec![mask])
            }
            Self::Runs { counts: Counts::Plain(counts), .. } => {
                Rle::from_counts(height, width, counts.clone()).map(|mask| vec![mask])
            }
        }
        .map_err(|error| error.to_string())?;
        for mask in masks {
            // Outside and inside in turn, column by column.
            let (mut at, mut inside) = (0usize, false);
            for &count in mask.counts() {
                let end = at + count as usize;
                if inside {
                    for position in at..end {
                        let (x, y) = (position / height as usize, position % height as usize);
                        paint(y * width as usize + x);
                    }
                }
                (at, inside) = (end, !inside);
            }
        }
        Ok(())
    }
}

/// Parses an entry of an archive, or a plain file, as JSON.
pub(super) fn parse<T: DeserializeOwned>(source: &Source, name: &str) -> Result<T> {
    source.with_reader(name, |reader| {
        serde_json::from_reader(BufReader::with_capacity(1 << 16, reader))
            .map_err(|error| bad(source, name, error.to_string()))
    })
}

/// A number, or its digits as a text: both occur as identifiers.
pub(super) fn number<'de, D: Deserializer<'de>>(input: D) -> std::result::Result<u64, D::Error> {
    key(input)?.parse().map_err(serde::de::Error::custom)
}

/// A text, or a number as a text.
pub(super) fn key<'de, D: Deserializer<'de>>(input: D) -> std::result::Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(u64),
        Text(String),
    }
    Ok(match Either::deserialize(input)? {
        Either::Number(number) => number.to_string(),
        Either::Text(text) => text,
    })
}
