//! Prepares a set of the catalogue and verifies it.
//!
//! `cargo run -p vision-datasets --example prepare -- NAME ROOT [ARCHIVES [CATALOGUE]]`; ARCHIVES is the
//! folder with the published files, CATALOGUE a file of one's own in the form of `catalog.toml`.
#![allow(clippy::print_stdout, reason = "an example prints what it did")]

use std::path::PathBuf;

use vision_datasets::prepare::{prepare_from, verify_from};
use vision_datasets::{PrepareOptions, catalog};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (name, root, archives) = (args.next(), args.next(), args.next());
    let entries = match args.next() {
        Some(file) => catalog::parse(&std::fs::read_to_string(file)?)?,
        None => catalog()?,
    };
    let entry = entries.iter().find(|entry| Some(&entry.name) == name.as_ref());
    let (Some(entry), Some(root)) = (entry, root) else {
        for entry in entries {
            println!("{:18} {}", entry.name, entry.title);
        }
        return Err("needs the name of a set and a root folder".into());
    };
    let options = PrepareOptions { archives: archives.map(PathBuf::from), root: root.into() };
    let manifest = prepare_from(entry, &options, &mut |line| println!("{line}"))?;
    println!("samples {:?}", manifest.counts);
    let report = verify_from(entry, &options.root)?;
    println!("{} files, {} bytes, {} problems", report.files, report.bytes, report.problems.len());
    for problem in &report.problems {
        println!("{problem}");
    }
    if report.is_ok() { Ok(()) } else { Err("the prepared set is damaged".into()) }
}
