//! Configurations: defaults, presets, files and single values merged into one checked struct.
//!
//! The order is `Default`, then the chain of `base` files from the farthest to the nearest, then the file
//! itself, then each `--set key=value`. Tables are merged key by key, everything else is replaced. A table
//! whose `kind` changes is replaced as a whole, because another kind has other keys. The `[expect]` table
//! is not part of the struct; it is taken from the named file only, since a bound holds for the exact
//! settings it was measured with.

mod expect;
mod load;
mod merge;
mod run;

pub use expect::{Bound, Check, Expect, check_expectations};
pub use load::{load, parse_resolved};
pub use merge::{differing_keys, flatten};
pub use run::{NonFinite, RunConfig};

use std::path::{Path, PathBuf};

use crate::recipe::RecipeConfig;

/// Where a configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// The `Default` of the struct.
    Default,
    /// An embedded configuration.
    Preset(String),
    /// A TOML file.
    Path(PathBuf),
    /// TOML text with a name for messages.
    Text {
        /// Name for messages.
        name: String,
        /// The TOML.
        toml: String,
    },
}

impl ConfigSource {
    /// What `--config argument` means: a file if one is there or the name ends in `.toml`, else a preset.
    pub fn from_argument(argument: &str) -> Self {
        let path = Path::new(argument);
        let is_toml = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
        if is_toml || path.is_file() {
            Self::Path(path.to_owned())
        } else {
            Self::Preset(argument.to_owned())
        }
    }

    /// Name for messages.
    pub fn name(&self) -> String {
        match self {
            Self::Default => "defaults".to_owned(),
            Self::Preset(name) => format!("preset `{name}`"),
            Self::Path(path) => path.display().to_string(),
            Self::Text { name, .. } => name.clone(),
        }
    }
}

/// A configuration with everything merged and checked.
#[derive(Clone, Debug)]
pub struct Resolved<C> {
    /// The values.
    pub config: C,
    /// What the results are expected to be.
    pub expect: Vec<Expect>,
    /// Every value spelled out, as it is written to the run folder and into checkpoints.
    pub toml: String,
    /// Name of the file or preset it came from.
    pub source: String,
}

impl<C: RecipeConfig> Resolved<C> {
    /// Wraps a configuration made in code.
    ///
    /// # Errors
    /// If it is not valid, or cannot be written as TOML.
    pub fn new(config: C) -> crate::Result<Self> {
        load::finish(config, Vec::new(), "configuration".to_owned())
    }

    /// [`Resolved::toml`] with the `[expect]` table: a file that [`load`] reads back to the same.
    ///
    /// # Errors
    /// If the table cannot be written as TOML.
    pub fn file_text(&self) -> crate::Result<String> {
        if self.expect.is_empty() {
            return Ok(self.toml.clone());
        }
        let table = toml::Table::from_iter([(
            "expect".to_owned(),
            toml::Value::Table(expect::expect_table(&self.expect)),
        )]);
        let expect = toml::to_string(&table)
            .map_err(|error| crate::Error::config(&self.source, "expect", error.to_string()))?;
        Ok(format!("{}\n{expect}", self.toml))
    }
}
