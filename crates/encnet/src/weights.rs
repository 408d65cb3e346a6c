//! Names of published checkpoints, how they become ours, and back.

use vision_core::params::ParamStore;
use vision_weights::{Array, KeyMap, LoadReport, StateDict};

use crate::error::{Error, Result};

/// Who wrote a checkpoint, or who is to read one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This crate, or the authors' code from release 0.4.3 on (`PyTorch-Encoding`).
    Native,
    /// The authors' release 0.4.2: no projection in front of the encoding, no dropout layer in front of the classifier.
    V042,
    /// `OpenMMLab`'s mmsegmentation: `backbone.…`, `decode_head.…` and `auxiliary_head.…`.
    MmSegmentation,
    /// A backbone alone, as timm's `resnet50s`, `resnet50c` and their kin, and torchvision's networks.
    Backbone,
}

/// Release 0.4.2, their names and ours, as whole segments.
const V042: &[(&str, &str)] = &[
    ("head.encmodule.encoding.1", "head.encmodule.encoding.4"),
    ("head.encmodule.encoding.0", "head.encmodule.encoding.3"),
    ("head.conv6", "head.conv6.1"),
];

/// mmsegmentation, their names and ours. None of ours begins like one of theirs, so the order only matters within a part.
const MM_SEGMENTATION: &[(&str, &str)] = &[
    ("backbone.stem.7", "pretrained.bn1"),
    ("backbone.stem", "pretrained.conv1"),
    ("backbone", "pretrained"),
    ("decode_head.bottleneck.conv", "head.conv5.0"),
    ("decode_head.bottleneck.bn", "head.conv5.1"),
    ("decode_head.lateral_convs.0.conv", "head.connect.0.0"),
    ("decode_head.lateral_convs.0.bn", "head.connect.0.1"),
    ("decode_head.lateral_convs.1.conv", "head.connect.1.0"),
    ("decode_head.lateral_convs.1.bn", "head.connect.1.1"),
    ("decode_head.fusion.conv", "head.fusion.0"),
    ("decode_head.fusion.bn", "head.fusion.1"),
    ("decode_head.enc_module.encoding_project.conv", "head.encmodule.encoding.0"),
    ("decode_head.enc_module.encoding_project.bn", "head.encmodule.encoding.1"),
    ("decode_head.enc_module.encoding.0", "head.encmodule.encoding.3"),
    ("decode_head.enc_module.encoding.1", "head.encmodule.encoding.4"),
    ("decode_head.enc_module.fc", "head.encmodule.fc"),
    ("decode_head.se_layer", "head.encmodule.selayer"),
    ("decode_head.conv_seg", "head.conv6.1"),
    ("auxiliary_head.convs.0.conv", "auxlayer.conv5.0"),
    ("auxiliary_head.convs.0.bn", "auxlayer.conv5.1"),
    ("auxiliary_head.conv_seg", "auxlayer.conv5.4"),
];

/// What training wraps around names.
const WRAPPERS: [&str; 2] = ["state_dict.", "module."];

fn unwrapped(mut name: &str) -> &str {
    for wrapper in WRAPPERS {
        name = name.strip_prefix(wrapper).unwrap_or(name);
    }
    name
}

/// Recognises the writer by the names in the file.
pub fn detect<'a>(names: impl IntoIterator<Item = &'a str>) -> Source {
    let mut source = Source::Backbone;
    for name in names {
        let name = unwrapped(name);
        if name.starts_with("decode_head.") || name.starts_with("backbone.") {
            return Source::MmSegmentation;
        }
        if name == "head.encmodule.encoding.0.codewords" {
            return Source::V042;
        }
        if ["pretrained.", "head.", "auxlayer."].iter().any(|prefix| name.starts_with(prefix)) {
            source = Source::Native;
        }
    }
    source
}

/// The rules from `source`'s names to ours. The classifier of the pretrained backbone, which some checkpoints still hold,
/// and the counters of batch normalisation are dropped.
pub fn key_map(source: Source) -> KeyMap {
    let mut map = KeyMap::new().drop_suffix("num_batches_tracked");
    for wrapper in WRAPPERS {
        map = map.strip_prefix(wrapper);
    }
    let map = match source {
        Source::Native => map,
        Source::V042 => V042.iter().fold(map, |map, (theirs, ours)| map.replace(theirs, ours)),
        Source::MmSegmentation => {
            MM_SEGMENTATION.iter().fold(map, |map, (theirs, ours)| map.replace(theirs, ours))
        }
        Source::Backbone => map.add_prefix("pretrained."),
    };
    map.drop_prefix("pretrained.fc.")
}

/// Loads a checkpoint of a whole model into the parameters of one. Nothing is forgiven: see [`LoadReport::check`].
///
/// # Errors
/// If names collide after mapping, the parameters do not match the file, or a codeword or scale is not finite.
pub fn load(params: &ParamStore, state: StateDict) -> Result<LoadReport> {
    let state = mapped(state)?;
    let report = params.load(&state)?;
    report.check()?;
    Ok(report)
}

