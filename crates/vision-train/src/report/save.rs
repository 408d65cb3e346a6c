//! An evaluation as files: JSON beside its pictures.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use super::{Report, Series, Table};
use crate::error::{Error, Result};
use crate::run_folder::{read_text, replace_file, replace_json};

#[derive(Serialize)]
struct Saved<'a> {
    step: u64,
    epoch: u64,
    values: Vec<SavedValue<'a>>,
    tables: &'a [Table],
    series: &'a [Series],
    pictures: Vec<SavedPicture<'a>>,
}

#[derive(Serialize)]
struct SavedValue<'a> {
    name: &'a str,
    value: f64,
    unit: String,
    higher_is_better: Option<bool>,
    count: u64,
}

#[derive(Serialize)]
struct SavedPicture<'a> {
    name: &'a str,
    caption: &'a str,
    file: String,
}

/// Writes `STEM.json` into `folder`, and a PNG for every picture. The JSON comes last: where it exists, the
/// evaluation is complete.
///
/// # Errors
/// If a file cannot be written or a picture cannot be encoded.
pub fn write_report(report: &Report, folder: &Path, stem: &str, step: u64, epoch: u64) -> Result<()> {
    let mut pictures = Vec::new();
    for picture in &report.pictures {
        let file = format!("{stem}-{}.png", file_name(&picture.name));
        replace_file(&folder.join(&file), &vision_image::encode_png(&picture.image)?)?;
        pictures.push(SavedPicture { name: &picture.name, caption: &picture.caption, file });
    }
    let values = report
        .values
        .iter()
        .map(|value| SavedValue {
            name: &value.name,
            value: value.value,
            unit: format!("{:?}", value.unit).to_lowercase(),
            higher_is_better: value.higher_is_better,
            count: value.count,
        })
        .collect();
    let saved = Saved { step, epoch, values, tables: &report.tables, series: &report.series, pictures };
    replace_json(&folder.join(format!("{stem}.json")), &saved)
}

/// Reads the values of a file made by [`write_report`].
pub(crate) fn read_values(path: &Path) -> Result<BTreeMap<String, f64>> {
    #[derive(serde::Deserialize)]
    struct Values {
        values: Vec<Entry>,
    }
    #[derive(serde::Deserialize)]
    struct Entry {
        name: String,
        // A value that was not finite is written as null.
        value: Option<f64>,
    }
    let found: Values = serde_json::from_str(&read_text(path)?)
        .map_err(|error| Error::Format { what: path.display().to_string(), problem: error.to_string() })?;
    Ok(found.values.into_iter().map(|entry| (entry.name, entry.value.unwrap_or(f64::NAN))).collect())
}

/// Letters, digits, `-` and `_` stay, everything else becomes `-`.
fn file_name(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' }).collect()
}
