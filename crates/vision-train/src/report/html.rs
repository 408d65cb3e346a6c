//! A run on one page that needs no server and no other file.

use std::path::Path;

use base64::Engine;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment};
use serde::Serialize;

use super::curves::svg;
use super::{Report, Series, Table};
use crate::config::Check;
use crate::error::{Error, Result};
use crate::run_folder::replace_file;

/// What the page shows, from top to bottom.
#[derive(Clone, Debug, Default)]
pub struct Page<'a> {
    /// Heading.
    pub title: String,
    /// Line below it.
    pub subtitle: String,
    /// Expectations beside what was found.
    pub checks: &'a [Check],
    /// The latest evaluation: values, tables, plots and pictures.
    pub report: Option<&'a Report>,
    /// Curves of the run, shown before those of the report.
    pub curves: Vec<Series>,
    /// Name and text: versions, machine, data.
    pub facts: Vec<(String, String)>,
    /// The resolved configuration.
    pub config: &'a str,
}

/// What the template sees.
#[derive(Serialize)]
struct Shown<'a> {
    title: &'a str,
    subtitle: &'a str,
    checks: Vec<CheckRow>,
    values: Vec<ValueRow>,
    tables: &'a [Table],
    curves: Vec<String>,
    pictures: Vec<PictureRow>,
    facts: &'a [(String, String)],
    config: &'a str,
}

#[derive(Serialize)]
struct ValueRow {
    name: String,
    value: String,
    better: &'static str,
    count: u64,
}

#[derive(Serialize)]
struct CheckRow {
    metric: String,
    value: String,
    bound: String,
    class: &'static str,
    verdict: &'static str,
}

#[derive(Serialize)]
struct PictureRow {
    name: String,
    caption: String,
    png: String,
}

impl Page<'_> {
    /// The page as HTML. Every text is escaped.
    ///
    /// # Errors
    /// If a picture cannot be encoded or a plot cannot be drawn.
    pub fn html(&self) -> Result<String> {
        let failed = |error: minijinja::Error| Error::Format {
            what: "report page".to_owned(),
            problem: error.to_string(),
        };
        let empty = Report::default();
        let report = self.report.unwrap_or(&empty);
        let mut curves = Vec::new();
        for series in self.curves.iter().chain(&report.series) {
            curves.extend(svg(series)?);
        }
        let mut pictures = Vec::new();
        for picture in &report.pictures {
            let png = vision_image::encode_png(&picture.image)?;
            pictures.push(PictureRow {
                name: picture.name.clone(),
                caption: picture.caption.clone(),
                png: base64::engine::general_purpose::STANDARD.encode(png),
            });
        }
        let values: Vec<ValueRow> = report
            .values
            .iter()
            .map(|value| ValueRow {
                name: value.name.clone(),
                value: format!("{:.4}", value.value),
                better: match value.higher_is_better {
                    Some(true) => "higher",
                    Some(false) => "lower",
                    None => "",
                },
                count: value.count,
            })
            .collect();
        let checks: Vec<CheckRow> = self
            .checks
            .iter()
            .map(|check| CheckRow {
                metric: check.expect.metric.clone(),
                value: check.value.map_or_else(|| "missing".to_owned(), |value| format!("{value:.4}")),
                bound: check.expect.bound.to_string(),
                class: if check.ok { "ok" } else { "missed" },
                verdict: if check.ok { "ok" } else { "MISSED" },
            })
            .collect();
        let mut environment = Environment::new();
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        environment.add_template("report", include_str!("template.html")).map_err(failed)?;
        let page = Value::from(Serde(Shown {
            title: &self.title,
            subtitle: &self.subtitle,
            checks,
            values,
            tables: &report.tables,
            curves,
            pictures,
            facts: &self.facts,
            config: self.config,
        }));
        environment.get_template("report").map_err(failed)?.render(page).map_err(failed)
    }

    /// Writes the page, replacing the one that is there as a whole.
    ///
    /// # Errors
    /// As [`Page::html`], or if the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        replace_file(path, self.html()?.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use vision_image::Image;

    use super::*;
    use crate::report::Picture;

    #[test]
    fn the_page_holds_everything_and_escapes_text() {
        let report = Report {
            tables: vec![Table {
                title: "A & B".into(),
                header: vec!["x".into()],
                rows: vec![vec!["<script>".into()]],
            }],
            pictures: vec![Picture {
                name: "sheet".into(),
                caption: "two pixels".into(),
                image: Image::new(2, 1, 3, vec![0; 6]).unwrap(),
            }],
            series: vec![Series {
                title: "a plot".into(),
                x_label: "x".into(),
                y_label: "y".into(),
                lines: vec![("l".into(), vec![(0.0, 0.0), (1.0, 1.0)])],
            }],
            ..Report::default()
        };
        let page = Page { title: "toy".into(), report: Some(&report), config: "a = 1", ..Page::default() };
        let html = page.html().unwrap();
        assert!(html.contains("&lt;script&gt;") && !html.contains("<script>"));
        assert!(html.contains("A &amp; B"));
        assert!(html.contains("data:image/png;base64,iVBOR"));
        assert!(html.contains("<svg"));
        assert!(!html.contains("http-equiv") && !html.contains("src=\"http"));
    }
}
