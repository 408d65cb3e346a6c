//! The region proposal network (Ren et al., "Faster R-CNN", 2015), as torchvision's `RegionProposalNetwork` 0.29.
//!
//! Of each map's anchors those with the highest logits are kept, moved by their offsets, cut off at the picture's border
//! and freed of what is too small; those of one map then suppress each other, and the best of all maps are the proposals.
//! Equal logits stand in the order of their anchors, equal scores in the order of maps and logits: a logit above 17 has
//! the score 1 in `f32`.

use candle_core::{DType, Tensor};
use candle_nn::VarBuilder;
use vision_core::boxes::{AnchorGenerator, BoxCoder};
use vision_core::nn::Conv2d;
use vision_core::ops::{Conv2dArgs, topk};
use vision_core::{FeatureMap, Pass};

use crate::candidates::{Candidates, Kept, numbers, rounded, sides};
use crate::conv::convolve;
use crate::error::{Error, Result, a_number};

/// Constants of a [`RegionProposalNetwork`].
#[derive(Clone, Debug, PartialEq)]
pub struct RpnConfig {
    /// Sizes of the anchors on each map, in pixels; every map has as many.
    pub sizes: Vec<Vec<f64>>,
    /// Ratios of height to width, for each size.
    pub aspect_ratios: Vec<f64>,
    /// Anchors of each map that are looked at, at most.
    pub pre_nms_top_n: usize,
    /// Proposals of a picture, at most.
    pub post_nms_top_n: usize,
    /// A proposal is removed if its overlap with a better one of the same map is larger than this.
    pub nms_thresh: f64,
    /// The lowest score, in `[0, 1]`, of a proposal.
    pub score_thresh: f64,
    /// The shortest side of a proposal, in pixels.
    pub min_size: f64,
}

impl Default for RpnConfig {
    /// torchvision's for feature pyramids, when testing: one size on each of five maps, three shapes, 1000 anchors of
    /// each, 1000 proposals.
    fn default() -> Self {
        Self {
            sizes: [32., 64., 128., 256., 512.].map(|size| vec![size]).to_vec(),
            aspect_ratios: vec![0.5, 1., 2.],
            pre_nms_top_n: 1000,
            post_nms_top_n: 1000,
            nms_thresh: 0.7,
            score_thresh: 0.,
            min_size: 1e-3,
        }
    }
}

/// The proposals for a picture, best first, on the CPU.
#[derive(Clone, Debug)]
pub struct Proposals {
    /// Boxes `x1, y1, x2, y2` in pixels of the picture as the network sees it, `(K, 4)`.
    pub boxes: Tensor,
    /// How likely each holds an object, in `[0, 1]`, `(K)`.
    pub scores: Tensor,
}

/// What the head says about the anchors of each map, from fine to coarse.
#[derive(Clone, Debug)]
pub struct RpnOutput {
    /// Logits of there being an object, `(N, H, W, A)`.
    pub objectness: Vec<FeatureMap>,
    /// Offsets of the object's box from the anchor, `(N, H, W, 4 A)`.
    pub deltas: Vec<FeatureMap>,
}

