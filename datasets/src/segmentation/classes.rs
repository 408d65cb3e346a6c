//! Which classes there are, and what stands for them in files.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;

use vision_image::palette;

use super::IGNORE_LABEL;
use crate::{Error, Result};

/// A class of one of these names, in any case, is no class: its pixels are ignored.
const VOID: [&str; 5] = ["void", "unlabelled", "unlabeled", "ignore", "ignored"];

/// The classes of a set, and which mask values and colours stand for them.
///
/// Labels count the classes in the order in which a file lists them. A class called `void`, `unlabelled`, `unlabeled`,
/// `ignore` or `ignored` keeps its place in that order, so that the values in masks of the classes behind it stay what
/// they are, but is none: its pixels become [`IGNORE_LABEL`](crate::IGNORE_LABEL), and labels are counted without it. The value 255
/// is always ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentationClasses {
    names: Vec<String>,
    palette: Vec<[u8; 3]>,
    submission_offset: u8,
    evaluation: String,
    /// The label for each mask value that stands for something.
    values: BTreeMap<u8, u8>,
    /// The value of the last class of the file.
    largest_value: u8,
    /// The label for each colour; `None` for one that stands for two.
    colors: BTreeMap<[u8; 3], Option<u8>>,
}

/// One line of a file of classes.
struct Entry {
    name: String,
    color: Option<[u8; 3]>,
}

/// The form of `classes.json`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonFile {
    classes: Vec<String>,
    #[serde(default)]
    palette: Vec<[u8; 3]>,
    ignore: Option<u8>,
    submission_offset: Option<u8>,
    #[serde(default)]
    evaluation: String,
}

