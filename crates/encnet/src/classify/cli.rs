//! The command line: the common verbs of [`vision_train::cli`], and `predict`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use vision_train::Result;
use vision_train::cli::{CliContext, JsonLines, PaperCli, for_pictures, pictures};

use super::predict::{Classifier, Guess};
use super::recipe::ClassifyRecipe;

/// Pictures in a forward pass.
const BATCH: usize = 64;

/// Verbs of this program.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Find the class of every picture: names and probabilities, one JSON object per line
    Predict(PredictArgs),
}

/// `predict`.
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// Classes named for each picture, the most likely first
    #[arg(long, default_value_t = 5, value_name = "N")]
    pub top: usize,
    /// Pictures, or folders of pictures
    #[arg(required = true)]
    pub pictures: Vec<PathBuf>,
}

impl PaperCli for ClassifyRecipe {
    const ABOUT: &'static str = "Classes of pictures by the networks of EncNet's paper for CIFAR";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    type Own = Verb;

    fn own(verb: Verb, cli: &CliContext) -> Result<()> {
        match verb {
            Verb::Predict(args) => predict(cli, &args),
        }
    }
}

/// One line of the result.
#[derive(Serialize)]
struct Found<'a> {
    picture: &'a Path,
    classes: &'a [Guess],
}

fn predict(cli: &CliContext, args: &PredictArgs) -> Result<()> {
    let classifier = Classifier::load_on(cli.weight_file()?, &cli.ctx.device)?;
    let mut lines = JsonLines::new(cli);
    let ended = for_pictures(cli, "classifying", &pictures(&args.pictures)?, BATCH, |names, images| {
        for (picture, guesses) in names.into_iter().zip(classifier.classify(&images)?) {
            lines.push(&Found { picture, classes: guesses.get(..args.top).unwrap_or(&guesses) })?;
        }
        Ok(())
    });
    lines.finish()?;
    ended
}