/// Proposes boxes that may hold an object.
///
/// Parameters are torchvision's: `head.conv.0.0`, `head.cls_logits` and `head.bbox_pred`. New ones start as in
/// [`Conv2d::new`].
///
/// ```
/// use candle_core::{DType, Device, Tensor};
/// use vision_core::{FeatureMap, Pass, params::ParamStore, rng::Key};
/// use vision_detect::{RegionProposalNetwork, RpnConfig};
/// # fn main() -> vision_detect::Result<()> {
/// let config = RpnConfig { sizes: vec![vec![16.0], vec![32.0]], post_nms_top_n: 20, ..RpnConfig::default() };
/// let params = ParamStore::new(Key::new(1), DType::F32, &Device::Cpu);
/// let rpn = RegionProposalNetwork::new(8, &config, params.var_builder())?;
/// let map = |h, w| -> vision_detect::Result<FeatureMap> {
///     Ok(FeatureMap::from_nhwc(Key::new(2).normal((1, h, w, 8), 0.0, 1.0, DType::F32, &Device::Cpu)?)?)
/// };
/// // A picture of 60 x 90 pixels, padded to 64 x 96.
/// let found = rpn.forward(&[map(8, 12)?, map(4, 6)?], [64, 96], &[[60, 90]], &Pass::inference())?;
/// let (count, _) = found[0].boxes.dims2()?;
/// assert!(count > 0 && count <= 20);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct RegionProposalNetwork {
    conv: Conv2d,
    cls_logits: Conv2d,
    bbox_pred: Conv2d,
    anchors: AnchorGenerator,
    coder: BoxCoder,
    config: RpnConfig,
}

