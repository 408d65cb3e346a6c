//! Faster R-CNN with a feature pyramid: torchvision's `fasterrcnn_resnet50_fpn`.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use vision_core::backbones::resnet::{ResNet, ResNetConfig};
use vision_core::nn::BatchNormConfig;
use vision_core::{FeatureMap, Pass};

use crate::error::{Error, Result, at_least_one};
use crate::fpn::FeaturePyramidNetwork;
use crate::heads::{FastRcnnPredictor, TwoFcHead};
use crate::postprocess::{Detections, PostprocessConfig, postprocess};
use crate::roi_pooler::{RoiPooler, RoiPoolerConfig};
use crate::rpn::{Proposals, RegionProposalNetwork, RpnConfig};
use crate::transform::{ImageBatch, Transform, TransformConfig, resize_boxes};

/// Shape and constants of a [`FasterRcnn`].
#[derive(Clone, Debug, PartialEq)]
pub struct FasterRcnnConfig {
    /// Classes, background included.
    pub num_classes: usize,
    /// The backbone; maps of its four stages are used.
    pub backbone: ResNetConfig,
    /// Channels of the maps of the pyramid.
    pub fpn_channels: usize,
    /// How pictures become a batch.
    pub transform: TransformConfig,
    /// The proposals. Anchors need sizes for five maps.
    pub rpn: RpnConfig,
    /// How regions are pooled.
    pub pooler: RoiPoolerConfig,
    /// Numbers in the vector of a region.
    pub representation_size: usize,
    /// How predictions become detections.
    pub post: PostprocessConfig,
}

impl Default for FasterRcnnConfig {
    /// torchvision's ResNet-50 for the 91 numbers of COCO's classes, with frozen normalisation.
    fn default() -> Self {
        let norm = BatchNormConfig { frozen: true, ..BatchNormConfig::default() };
        Self {
            num_classes: 91,
            backbone: ResNetConfig { norm, ..ResNetConfig::default() },
            fpn_channels: 256,
            transform: TransformConfig::default(),
            rpn: RpnConfig::default(),
            pooler: RoiPoolerConfig::default(),
            representation_size: 1024,
            post: PostprocessConfig::default(),
        }
    }
}

impl FasterRcnnConfig {
    /// The model of torchvision's published weights, `FasterRCNN_ResNet50_FPN_Weights.COCO_V1`: their normalisation adds
    /// nothing to the variances.
    pub fn coco_v1() -> Self {
        let mut config = Self::default();
        config.backbone.norm.eps = 0.;
        config
    }
}

/// A detector: pictures in, boxes with scores and classes out.
///
/// Names of parameters are torchvision's (`backbone.body.layer1.0.conv1.weight`, `backbone.fpn.inner_blocks.0.0.weight`,
/// `rpn.head.cls_logits.bias`, `roi_heads.box_predictor.cls_score.weight`); [`crate::weights`] loads its files. New
/// parameters start as in the layers of [`vision_core::nn`].
///
/// ```
/// use candle_core::{DType, Device};
/// use vision_core::backbones::resnet::Depth;
/// use vision_core::{Pass, params::ParamStore, rng::Key};
/// use vision_detect::{FasterRcnn, FasterRcnnConfig};
/// # fn main() -> vision_detect::Result<()> {
/// // `FasterRcnnConfig::default()` is the ResNet-50 of torchvision; this is a small one for small pictures.
/// let mut config = FasterRcnnConfig { num_classes: 4, fpn_channels: 8, representation_size: 16, ..Default::default() };
/// (config.backbone.depth, config.backbone.width) = (Depth::R18, 4);
/// config.transform.min_size = 96;
/// config.post.detections_per_img = 10;
///
/// let (key, device) = (Key::new(1), Device::Cpu);
/// let params = ParamStore::new(key, DType::F32, &device);
/// let detector = FasterRcnn::new(&config, params.var_builder())?;
/// let picture = key.fold("picture").uniform((3, 60, 90), 0.0, 1.0, DType::F32, &device)?;
/// let found = detector.forward(&[picture], &Pass::inference())?;
/// let (count, _) = found[0].boxes.dims2()?;
/// assert!(count <= 10 && found[0].labels.dims() == [count]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct FasterRcnn {
    transform: Transform,
    body: ResNet,
    fpn: FeaturePyramidNetwork,
    rpn: RegionProposalNetwork,
    pooler: RoiPooler,
    head: TwoFcHead,
    predictor: FastRcnnPredictor,
    post: PostprocessConfig,
}

