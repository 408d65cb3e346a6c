//! What an evaluation found, and the page that shows it.

mod curves;
mod html;
mod save;

pub use html::Page;
pub(crate) use save::read_values;
pub use save::write_report;

use vision_eval::Value;
use vision_image::Image;

/// The result of one evaluation.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Headline numbers; names are unique.
    pub values: Vec<Value>,
    /// Tables, in the order they are shown.
    pub tables: Vec<Table>,
    /// Pictures, in the order they are shown.
    pub pictures: Vec<Picture>,
    /// Plots, in the order they are shown.
    pub series: Vec<Series>,
}

impl Report {
    /// The number called `name`.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.values.iter().find(|value| value.name == name).map(|value| value.value)
    }
}

/// A table of text.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Table {
    /// Heading.
    pub title: String,
    /// Column names.
    pub header: Vec<String>,
    /// Cells; every row as long as the header.
    pub rows: Vec<Vec<String>>,
}

/// A picture to show.
#[derive(Clone, Debug)]
pub struct Picture {
    /// Short name; also its file name.
    pub name: String,
    /// What can be seen.
    pub caption: String,
    /// The pixels.
    pub image: Image,
}

/// A plot of one or more lines.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Series {
    /// Heading.
    pub title: String,
    /// Meaning of x.
    pub x_label: String,
    /// Meaning of y.
    pub y_label: String,
    /// Name and points (x, y) of each line.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}