impl RegionProposalNetwork {
    /// A network over maps of `channels`.
    ///
    /// # Errors
    /// If a field of the configuration is out of range, or `vb` cannot give a parameter of the right shape.
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(channels: usize, config: &RpnConfig, vb: VarBuilder<'_>) -> Result<Self> {
        for (key, value) in [
            ("rpn.nms_thresh", config.nms_thresh),
            ("rpn.score_thresh", config.score_thresh),
            ("rpn.min_size", config.min_size),
        ] {
            a_number(key, value)?;
        }
        let anchors = AnchorGenerator::new(&config.sizes, &config.aspect_ratios)?;
        let count = anchors.cells().first().map_or(0, Vec::len);
        if count == 0 || anchors.cells().iter().any(|cell| cell.len() != count) {
            let problem = "every map needs as many anchors as the first one, and that at least one";
            return Err(Error::config("rpn.sizes", problem));
        }
        let vb = vb.pp("head");
        let conv = |outputs: usize, kernel: usize, vb: VarBuilder<'_>| {
            Conv2d::new(channels, outputs, [kernel; 2], Conv2dArgs::square(1, kernel / 2), true, vb)
        };
        Ok(Self {
            conv: conv(channels, 3, vb.pp("conv").pp(0).pp(0))?,
            cls_logits: conv(count, 1, vb.pp("cls_logits"))?,
            bbox_pred: conv(4 * count, 1, vb.pp("bbox_pred"))?,
            anchors,
            coder: BoxCoder::default(),
            config: config.clone(),
        })
    }

    /// The proposals for each picture of a batch, from its maps `(N, H, W, C)`, the height and width that the pictures
    /// were `padded` to, and their own, `sizes`.
    ///
    /// Anchors stand at whole multiples of padded size over map size, rounded down. Proposals carry no gradient.
    ///
    /// # Errors
    /// If there are not as many maps as lists of anchor sizes, a map has another number of channels or pictures or no
    /// pixels, or a logit or box is NaN.
    pub fn forward(
        &self,
        maps: &[FeatureMap],
        padded: [usize; 2],
        sizes: &[[usize; 2]],
        pass: &Pass,
    ) -> Result<Vec<Proposals>> {
        self.propose(&self.head(maps, pass)?, padded, sizes)
    }

    /// What the head says about the anchors of `maps` `(N, H, W, C)`.
    ///
    /// # Errors
    /// If a map has another number of channels.
    pub fn head(&self, maps: &[FeatureMap], pass: &Pass) -> Result<RpnOutput> {
        let (mut objectness, mut deltas) = (Vec::new(), Vec::new());
        for map in maps {
            let hidden = convolve(&self.conv, map, None, true, pass)?;
            objectness.push(convolve(&self.cls_logits, &hidden, None, false, pass)?);
            deltas.push(convolve(&self.bbox_pred, &hidden, None, false, pass)?);
        }
        Ok(RpnOutput { objectness, deltas })
    }

    /// The proposals that follow from what the head said; see [`RegionProposalNetwork::forward`].
    ///
    /// # Errors
    /// As [`RegionProposalNetwork::forward`].
    pub fn propose(
        &self,
        output: &RpnOutput,
        padded: [usize; 2],
        sizes: &[[usize; 2]],
    ) -> Result<Vec<Proposals>> {
        let levels = self.levels(output, padded, sizes.len())?;
        let Some(dtype) = levels.first().map(|level| level.logits.dtype()) else { return Ok(Vec::new()) };
        let mut proposals = Vec::with_capacity(sizes.len());
        for (image, &size) in sizes.iter().enumerate() {
            let mut candidates = Candidates::new("rpn", dtype, size, self.config.min_size);
            for (number, level) in levels.iter().enumerate() {
                self.add_best(level, image, number, dtype, &mut candidates)?;
            }
            let Kept { boxes, scores, .. } =
                candidates.suppress(self.config.nms_thresh, self.config.post_nms_top_n)?;
            proposals.push(Proposals { boxes, scores });
        }
        Ok(proposals)
    }

    /// Logits, offsets and anchors of each map in the order of the anchors, cut off from any graph.
    fn levels(&self, output: &RpnOutput, padded: [usize; 2], images: usize) -> Result<Vec<Level>> {
        let RpnOutput { objectness, deltas } = output;
        let cells = self.anchors.cells();
        Error::check_count("rpn: maps", cells.len(), objectness.len())?;
        Error::check_count("rpn: maps of offsets", cells.len(), deltas.len())?;
        let (mut grids, mut strides) = (Vec::new(), Vec::new());
        for map in objectness {
            let (batch, height, width, _) = map.dims()?;
            Error::check_count("rpn: pictures of a map", images, batch)?;
            if height == 0 || width == 0 {
                return Err(Error::size("rpn: map", "at least one pixel", format!("{height} x {width}")));
            }
            grids.push([height, width]);
            strides.push([padded[0] / height, padded[1] / width]);
        }
        let dtype = objectness.first().map_or(DType::F32, |map| map.nhwc().dtype());
        let anchors = self.anchors.levels(&grids, &strides, dtype)?;
        let level = |((objectness, deltas), anchors): ((&FeatureMap, &FeatureMap), Tensor)| {
            let count = anchors.dims().first().copied().unwrap_or(0);
            let logits = objectness.nhwc().detach().reshape((images, count))?;
            let deltas = deltas.nhwc().detach().reshape((images, count, 4))?;
            Ok(Level { logits, deltas, anchors })
        };
        objectness.iter().zip(deltas).zip(anchors).map(level).collect()
    }

    /// Adds the boxes with the highest logits on one map of one picture.
    fn add_best(
        &self,
        level: &Level,
        image: usize,
        number: usize,
        dtype: DType,
        candidates: &mut Candidates,
    ) -> Result<()> {
        let logits = level.logits.get(image)?;
        let most = self.config.pre_nms_top_n.min(logits.elem_count());
        if most == 0 {
            return Ok(());
        }
        let (logits, rows) = topk(&logits, most, true)?;
        let deltas = level.deltas.get(image)?.index_select(&rows, 0)?;
        let anchors = level.anchors.index_select(&rows.to_device(level.anchors.device())?, 0)?;
        let boxes = self.coder.decode(&deltas, &anchors.to_device(deltas.device())?)?;
        let round = rounded(dtype);
        let least = round(self.config.score_thresh);
        for ((row, sides), logit) in sides(&boxes)?.into_iter().enumerate().zip(numbers(&logits)?) {
            let score = round(1. / (1. + (-logit).exp()));
            if score >= least {
                candidates.add(row, sides, score, number as i64)?;
            }
        }
        Ok(())
    }
}

/// One map's anchors, and what the head says about them.
struct Level {
    /// `(N, H W A)`.
    logits: Tensor,
    /// `(N, H W A, 4)`.
    deltas: Tensor,
    /// `(H W A, 4)`, on the CPU.
    anchors: Tensor,
}
