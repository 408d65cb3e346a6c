//! The catalogue of data sets.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use vision_datasets::{LabelledSet, PrepareOptions, SetSpec, Split, catalog, open_set, prepare, verify};
use vision_image::{Image, draw};

use crate::workspace::Workspace;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// What the catalogue knows.
    List,
    /// Checks the archives of a set, unpacks them, and writes a manifest.
    Prepare {
        /// A name from the list.
        set: String,
        /// The folder with the published archives.
        #[arg(long, value_name = "FOLDER")]
        archives: Option<PathBuf>,
        /// The folder that holds prepared sets [default: data].
        #[arg(long, value_name = "FOLDER")]
        data: Option<PathBuf>,
    },
    /// Compares a prepared set with its manifest.
    Verify {
        /// A name from the list.
        set: String,
        /// The folder that holds prepared sets [default: data].
        #[arg(long, value_name = "FOLDER")]
        data: Option<PathBuf>,
    },
    /// Writes a picture sheet with labels.
    Show {
        /// A name from the list, or `folder:PATH`.
        set: String,
        /// Which part.
        #[arg(long, value_enum, default_value = "train")]
        split: SplitName,
        /// How many pictures, taken at even distances.
        #[arg(long, default_value_t = 60)]
        count: usize,
        /// The folder that holds prepared sets [default: data].
        #[arg(long, value_name = "FOLDER")]
        data: Option<PathBuf>,
        /// The sheet, PNG or JPEG [default: runs/data/SET-SPLIT.png].
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum SplitName {
    Train,
    Val,
    Test,
}

pub(crate) fn run(workspace: &Workspace, command: Command) -> Result<bool> {
    let root = |data: Option<PathBuf>| data.unwrap_or_else(|| workspace.root.join("data"));
    match command {
        Command::List => list(workspace)?,
        Command::Prepare { set, archives, data } => {
            let options = PrepareOptions { archives, root: root(data) };
            let manifest = prepare(&set, &options, &mut |line| println!("{line}"))?;
            println!("{set}: ready under {}, {}", options.root.display(), counts(&manifest.counts));
            for note in &manifest.notes {
                println!("{set}: {note}");
            }
        }
        Command::Verify { set, data } => {
            let report = verify(&set, &root(data))?;
            println!(
                "{set}: {} files, {} bytes, {}, {} problems",
                report.files,
                report.bytes,
                counts(&report.counts),
                report.problems.len()
            );
            for problem in &report.problems {
                println!("{set}: {problem}");
            }
            return Ok(report.is_ok());
        }
        Command::Show { set, split, count, data, out } => {
            let (split, word) = match split {
                SplitName::Train => (Split::Train, "train"),
                SplitName::Val => (Split::Val, "val"),
                SplitName::Test => (Split::Test, "test"),
            };
            let file = || {
                let plain: String =
                    set.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
                workspace.root.join(format!("runs/data/{plain}-{word}.png"))
            };
            let out = out.unwrap_or_else(file);
            let spec = SetSpec { name: set.clone(), path: None, split };
            let data = open_set(&spec, Some(&root(data)))?;
            let picture = sheet(&*data, count)?;
            if let Some(folder) = out.parent() {
                std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            }
            picture.save(&out)?;
            println!("{set} {word}: {} samples, {} classes", data.len(), data.class_names().len());
            println!("{}", out.display());
        }
    }
    Ok(true)
}

fn counts(counts: &std::collections::BTreeMap<String, u64>) -> String {
    counts.iter().map(|(part, count)| format!("{part} {count}")).collect::<Vec<_>>().join(", ")
}

fn list(workspace: &Workspace) -> Result<()> {
    for entry in catalog()? {
        let place = if entry.embedded {
            "in the library".to_owned()
        } else if entry.generated {
            "made from a seed".to_owned()
        } else if entry.needs.is_empty() {
            "from archives".to_owned()
        } else {
            format!("from the prepared sets {}", entry.needs.join(" and "))
        };
        let known = match counts(&entry.counts) {
            counts if counts.is_empty() => "counted when it is prepared".to_owned(),
            counts => counts,
        };
        println!("{:<20} {} ({known})", entry.name, entry.title);
        println!("{:<20} {place}, licence {}, {}", "", entry.licence, entry.homepage);
        for archive in &entry.archives {
            let may_be_missing = match &archive.optional_part {
                Some(part) => format!(", only for {part}"),
                None => String::new(),
            };
            println!("{:<20} {} {}{may_be_missing}", "", archive.file, archive.digest);
        }
        let users: Vec<_> = workspace
            .papers()
            .filter(|(_, paper)| paper.datasets.contains(&entry.name))
            .map(|(package, _)| package.name.as_str())
            .collect();
        if !users.is_empty() {
            println!("{:<20} used by {}", "", users.join(", "));
        }
    }
    Ok(())
}

/// Pixels of a cell and of the strip below it that holds the label.
const CELL: u32 = 96;
const STRIP: u32 = 14;

/// `count` samples at even distances, each above the name of its class.
fn sheet(set: &dyn LabelledSet, count: usize) -> Result<Image> {
    let count = count.min(set.len());
    if count == 0 {
        bail!("{} has no samples to show", set.name());
    }
    let columns = count.min(12);
    let (mut rows, mut words) = (vec![Vec::new()], Vec::new());
    for k in 0..count {
        let sample = set.get(k * set.len() / count)?;
        if k % columns == 0 && k > 0 {
            rows.push(Vec::new());
        }
        if let Some(row) = rows.last_mut() {
            row.push(draw::Tile::new(sample.image.over([255; 3])));
        }
        let name = usize::try_from(sample.label).ok().and_then(|label| set.class_names().get(label));
        words.push(name.map_or_else(|| sample.label.to_string(), Clone::clone));
    }
    let mut picture = draw::sheet(&rows, CELL, STRIP, [255; 3])?;
    for (k, word) in words.iter().enumerate() {
        let at = |index: usize| (STRIP + index as u32 * (CELL + STRIP)) as i32;
        let mut word = word.clone();
        while !word.is_empty() && draw::text_width(&word) > CELL {
            word.pop();
        }
        draw::text(&mut picture, at(k % columns), at(k / columns) + CELL as i32 + 3, &word, [0; 3]);
    }
    Ok(picture)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_of_an_embedded_set() {
        let spec = SetSpec { name: "fashion-mnist-10k".to_owned(), path: None, split: Split::Test };
        let set = open_set(&spec, None).unwrap();
        let picture = sheet(&*set, 15).unwrap();
        assert_eq!(picture.width(), STRIP + 12 * (CELL + STRIP));
        assert_eq!(picture.height(), STRIP + 2 * (CELL + STRIP));
        // The first label is drawn in the strip below the first cell.
        let ink = (0..CELL)
            .any(|x| (0..8).any(|y| picture.pixel(STRIP + x, STRIP + CELL + 3 + y) == Some(&[0; 3])));
        assert!(ink);
    }
}