impl FasterRcnn {
    /// Builds the detector; parameters are created or read by `vb`.
    ///
    /// # Errors
    /// If a field of the configuration is out of range or contradicts another, or a parameter has another shape.
    #[allow(clippy::needless_pass_by_value, reason = "builders are passed by value throughout candle")]
    pub fn new(config: &FasterRcnnConfig, vb: VarBuilder<'_>) -> Result<Self> {
        config.post.validate()?;
        at_least_one("representation_size", config.representation_size)?;
        if config.transform.mean.len() != config.backbone.in_channels {
            let got = config.transform.mean.len();
            let problem = format!("{got} given for {} channels", config.backbone.in_channels);
            return Err(Error::config("transform.mean", problem));
        }
        let backbone = vb.pp("backbone");
        let body = ResNet::new(&config.backbone, backbone.pp("body"))?;
        let stages = body.info().get(1..).unwrap_or_default();
        let channels: Vec<usize> = stages.iter().map(|stage| stage.channels).collect();
        let strides: Vec<usize> = stages.iter().map(|stage| stage.stride).collect();
        if config.rpn.sizes.len() != strides.len() + 1 {
            let problem = format!("{} given for {} maps", config.rpn.sizes.len(), strides.len() + 1);
            return Err(Error::config("rpn.sizes", problem));
        }
        let cells = config.pooler.output_size * config.pooler.output_size;
        let heads = vb.pp("roi_heads");
        Ok(Self {
            transform: Transform::new(config.transform.clone())?,
            fpn: FeaturePyramidNetwork::new(&channels, config.fpn_channels, backbone.pp("fpn"))?,
            rpn: RegionProposalNetwork::new(config.fpn_channels, &config.rpn, vb.pp("rpn"))?,
            pooler: RoiPooler::new(&strides, config.pooler)?,
            head: TwoFcHead::new(
                config.fpn_channels * cells,
                config.representation_size,
                heads.pp("box_head"),
            )?,
            predictor: FastRcnnPredictor::new(
                config.representation_size,
                config.num_classes,
                heads.pp("box_predictor"),
            )?,
            post: config.post,
            body,
        })
    }

    /// What is found in each of `images`, `(C, H, W)` with values in `[0, 1]` and of any sizes; boxes are in pixels of the
    /// pictures as given.
    ///
    /// # Errors
    /// If a picture does not fit (see [`Transform::batch`]), the pass is one for training, or the network's numbers are
    /// not finite.
    pub fn forward(&self, images: &[Tensor], pass: &Pass) -> Result<Vec<Detections>> {
        if pass.train {
            return Err(Error::config("pass", "detections are made in passes without training behaviour"));
        }
        let batch = self.transform.batch(images)?;
        let maps = self.features(&batch, pass)?;
        let proposals = self.proposals(&maps, &batch, pass)?;
        let mut found = self.detect(&maps, &proposals, &batch)?;
        for ((found, &from), &to) in found.iter_mut().zip(&batch.sizes).zip(&batch.original) {
            found.boxes = resize_boxes(&found.boxes, from, to)?;
        }
        Ok(found)
    }

    /// How pictures become a batch.
    pub fn transform(&self) -> &Transform {
        &self.transform
    }

    /// The maps of the pyramid for a batch, from fine to coarse, `(N, H, W, C)`.
    ///
    /// # Errors
    /// If the pictures have other channels than the backbone.
    pub fn features(&self, batch: &ImageBatch, pass: &Pass) -> Result<Vec<FeatureMap>> {
        let stages = self.body.forward_features(&batch.pictures, pass)?;
        self.fpn.forward(stages.get(1..).unwrap_or_default(), pass)
    }

    /// The proposals for each picture of a batch, from the maps of the pyramid.
    ///
    /// # Errors
    /// As [`RegionProposalNetwork::forward`].
    pub fn proposals(&self, maps: &[FeatureMap], batch: &ImageBatch, pass: &Pass) -> Result<Vec<Proposals>> {
        let (_, height, width, _) = batch.pictures.dims()?;
        self.rpn.forward(maps, [height, width], &batch.sizes, pass)
    }

    /// The detections among `proposals`, in pixels of the pictures as the network sees them.
    ///
    /// # Errors
    /// If maps, proposals and pictures do not fit together, or a number is not finite.
    pub fn detect(
        &self,
        maps: &[FeatureMap],
        proposals: &[Proposals],
        batch: &ImageBatch,
    ) -> Result<Vec<Detections>> {
        let boxes: Vec<Tensor> = proposals.iter().map(|found| found.boxes.clone()).collect();
        // The coarsest map only makes proposals.
        let (_, pooled_from) = maps.split_last().ok_or_else(|| Error::size("maps", "at least 1", 0))?;
        if boxes.iter().all(|boxes| boxes.elem_count() == 0) {
            let dtype = batch.pictures.nhwc().dtype();
            return boxes.iter().map(|_| Detections::none(dtype)).collect();
        }
        let pooled = self.pooler.forward(pooled_from, &boxes)?;
        let (logits, offsets) = self.predictor.forward(&self.head.forward(&pooled)?)?;
        postprocess(&logits, &offsets, &boxes, &batch.sizes, &self.post)
    }
}
