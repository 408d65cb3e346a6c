//! The command line: the common verbs of [`vision_train::cli`], and `predict`, `index`, `search`, `demo`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use vision_image::draw::{Tile, sheet};
use vision_train::cli::{CliContext, JsonLines, PaperCli, demo, for_pictures, pictures};
use vision_train::{Error, Result};

use crate::index::FlatIndex;
use crate::predict::Embedder;
use crate::recipe::InstDiscRecipe;

/// Pictures embedded at a time.
const BATCH: usize = 64;

/// The configurations that `demo` trains.
const SAMPLES: &[(&str, &str)] = &[
    ("sample", "Clothing, grey: are the nearest training pictures of the same class?"),
    ("sample-emoji", "Emoji: is the nearest drawing of another vendor the same symbol?"),
];

/// Verbs of this paper.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Write the feature of every picture as one JSON object per line
    Predict(PredictArgs),
    /// Build a search index over pictures
    Index(IndexArgs),
    /// Find the pictures of an index that are most like given ones
    Search(SearchArgs),
    /// Train the sample configurations and write one page that shows what came out
    Demo,
}

/// `predict`.
#[derive(Debug, Args)]
pub struct PredictArgs {
    /// Pictures, or folders of pictures
    #[arg(required = true)]
    pub pictures: Vec<PathBuf>,
}

/// `index`.
#[derive(Debug, Args)]
pub struct IndexArgs {
    /// Pictures, or folders of pictures
    #[arg(required = true)]
    pub pictures: Vec<PathBuf>,
}

/// `search`.
#[derive(Debug, Args)]
pub struct SearchArgs {
    /// Index made by `index`
    #[arg(long, value_name = "FILE")]
    pub index: PathBuf,
    /// Neighbours per picture
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub top: usize,
    /// Write a sheet of the pictures and their neighbours to this PNG file
    #[arg(long, value_name = "FILE")]
    pub sheet: Option<PathBuf>,
    /// Print one JSON object per line, or write them to the file of --out
    #[arg(long)]
    pub json: bool,
    /// Pictures, or folders of pictures
    #[arg(required = true)]
    pub pictures: Vec<PathBuf>,
}

impl PaperCli for InstDiscRecipe {
    const ABOUT: &'static str = "Unsupervised features by instance discrimination: train, evaluate, search";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    type Own = Verb;

    fn own(verb: Verb, cli: &CliContext) -> Result<()> {
        match verb {
            Verb::Predict(args) => predict(cli, &args),
            Verb::Index(args) => index(cli, &args),
            Verb::Search(args) => search(cli, &args),
            Verb::Demo => demo::<Self>(cli, "Unsupervised features by instance discrimination", SAMPLES),
        }
    }
}

/// Calls `each` with every picture's path and feature.
fn embed_all(
    cli: &CliContext,
    paths: &[PathBuf],
    mut each: impl FnMut(&Path, Vec<f32>) -> Result<()>,
) -> Result<()> {
    let embedder = Embedder::load(cli.weight_file()?)?;
    for_pictures(cli, "embedding", paths, BATCH, |names, images| {
        names.into_iter().zip(embedder.embed(&images)?).try_for_each(|(path, feature)| each(path, feature))
    })
}

#[derive(Serialize)]
struct Embedded<'a> {
    picture: &'a Path,
    feature: Vec<f32>,
}

fn predict(cli: &CliContext, args: &PredictArgs) -> Result<()> {
    let mut lines = JsonLines::new(cli);
    let ended = embed_all(cli, &pictures(&args.pictures)?, |picture, feature| {
        lines.push(&Embedded { picture, feature })
    });
    lines.finish()?;
    ended
}

fn index(cli: &CliContext, args: &IndexArgs) -> Result<()> {
    let out = cli
        .common
        .out
        .as_ref()
        .ok_or_else(|| Error::Usage("--out is needed: the index file to write".to_owned()))?;
    let (mut names, mut features) = (Vec::new(), Vec::new());
    embed_all(cli, &pictures(&args.pictures)?, |path, feature| {
        names.push(path.display().to_string());
        features.push(feature);
        Ok(())
    })?;
    let dim = features.first().map_or(1, Vec::len);
    let index = FlatIndex::new(dim, features.concat())?.with_names(names)?;
    index.save(out)?;
    cli.say(format_args!("{} pictures of {dim} numbers in {}", index.len(), out.display()));
    Ok(())
}

#[derive(Serialize)]
struct Found<'a> {
    picture: &'a Path,
    neighbours: Vec<FoundNeighbour<'a>>,
}

#[derive(Serialize)]
struct FoundNeighbour<'a> {
    name: &'a str,
    row: u32,
    score: f32,
}

fn search(cli: &CliContext, args: &SearchArgs) -> Result<()> {
    let index = FlatIndex::open(&args.index)?;
    let paths = pictures(&args.pictures)?;
    let top = args.top.min(index.len());
    let (mut rows, mut lines) = (Vec::new(), JsonLines::new(cli));
    let ended = embed_all(cli, &paths, |picture, feature| {
        let mut neighbours = Vec::new();
        for hit in index.search(&feature, top)?.into_iter().flatten() {
            neighbours.push(FoundNeighbour {
                name: index.name(hit.row).unwrap_or_default(),
                row: hit.row,
                score: hit.score,
            });
        }
        if args.sheet.is_some() {
            let mut row = vec![Tile { image: vision_image::open(picture)?, border: Some([120, 120, 120]) }];
            for neighbour in &neighbours {
                row.push(Tile { image: vision_image::open(neighbour.name)?, border: None });
            }
            rows.push(row);
        }
        if args.json {
            lines.push(&Found { picture, neighbours })?;
        } else {
            cli.say(picture.display());
            for neighbour in neighbours {
                cli.say(format_args!("  {:.4}  {}", neighbour.score, neighbour.name));
            }
        }
        Ok(())
    });
    if args.json {
        lines.finish()?;
    }
    ended?;
    if let Some(path) = &args.sheet {
        sheet(&rows, 96, 6, [255, 255, 255])?.save(path)?;
        cli.say(format_args!("sheet in {}", path.display()));
    }
    Ok(())
}
