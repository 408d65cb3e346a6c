//! `metrics.jsonl`: one number per line.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::run_folder::{read_text, replace_file};

/// One number of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Optimiser steps done when it was measured.
    pub step: u64,
    /// Epochs begun or, for an evaluation, done.
    pub epoch: u64,
    /// `train`, `system`, or the split that was evaluated.
    pub split: String,
    /// What it is.
    pub name: String,
    /// The number; none if it was not finite.
    pub value: Option<f64>,
}

/// The file, open for appending, and everything it holds.
#[derive(Debug)]
pub struct MetricLog {
    path: PathBuf,
    file: File,
    rows: Vec<Row>,
}

impl MetricLog {
    /// Opens the log. Of the rows that are there, those `keep` refuses are removed, as is a line that a
    /// killed process left unfinished.
    ///
    /// # Errors
    /// If the file cannot be read or written, or a line other than the last is not a row.
    pub fn open(path: impl AsRef<Path>, keep: impl Fn(&Row) -> bool) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let mut rows = Vec::new();
        if path.exists() {
            let text = read_text(&path)?;
            let mut changed = false;
            let lines: Vec<&str> = text.split_inclusive('\n').collect();
            for (index, line) in lines.iter().enumerate() {
                match serde_json::from_str::<Row>(line) {
                    Ok(row) if line.ends_with('\n') && keep(&row) => rows.push(row),
                    Ok(_) => changed = true,
                    Err(_) if index + 1 == lines.len() => changed = true,
                    Err(error) => {
                        return Err(Error::Format {
                            what: format!("{} line {}", path.display(), index + 1),
                            problem: error.to_string(),
                        });
                    }
                }
            }
            if changed {
                let mut kept = String::new();
                for row in &rows {
                    kept.push_str(&line(row, &path)?);
                }
                replace_file(&path, kept.as_bytes())?;
            }
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .map_err(|error| Error::io(&path, error))?;
        Ok(Self { path, file, rows })
    }

    /// Appends rows and hands them to the operating system.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn append(&mut self, rows: Vec<Row>) -> Result<()> {
        let mut text = String::new();
        for row in &rows {
            text.push_str(&line(row, &self.path)?);
        }
        self.file.write_all(text.as_bytes()).map_err(|error| Error::io(&self.path, error))?;
        self.rows.extend(rows);
        Ok(())
    }

    /// Every row, oldest first.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }
}

fn line(row: &Row, path: &Path) -> Result<String> {
    let mut text = serde_json::to_string(row)
        .map_err(|error| Error::Format { what: path.display().to_string(), problem: error.to_string() })?;
    text.push('\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: u64) -> Row {
        Row { step, epoch: 0, split: "train".into(), name: "loss".into(), value: Some(0.1 * step as f64) }
    }

    #[test]
    fn reopening_drops_what_the_checkpoint_does_not_know() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut log = MetricLog::open(&path, |_| true).unwrap();
        log.append(vec![row(1), row(2), row(3)]).unwrap();
        drop(log);
        let mut text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(
            text.lines().next().unwrap(),
            r#"{"step":1,"epoch":0,"split":"train","name":"loss","value":0.1}"#
        );
        text.push_str(r#"{"step":2,"epo"#);
        std::fs::write(&path, text).unwrap();
        let mut log = MetricLog::open(&path, |row| row.step <= 2).unwrap();
        log.append(vec![row(4)]).unwrap();
        drop(log);
        let steps: Vec<u64> =
            MetricLog::open(&path, |_| true).unwrap().rows().iter().map(|row| row.step).collect();
        assert_eq!(steps, [1, 2, 4]);
    }

    #[test]
    fn numbers_survive_a_rewrite_to_the_last_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let values = [0.966_666_666_666_666_7, 1.093_507_111_072_540_3, 0.795_803_636_312_484_7];
        let mut log = MetricLog::open(&path, |_| true).unwrap();
        log.append(values.iter().map(|value| Row { value: Some(*value), ..row(1) }).collect()).unwrap();
        log.append(vec![row(9)]).unwrap();
        let log = MetricLog::open(&path, |row| row.step == 1).unwrap();
        assert_eq!(log.rows().iter().filter_map(|row| row.value).collect::<Vec<_>>(), values);
        let again = MetricLog::open(&path, |_| true).unwrap();
        assert_eq!(again.rows(), log.rows());
    }

    #[test]
    fn rubbish_in_the_middle_is_an_error_with_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, "rubbish\n{}\n").unwrap();
        let error = MetricLog::open(&path, |_| true).unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl line 1"), "{error}");
    }
}