/// Loads the backbone of a checkpoint, from a file of a backbone alone or of a whole model, and leaves the head as it is.
///
/// # Errors
/// As [`load`], for the names that begin with `pretrained.`.
pub fn load_backbone(params: &ParamStore, state: StateDict) -> Result<LoadReport> {
    let state = KeyMap::new().keep_prefix("pretrained.").apply(mapped(state)?)?;
    let report = params.load(&state)?.allow_missing("head.").allow_missing("auxlayer.");
    report.check()?;
    Ok(report)
}

/// Loads a checkpoint of a [`CifarNet`](crate::cifar::CifarNet), by its own names, with or without what training wraps
/// around them.
///
/// # Errors
/// As [`load`].
pub fn load_cifar(params: &ParamStore, state: StateDict) -> Result<LoadReport> {
    let report = params.load(&finite(key_map(Source::Native).apply(state)?)?)?;
    report.check()?;
    Ok(report)
}

fn mapped(state: StateDict) -> Result<StateDict> {
    finite(key_map(detect(state.names())).apply(state)?)
}

/// The same, if the numbers that distances are made of are numbers.
fn finite(state: StateDict) -> Result<StateDict> {
    for (name, array) in state.iter() {
        if matches!(name.rsplit('.').next(), Some("codewords" | "scale")) {
            let numbers = array.to_f64()?;
            if let Some((position, &value)) = numbers.iter().enumerate().find(|(_, x)| !x.is_finite()) {
                return Err(Error::NotFinite { name: name.to_owned(), position, value });
            }
        }
    }
    Ok(state)
}

/// The parameters as `target` names them, with the counters that PyTorch's normalisation keeps, at 0.
///
/// # Errors
/// If a tensor has an element type that weight files do not have, or the model has parts that `target` cannot name: a
/// projection in [`Source::V042`], the head of an FCN in [`Source::MmSegmentation`].
pub fn export(params: &ParamStore, target: Source) -> Result<StateDict> {
    let mut state = params.state_dict()?;
    let counters: Vec<String> = state
        .names()
        .filter_map(|name| Some(format!("{}num_batches_tracked", name.strip_suffix("running_mean")?)))
        .collect();
    for name in counters {
        state.insert(name, Array::from_i64([], &[0])?);
    }
    let map = match target {
        Source::Native => KeyMap::new(),
        Source::V042 => {
            if state.get("head.encmodule.encoding.0.weight").is_some() {
                let problem = "release 0.4.2 has none";
                return Err(Error::config("model.context.projection", problem));
            }
            V042.iter().fold(KeyMap::new(), |map, (theirs, ours)| map.replace(ours, theirs))
        }
        Source::MmSegmentation => {
            if state.get("head.conv5.4.weight").is_some() {
                return Err(Error::config("model.method", "the FCN of mmsegmentation is another one"));
            }
            MM_SEGMENTATION.iter().fold(KeyMap::new(), |map, (theirs, ours)| map.replace(ours, theirs))
        }
        Source::Backbone => KeyMap::new().keep_prefix("pretrained.").strip_prefix("pretrained."),
    };
    Ok(map.apply(state)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(names: &[&str]) -> Vec<String> {
        let map = key_map(detect(names.iter().copied()));
        names.iter().filter_map(|name| map.apply_name(name)).collect()
    }

    #[test]
    fn published_names_become_ours() {
        let ours = ["pretrained.bn1.bias", "head.encmodule.encoding.3.scale", "auxlayer.conv5.4.weight"];
        assert_eq!(map(&ours), ours);
        assert_eq!(map(&ours.map(|name| format!("state_dict.module.{name}")).each_ref().map(|s| &**s)), ours);
        assert_eq!(
            map(&["pretrained.fc.bias", "pretrained.bn1.num_batches_tracked", "head.conv6.1.bias"]),
            ["head.conv6.1.bias"]
        );
        assert_eq!(
            map(&[
                "head.encmodule.encoding.0.codewords",
                "head.encmodule.encoding.0.scale",
                "head.encmodule.encoding.1.running_mean",
                "head.conv6.weight",
            ]),
            [
                "head.encmodule.encoding.3.codewords",
                "head.encmodule.encoding.3.scale",
                "head.encmodule.encoding.4.running_mean",
                "head.conv6.1.weight"
            ]
        );
        assert_eq!(
            map(&["conv1.0.weight", "layer1.0.downsample.1.bias", "fc.weight"]),
            ["pretrained.conv1.0.weight", "pretrained.layer1.0.downsample.1.bias"]
        );
    }

    #[test]
    fn names_of_mmsegmentation() {
        assert_eq!(
            map(&[
                "state_dict.backbone.stem.0.weight",
                "state_dict.backbone.stem.7.weight",
                "state_dict.backbone.layer4.2.bn3.bias",
                "state_dict.decode_head.enc_module.encoding_project.bn.weight",
                "state_dict.decode_head.enc_module.encoding.0.codewords",
                "state_dict.decode_head.enc_module.encoding.1.weight",
                "state_dict.decode_head.conv_seg.bias",
                "state_dict.auxiliary_head.convs.0.conv.weight",
            ]),
            [
                "pretrained.conv1.0.weight",
                "pretrained.bn1.weight",
                "pretrained.layer4.2.bn3.bias",
                "head.encmodule.encoding.1.weight",
                "head.encmodule.encoding.3.codewords",
                "head.encmodule.encoding.4.weight",
                "head.conv6.1.bias",
                "auxlayer.conv5.0.weight"
            ]
        );
    }
}
