//! Prepares a set of the catalogue and verifies it.
//!
//! `cargo run -p vision-datasets --example prepare -- NAME ROOT [ARCHIVES]`; ARCHIVES is the folder with
//! the published files.
#![allow(clippy::print_stdout, reason = "an example prints what it did")]

use std::path::PathBuf;

use vision_datasets::{PrepareOptions, catalog, prepare, verify};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(name), Some(root)) = (args.next(), args.next()) else {
        for entry in catalog()? {
            println!("{:18} {}", entry.name, entry.title);
        }
        return Err("needs a name and a root folder".into());
    };
    let options = PrepareOptions { archives: args.next().map(PathBuf::from), root: root.into() };
    let manifest = prepare(&name, &options, &mut |line| println!("{line}"))?;
    println!("samples {:?}", manifest.counts);
    let report = verify(&name, &options.root)?;
    println!("{} files, {} bytes, {} problems", report.files, report.bytes, report.problems.len());
    for problem in &report.problems {
        println!("{problem}");
    }
    if report.is_ok() { Ok(()) } else { Err("the prepared set is damaged".into()) }
}