impl SegmentationClasses {
    /// The files that [`read`](Self::read) looks for.
    pub const FILES: [&'static str; 3] = ["classes.json", "classes.csv", "classes.txt"];

    /// Reads the file of classes in `folder`, exactly one of these:
    ///
    /// - `classes.json`: `{"classes": ["sky", …], "palette": [[128, 128, 128], …], "ignore": 255,
    ///   "submission_offset": 0, "evaluation": "…"}`, of which only `classes` is required. `ignore` is a further mask
    ///   value that is ignored.
    /// - `classes.csv`: lines `name,r,g,b` or `name`; a first line that starts with `name` is a heading.
    /// - `classes.txt`: lines `name r g b` or `name`; empty lines and lines that start with `#` are left out.
    ///
    /// # Errors
    /// If there is none or more than one of the three, it is not of its form, a name occurs twice, some
    /// classes have colours and others have none, or there are no classes or more than 255.
    pub fn read(folder: &Path) -> Result<Self> {
        let set = || folder.display().to_string();
        let found: Vec<&str> = Self::FILES.into_iter().filter(|file| folder.join(file).is_file()).collect();
        let &[file] = found.as_slice() else {
            let problem = if found.is_empty() {
                format!("has no file of classes; write one, {}", Self::FILES.join(" or "))
            } else {
                format!("has {}, but one file of classes is expected", found.join(" and "))
            };
            return Err(Error::Set { set: set(), problem });
        };
        let path = folder.join(file);
        let text = std::fs::read_to_string(&path).map_err(|source| Error::io(&path, source))?;
        let classes = match file {
            "classes.json" => from_json(&text),
            "classes.csv" => entries_of_csv(&text).and_then(|entries| Self::build(entries, None)),
            _ => entries_of_text(&text).and_then(|entries| Self::build(entries, None)),
        };
        classes.map_err(|problem| Error::Manifest { what: path.display().to_string(), problem })
    }

    fn build(entries: Vec<Entry>, ignore: Option<u8>) -> std::result::Result<Self, String> {
        if entries.len() > 255 {
            return Err(format!("{} classes, at most 255 are possible", entries.len()));
        }
        let void = |name: &str| VOID.iter().any(|void| name.eq_ignore_ascii_case(void));
        let offset = entries.first().is_some_and(|entry| void(&entry.name));
        let (mut names, mut palette) = (Vec::new(), Vec::new());
        let mut values = BTreeMap::from([(IGNORE_LABEL, IGNORE_LABEL)]);
        let (mut colors, mut seen, mut largest_value) = (BTreeMap::new(), BTreeSet::new(), 0);
        for (value, entry) in (0..=u8::MAX).zip(entries) {
            let Entry { name, color } = entry;
            if name.is_empty() {
                return Err(format!("class {value} has no name"));
            }
            if !seen.insert(name.clone()) {
                return Err(format!("class {name:?} occurs twice"));
            }
            let label = if void(&name) { IGNORE_LABEL } else { names.len() as u8 };
            values.insert(value, label);
            if let Some(color) = color {
                // Published palettes repeat colours, which does no harm as long as masks hold values.
                let other = colors.insert(color, Some(label)).is_some_and(|known| known != Some(label));
                if other {
                    colors.insert(color, None);
                }
            }
            largest_value = value;
            if label != IGNORE_LABEL {
                names.push(name);
                palette.extend(color);
            }
        }
        if names.is_empty() {
            return Err("has no classes".to_owned());
        }
        if palette.is_empty() {
            palette = palette::voc(names.len());
        }
        if palette.len() != names.len() {
            return Err("some classes have colours and others have none".to_owned());
        }
        if let Some(value) = ignore
            && let Some(label) = values.insert(value, IGNORE_LABEL)
            && let Some(name) = names.get(usize::from(label))
        {
            return Err(format!("ignore: {value} stands for the class {name:?}; list `void` in its place"));
        }
        let (submission_offset, evaluation) = (u8::from(offset), String::new());
        Ok(Self { names, palette, submission_offset, evaluation, values, largest_value, colors })
    }

    /// The names, by label.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The colours, by label: those of the file, or [`vision_image::palette::voc`] where it has none.
    pub fn palette(&self) -> &[[u8; 3]] {
        &self.palette
    }

    /// What is added to a label in a submission: what the file says, otherwise 1 if the first class of the file is
    /// `void`, otherwise 0.
    pub fn submission_offset(&self) -> u8 {
        self.submission_offset
    }

    /// What `classes.json` says about evaluation.
    pub fn evaluation(&self) -> &str {
        &self.evaluation
    }

    /// The label that the mask value `value` stands for.
    pub fn label_of_value(&self, value: u8) -> Option<u8> {
        self.values.get(&value).copied()
    }

    /// The label that `color` stands for. `None` if it stands for none, or for two: [`has_color`](Self::has_color) tells.
    pub fn label_of_color(&self, color: [u8; 3]) -> Option<u8> {
        self.colors.get(&color).copied().flatten()
    }

    /// Whether a class has this colour.
    pub fn has_color(&self, color: [u8; 3]) -> bool {
        self.colors.contains_key(&color)
    }

    /// The mask value of the last class of the file.
    pub(super) fn largest_value(&self) -> u8 {
        self.largest_value
    }

    /// Whether the file of classes has colours.
    pub fn has_colors(&self) -> bool {
        !self.colors.is_empty()
    }
}

fn from_json(text: &str) -> std::result::Result<SegmentationClasses, String> {
    let file: JsonFile = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if !file.palette.is_empty() && file.palette.len() != file.classes.len() {
        return Err(format!("{} classes, but {} colours", file.classes.len(), file.palette.len()));
    }
    let colors = file.palette.into_iter().map(Some).chain(std::iter::repeat(None));
    let entries = file.classes.into_iter().zip(colors).map(|(name, color)| Entry { name, color }).collect();
    let mut classes = SegmentationClasses::build(entries, file.ignore)?;
    classes.submission_offset = file.submission_offset.unwrap_or(classes.submission_offset);
    classes.evaluation = file.evaluation;
    Ok(classes)
}

fn entries_of_csv(text: &str) -> std::result::Result<Vec<Entry>, String> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .comment(Some(b'#'))
        .from_reader(text.as_bytes());
    let mut entries = Vec::new();
    for (at, record) in reader.records().enumerate() {
        let record = record.map_err(|error| error.to_string())?;
        let fields: Vec<&str> = record.iter().collect();
        if at == 0 && fields.first().is_some_and(|field| field.eq_ignore_ascii_case("name")) {
            continue;
        }
        let line = record.position().map_or(0, csv::Position::line);
        entries.push(match fields.as_slice() {
            [name] => Entry { name: (*name).to_owned(), color: None },
            [name, rgb @ ..] if rgb.len() == 3 => {
                let color = color(rgb).ok_or_else(|| format!("line {line}: {rgb:?} is no colour"))?;
                Entry { name: (*name).to_owned(), color: Some(color) }
            }
            _ => return Err(format!("line {line}: {} fields, must be name,r,g,b or name", fields.len())),
        });
    }
    Ok(entries)
}

fn entries_of_text(text: &str) -> std::result::Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim_start_matches('\u{feff}').trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let digits = |word: &&str| word.bytes().all(|byte| byte.is_ascii_digit());
        entries.push(match words.split_last_chunk::<3>() {
            Some((name, rgb)) if !name.is_empty() && rgb.iter().all(digits) => {
                let color = color(rgb).ok_or_else(|| format!("line {number}: {rgb:?} is no colour"))?;
                Entry { name: name.join(" "), color: Some(color) }
            }
            _ => Entry { name: words.join(" "), color: None },
        });
    }
    Ok(entries)
}

