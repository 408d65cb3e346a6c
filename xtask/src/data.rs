//! The catalogue of data sets.

mod sheet;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use vision_datasets::{
    PrepareOptions, SegmentationFolder, SegmentationSpec, SetSpec, Split, catalog, open_segmentation_set,
    open_set, prepare, segmentation_set_names, set_names, verify,
};

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
    /// Writes a picture sheet with labels: names of classes, or where each pixel has one, colours and what they mean.
    Show {
        /// A name from the list, or `folder:PATH` with a folder per class or with pictures and masks.
        set: String,
        /// Which part: train, val or test, or of a set with masks any that it has.
        #[arg(long, default_value = "train")]
        split: String,
        /// How many pictures, taken at even distances [default: 60, or 24 with masks].
        #[arg(long)]
        count: Option<usize>,
        /// The folder that holds prepared sets [default: data].
        #[arg(long, value_name = "FOLDER")]
        data: Option<PathBuf>,
        /// The sheet, PNG or JPEG [default: runs/data/SET-SPLIT.png].
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
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
            let root = root(data);
            let (picture, samples, classes) = if has_masks(&set, &root)? {
                let spec = SegmentationSpec::new(set.clone(), split.clone());
                let data = open_segmentation_set(&spec, Some(&root))?;
                let picture = sheet::segmented(&*data, count.unwrap_or(24))?;
                (picture, data.len(), data.class_names().len())
            } else {
                let data = open_set(&SetSpec::new(set.clone(), part(&split)?), Some(&root))?;
                let picture = sheet::labelled(&*data, count.unwrap_or(60))?;
                (picture, data.len(), data.class_names().len())
            };
            let file = || {
                let plain = |name: &str| name.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
                workspace.root.join(format!("runs/data/{}-{}.png", plain(&set), plain(&split)))
            };
            let out = out.unwrap_or_else(file);
            if let Some(folder) = out.parent() {
                std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            }
            picture.save(&out)?;
            println!("{set} {split}: {samples} samples, {classes} classes");
            println!("{}", out.display());
        }
    }
    Ok(true)
}

/// Whether the pictures of a set have a class for every pixel.
fn has_masks(set: &str, root: &Path) -> Result<bool> {
    if let Some(folder) = set.strip_prefix("folder:") {
        // What has `images` is arranged with masks, well or not; the error of opening it says what is wrong.
        return Ok(Path::new(folder).join("images").is_dir() || SegmentationFolder::parts(folder).is_ok());
    }
    if set_names().contains(&set) {
        return Ok(false);
    }
    let known = segmentation_set_names()?;
    // A folder of one's own in the data root, arranged as a prepared set, opens by its name too.
    if known.iter().any(|name| name == set) || root.join(set).join("splits").is_dir() {
        return Ok(true);
    }
    bail!("no set is called {set}; there are {}, {}", set_names().join(", "), known.join(", "))
}

/// A part of a set with one class per picture.
fn part(name: &str) -> Result<Split> {
    match name {
        "train" => Ok(Split::Train),
        "val" => Ok(Split::Val),
        "test" => Ok(Split::Test),
        other => bail!("a set with one class per picture has the parts train, val and test, not {other}"),
    }
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

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn sets_with_masks_are_told_from_those_without() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for dir in ["classes/train/cat", "pairs/images", "pairs/masks", "streets/train", "streets/trainannot"]
        {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::create_dir_all(root.join("mine/splits")).unwrap();
        let masks = |set: &str| has_masks(set, root).unwrap();
        let at = |name: &str| format!("folder:{}", root.join(name).display());
        assert!(!masks("cifar10") && !masks("folder") && !masks(&at("classes")));
        assert!(masks("voc2012") && masks("context-scenes") && masks("mine"));
        assert!(masks(&at("pairs")) && masks(&at("streets")));
        let message = has_masks("imagenet", root).unwrap_err().to_string();
        assert!(message.contains("imagenet") && message.contains("cifar10") && message.contains("ade20k"));
        assert!(part("trainval").unwrap_err().to_string().contains("trainval"));
    }
}
