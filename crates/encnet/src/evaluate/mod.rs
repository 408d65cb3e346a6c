//! Measuring a model on a set: pixel accuracy, intersection over union, and pictures of what went wrong.

mod report;

pub use report::with_background;

use candle_core::{Device, Tensor};
use vision_core::{FeatureMap, Pass};
use vision_datasets::transforms::ToPixels;
use vision_datasets::{DataRoot, IGNORE_LABEL, Split};
use vision_eval::segmentation::Segmentation;
use vision_train::{Context, Report};

use crate::config::train::{Config, EvalMode};
use crate::data::{self, AnySet};
use crate::error::{Error, Result};
use crate::predict::{Normalise, View, classify, decide};
use crate::recipe::EncNetRecipe;

/// What a model made of one picture.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    /// The picture's number in its set.
    index: usize,
    /// Share of its pixels that were right.
    accuracy: f64,
    /// The class of each pixel, as large as what was measured.
    prediction: Vec<u8>,
    /// Height and width of that.
    size: [usize; 2],
}

/// Everything `[eval]` asks for, on `split`.
///
/// Values: `miou` by the rule of `eval.absent`, `pix_acc`, `miou_zero` and `miou_skip` by either rule, `classes_seen`, and
/// for PASCAL-Context `miou60`, as the paper counts its headline: the background as a sixtieth class that is never right.
///
/// # Errors
/// If a picture cannot be read or a forward pass fails.
pub fn evaluate(
    recipe: &EncNetRecipe,
    cfg: &Config,
    root: &DataRoot,
    split: Split,
    ctx: &Context,
) -> Result<Report> {
    let set = data::open(&cfg.data, cfg.model.classes, root, split)?;
    let mut metric = Segmentation::new(cfg.model.classes, i64::from(IGNORE_LABEL))?;
    let mut worst = Worst { wanted: cfg.eval.worst, found: Vec::new() };
    match cfg.eval.mode {
        EvalMode::Whole => whole(recipe, cfg, &set, ctx, &mut metric, &mut worst)?,
        EvalMode::Sliding => sliding(recipe, cfg, &set, ctx, &mut metric, &mut worst)?,
    }
    report::report(cfg, &set, &metric, &worst.found)
}

/// The pictures with the lowest accuracy, worst first.
struct Worst {
    wanted: usize,
    found: Vec<Judged>,
}

impl Worst {
    fn offer(&mut self, judged: Judged) {
        let at = self.found.partition_point(|other| other.accuracy <= judged.accuracy);
        if at < self.wanted {
            self.found.insert(at, judged);
            self.found.truncate(self.wanted);
        }
    }
}

/// Counts one picture.
fn judge(
    index: usize,
    size: [usize; 2],
    prediction: Vec<u8>,
    labels: &[u8],
    metric: &mut Segmentation,
    worst: &mut Worst,
) -> Result<()> {
    metric.update(&prediction, labels)?;
    let counted = labels.iter().filter(|&&label| label != IGNORE_LABEL).count();
    if counted > 0 {
        let right = prediction.iter().zip(labels).filter(|(prediction, label)| prediction == label).count();
        let accuracy = right as f64 / counted as f64;
        worst.offer(Judged { index, accuracy, prediction, size });
    }
    Ok(())
}

fn whole(
    recipe: &EncNetRecipe,
    cfg: &Config,
    set: &AnySet,
    ctx: &Context,
    metric: &mut Segmentation,
    worst: &mut Worst,
) -> Result<()> {
    let mut count = ctx.count("measuring", set.len());
    for batch in data::whole_loader(cfg, set.clone(), ctx.workers)?.epoch(0, 0) {
        let batch = batch?;
        stop_if_asked(ctx)?;
        let pictures = batch.pictures(recipe.device())?;
        let classes = decide(&recipe.model().predict(&pictures, &Pass::inference())?)?;
        let area = batch.size[0] * batch.size[1];
        let pixels = classes.chunks(area.max(1)).zip(batch.labels.chunks(area.max(1)));
        for (&index, (classes, labels)) in batch.index.iter().zip(pixels) {
            if set.has_labels(index) {
                judge(index, batch.size, classes.to_vec(), labels, metric, worst)?;
            }
        }
        count.add(batch.len());
    }
    Ok(())
}

fn sliding(
    recipe: &EncNetRecipe,
    cfg: &Config,
    set: &AnySet,
    ctx: &Context,
    metric: &mut Segmentation,
    worst: &mut Worst,
) -> Result<()> {
    let ToPixels { mean, std } = cfg.data.normalise;
    let (black, view) = (Normalise { mean, std }.black(), View::Sliding(cfg.eval.sliding.clone()));
    let labelled: Vec<usize> = (0..set.len()).filter(|&index| set.has_labels(index)).collect();
    let mut count = ctx.count("measuring", labelled.len());
    for index in labelled {
        stop_if_asked(ctx)?;
        let sample = set.get(index)?;
        let pixels = cfg.data.normalise.convert(&sample.image)?;
        let size = [pixels.height, pixels.width];
        let shape = (1, pixels.height, pixels.width, pixels.channels);
        let picture = FeatureMap::from_nhwc(Tensor::from_vec(pixels.data, shape, &Device::Cpu)?)?;
        let prediction = classify(recipe.model(), recipe.device(), &picture, black, &view)?;
        judge(index, size, prediction, sample.labels.data(), metric, worst)?;
        count.add(1);
        tracing::debug!(picture = %sample.name, "measured");
    }
    Ok(())
}

fn stop_if_asked(ctx: &Context) -> Result<()> {
    if ctx.interrupted() { Err(Error::Interrupted) } else { Ok(()) }
}