fn color(words: &[&str]) -> Option<[u8; 3]> {
    let values: Vec<u8> = words.iter().map(|word| word.parse().ok()).collect::<Option<_>>()?;
    values.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(file: &str, text: &str) -> Result<SegmentationClasses> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(file), text).unwrap();
        SegmentationClasses::read(folder.path())
    }

    #[test]
    fn three_forms_say_the_same() {
        let json = r#"{"classes": ["void", "sky", "traffic light"], "palette": [[0,0,0],[1,2,3],[4,5,6]]}"#;
        let json = read("classes.json", json).unwrap();
        let csv =
            read("classes.csv", "Name, r, g, b\nvoid,0,0,0\nsky,1,2,3\n\"traffic light\",4,5,6\n").unwrap();
        let text = read("classes.txt", "# all\n\nvoid 0 0 0\nsky 1 2 3\ntraffic  light 4 5 6\n").unwrap();
        assert_eq!(json, csv);
        assert_eq!(json, text);
        assert_eq!(json.names(), ["sky", "traffic light"]);
        assert_eq!(json.palette(), [[1, 2, 3], [4, 5, 6]]);
        assert_eq!(json.submission_offset(), 1);
        let labels: Vec<_> = [0, 1, 2, 3, 255].map(|value| json.label_of_value(value)).into();
        assert_eq!(labels, [Some(255), Some(0), Some(1), None, Some(255)]);
        assert_eq!(json.label_of_color([4, 5, 6]), Some(1));
        assert_eq!(json.label_of_color([0, 0, 0]), Some(255));
        assert_eq!(json.label_of_color([0, 0, 1]), None);
    }

    #[test]
    fn names_alone_get_the_usual_colours() {
        let classes = read("classes.txt", "sky\nroad\nunlabelled\n").unwrap();
        assert_eq!(classes.palette(), [[0, 0, 0], [128, 0, 0]]);
        assert!(!classes.has_colors() && classes.submission_offset() == 0);
        assert_eq!(classes.label_of_value(2), Some(IGNORE_LABEL));
        let twice = read("classes.txt", "sky 1 2 3\nroad 1 2 3\n").unwrap();
        assert!(twice.has_color([1, 2, 3]) && twice.label_of_color([1, 2, 3]).is_none());
        let json = r#"{"classes": ["a"], "ignore": 7, "submission_offset": 3, "evaluation": "mIoU"}"#;
        let classes = read("classes.json", json).unwrap();
        assert_eq!((classes.submission_offset(), classes.evaluation()), (3, "mIoU"));
        assert_eq!(classes.label_of_value(7), Some(IGNORE_LABEL));
    }

    #[test]
    fn errors_name_the_file_and_what_is_wrong() {
        let many = "x\n".repeat(256);
        for (file, text, word) in [
            ("classes.txt", "", "no classes"),
            ("classes.txt", "void\n", "no classes"),
            ("classes.txt", "sky\nsky\n", "\"sky\" occurs twice"),
            ("classes.txt", "sky 1 2 3\nroad\n", "others have none"),
            ("classes.txt", "sky 1 2 300\n", "line 1"),
            ("classes.txt", many.as_str(), "256 classes"),
            ("classes.csv", "name,r,g,b\nsky,1,2\n", "line 2"),
            ("classes.csv", "sky,1,2,x\n", "no colour"),
            ("classes.json", "{\"classes\": [\"a\"], \"palette\": [[1,2,3],[4,5,6]]}", "2 colours"),
            ("classes.json", "{\"classes\": [\"a\"], \"ignore\": 0}", "ignore: 0"),
            ("classes.json", "{\"classes\": [\"\"]}", "no name"),
            ("classes.json", "{\"classes\": [\"a\"], \"colours\": []}", "colours"),
        ] {
            let message = read(file, text).unwrap_err().to_string();
            assert!(message.contains(word) && message.contains(file), "{message}");
        }
        let folder = tempfile::tempdir().unwrap();
        let message = SegmentationClasses::read(folder.path()).unwrap_err().to_string();
        assert!(message.contains("classes.json or classes.csv or classes.txt"), "{message}");
        for file in ["classes.txt", "classes.csv"] {
            std::fs::write(folder.path().join(file), "sky\n").unwrap();
        }
        assert!(
            SegmentationClasses::read(folder.path()).unwrap_err().to_string().contains("classes.csv and")
        );
    }
}
