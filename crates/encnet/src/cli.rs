//! The command line: the common verbs of [`vision_train::cli`], and `predict`, `codewords`, `demo`.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use vision_train::cli::{CliContext, JsonLines, PaperCli, demo, for_pictures, json, pictures};
use vision_train::{Error, Result};

use crate::codewords::{Attention, Usage, attention_sheet};
use crate::predict::{ClassArea, Predictor, View};
use crate::recipe::EncNetRecipe;

/// The configurations that `demo` trains.
const SAMPLES: &[(&str, &str)] = &[
    ("sample", "Generated scenes: can a model that encodes context tell apart what looks the same?"),
    ("sample-fcn", "The same scenes: a network without context can only guess"),
];

/// Verbs of this paper.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Find the class of every pixel: drawings, label files, areas as JSON
    Predict(PredictArgs),
    /// Show what each codeword of a trained model attends to
    Codewords(CodewordsArgs),
    /// Train the sample configurations and write one page that shows what came out
    Demo,
}

/// `predict`.
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// Look at each picture at several scales and in the mirror, as results are reported
    #[arg(long)]
    pub sliding: bool,
    /// Windows that the network gets at once with --sliding
    #[arg(long, value_name = "N")]
    pub batch: Option<usize>,
    /// How much of the drawing is colour, 0 to 1
    #[arg(long, default_value_t = 0.5, value_name = "SHARE")]
    pub alpha: f32,
    /// Write label files as the benchmark of the training set wants them, and nothing else
    #[arg(long, conflicts_with = "frames")]
    pub submission: bool,
    /// The pictures are frames of a video: drawings keep their size, and one legend, legend.png, is for all of them
    #[arg(long)]
    pub frames: bool,
    /// Pictures, folders of pictures, or frames of a video as a folder of pictures
    #[arg(required = true)]
    pub pictures: Vec<PathBuf>,
}

/// `codewords`.
#[derive(Debug, Args)]
pub struct CodewordsArgs {
    /// Codewords shown, the most used first
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub top: usize,
    /// Side of a picture on the sheet, in pixels
    #[arg(long, default_value_t = 160, value_name = "PIXELS")]
    pub cell: u32,
    /// Pictures, or folders of pictures
    #[arg(required = true)]
    pub pictures: Vec<PathBuf>,
}

impl PaperCli for EncNetRecipe {
    const ABOUT: &'static str =
        "Semantic segmentation with context encoding: train, evaluate, label pictures";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    type Own = Verb;

    fn own(verb: Verb, cli: &CliContext) -> Result<()> {
        match verb {
            Verb::Predict(args) => predict(cli, &args),
            Verb::Codewords(args) => codewords(cli, &args),
            Verb::Demo => demo::<Self>(cli, "Semantic segmentation with context encoding", SAMPLES),
        }
    }
}

/// One line of `areas.jsonl`.
#[derive(Serialize)]
struct Found<'a> {
    picture: &'a Path,
    areas: Vec<ClassArea>,
}

fn predict(cli: &CliContext, args: &PredictArgs) -> Result<()> {
    let predictor = Predictor::load_on(cli.weight_file()?, &cli.ctx.device)?;
    let view = if args.sliding {
        let mut config = predictor.sliding().clone();
        config.batch = args.batch.unwrap_or(config.batch);
        View::Sliding(config)
    } else {
        View::Whole
    };
    let paths = pictures(&args.pictures)?;
    let out = folder(cli)?;
    // Names of files that are written, lines of areas, and the pixels of each class.
    let (mut names, mut counts) = (Names::default(), [0; 256]);
    let mut lines = JsonLines::to_file(cli, out.join("areas.jsonl"));
    let ended = for_pictures(cli, "labelling", &paths, 1, |paths, images| {
        for (picture, image) in paths.into_iter().zip(images) {
            let found = predictor.predict(&image, &view)?;
            let name = names.unique(picture);
            write(&out.join(format!("{name}.png")), &predictor.encode(&found, args.submission)?)?;
            if args.submission {
                continue;
            }
            let drawing = if args.frames {
                predictor.overlay(&image, &found, args.alpha)?
            } else {
                predictor.draw(&image, &found, args.alpha)?
            };
            drawing.save(out.join(format!("{name}.drawing.png")))?;
            for (all, here) in counts.iter_mut().zip(found.labels.counts()) {
                *all += here;
            }
            lines.push(&Found { picture, areas: found.areas })?;
        }
        Ok(())
    });
    // What was found before something went wrong is kept.
    if !args.submission {
        lines.finish()?;
    }
    if args.frames && counts.iter().any(|&count| count > 0) {
        predictor.legend(&counts)?.save(out.join("legend.png"))?;
    }
    ended?;
    cli.say(format_args!("{} pictures in {}", names.len(), out.display()));
    Ok(())
}

/// What `codewords.json` holds.
#[derive(Serialize)]
struct CodewordsFile<'a> {
    pictures: &'a [PathBuf],
    codewords: Vec<Usage>,
}

fn codewords(cli: &CliContext, args: &CodewordsArgs) -> Result<()> {
    let predictor = Predictor::load_on(cli.weight_file()?, &cli.ctx.device)?;
    let paths = pictures(&args.pictures)?;
    let out = folder(cli)?;
    let (mut names, mut seen) = (Vec::new(), Vec::new());
    for_pictures(cli, "looking", &paths, 1, |paths, images| {
        for (path, image) in paths.into_iter().zip(images) {
            names.push(path.to_owned());
            let attention = Attention::of(&predictor, &image)?;
            seen.push((image, attention));
        }
        Ok(())
    })?;
    let (usage, sheet) = attention_sheet(&seen, args.top, args.cell)?;
    for usage in usage.iter().take(args.top) {
        cli.say(format_args!(
            "codeword {:>3}: {:5.1} % of all positions, first at {:5.1} %",
            usage.codeword,
            100.0 * usage.share,
            100.0 * usage.first
        ));
    }
    sheet.save(out.join("codewords.png"))?;
    let file = CodewordsFile { pictures: &names, codewords: usage };
    write(&out.join("codewords.json"), json(&file)?.as_bytes())?;
    cli.say(format_args!("{} and codewords.json", out.join("codewords.png").display()));
    Ok(())
}

/// The folder of `--out`.
fn folder(cli: &CliContext) -> Result<PathBuf> {
    let out = cli.ctx.out.clone();
    fs::create_dir_all(&out).map_err(|error| Error::io(&out, error))?;
    Ok(out)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    Ok(vision_weights::atomic_write(path, &mut |to| to.write_all(bytes))?)
}

/// Names of files for pictures, told apart where pictures of different folders have the same.
#[derive(Default)]
struct Names(std::collections::BTreeSet<String>);

impl Names {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn unique(&mut self, path: &Path) -> String {
        let stem =
            path.file_stem().map_or_else(|| "picture".into(), |stem| stem.to_string_lossy().into_owned());
        let mut name = stem.clone();
        let mut number = 2;
        while !self.0.insert(name.clone()) {
            name = format!("{stem}-{number}");
            number += 1;
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_of_the_same_name_keep_apart() {
        let mut names = Names::default();
        let got = ["a/1.jpg", "b/1.jpg", "b/2.png", "c/1.png"].map(|path| names.unique(Path::new(path)));
        assert_eq!(got, ["1", "1-2", "2", "1-3"]);
    }
}
