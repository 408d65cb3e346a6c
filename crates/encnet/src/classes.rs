//! What classes are called and how they are drawn, as it travels with weights.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use vision_image::palette;

use crate::error::{Error, Result};

/// Names and colours of classes, by label.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Classes {
    /// Names.
    pub names: Vec<String>,
    /// Colours in drawings.
    pub palette: Vec<[u8; 3]>,
    /// What is added to a label in a submission.
    pub submission_offset: u8,
}

/// Where they stand in the metadata of a weight file.
const KEY: &str = "classes";

impl Classes {
    /// Numbers for names and easily told colours, where nothing better is known.
    ///
    /// # Errors
    /// If there are more classes than colours.
    pub fn unnamed(count: usize) -> Result<Self> {
        let names = (0..count).map(|class| format!("class {class}")).collect();
        Ok(Self { names, palette: palette::distinct(count)?, submission_offset: 0 })
    }

    /// Those in the metadata of a weight file, if it has any.
    ///
    /// # Errors
    /// If they are damaged.
    pub fn from_metadata(metadata: &BTreeMap<String, String>) -> Result<Option<Self>> {
        let parse = |text: &String| {
            let classes: Self = serde_json::from_str(text)
                .map_err(|error| Error::config(KEY, format!("in the weight file's metadata: {error}")))?;
            if classes.names.len() != classes.palette.len() {
                let problem = format!("{} names but {} colours", classes.names.len(), classes.palette.len());
                return Err(Error::config(KEY, problem));
            }
            Ok(classes)
        };
        metadata.get(KEY).map(parse).transpose()
    }

    /// As they are put into the metadata of a weight file.
    ///
    /// # Errors
    /// Never; the encoder's own check is passed on.
    pub fn to_metadata(&self) -> Result<BTreeMap<String, String>> {
        let text = serde_json::to_string(self).map_err(|error| Error::config(KEY, error.to_string()))?;
        Ok(BTreeMap::from([(KEY.to_owned(), text)]))
    }
}
