//! Names of published checkpoints, and how they become ours.

use vision_core::params::ParamStore;
use vision_weights::{KeyMap, LoadReport, StateDict};

use crate::error::Result;

/// Who wrote a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This crate, or torchvision: names as they are.
    Native,
    /// The authors' release (`lemniscate`): `state_dict.module.…`; the CIFAR network calls the shortcut
    /// `shortcut` and the last layer `linear`.
    Lemniscate,
    /// `MoCo`: `state_dict.module.encoder_q.…`.
    Moco,
    /// `OpenMMLab`'s NPID: `state_dict.backbone.…` and `neck.fc.…`.
    MmSelfSup,
}

/// Recognises the writer by the names in the file.
pub fn detect<'a>(names: impl IntoIterator<Item = &'a str>) -> Source {
    let mut source = Source::Native;
    for name in names {
        let name = name.strip_prefix("state_dict.").unwrap_or(name);
        if name.contains("encoder_q.") {
            return Source::Moco;
        }
        if name.starts_with("backbone.") || name.starts_with("neck.") {
            return Source::MmSelfSup;
        }
        if name.starts_with("module.") || name.contains(".shortcut.") || name.starts_with("linear.") {
            source = Source::Lemniscate;
        }
    }
    source
}

/// The rules from `source`'s names to ours.
pub fn key_map(source: Source) -> KeyMap {
    let map = KeyMap::new().strip_prefix("state_dict.").drop_suffix("num_batches_tracked");
    match source {
        Source::Native => map,
        Source::Lemniscate => map
            .strip_prefix("module.")
            .replace("shortcut", "downsample")
            .replace("linear", "fc")
            .drop_prefix("optimizer")
            .drop_prefix("lemniscate"),
        Source::Moco => map.keep_prefix("module.encoder_q.").strip_prefix("module.encoder_q."),
        Source::MmSelfSup => map
            .strip_prefix("backbone.")
            .strip_prefix("neck.")
            .drop_prefix("memory_bank.")
            .drop_prefix("head."),
    }
}

/// Loads a checkpoint of any [`Source`] into a model's parameters. Nothing is forgiven: see
/// [`LoadReport::check`].
///
/// # Errors
/// If names collide after mapping, or the parameters do not match the file.
pub fn load(params: &ParamStore, state: StateDict) -> Result<LoadReport> {
    let source = detect(state.names());
    let state = key_map(source).apply(state)?;
    let report = params.load(&state)?.allow_missing_suffix("num_batches_tracked");
    report.check()?;
    Ok(report)
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
        let ours = ["conv1.weight", "layer2.0.downsample.0.weight", "fc.bias"];
        assert_eq!(map(&ours), ours);
        assert_eq!(
            map(&[
                "state_dict.module.conv1.weight",
                "state_dict.module.layer2.0.shortcut.0.weight",
                "state_dict.module.linear.bias"
            ]),
            ours
        );
        assert_eq!(
            map(&[
                "state_dict.module.encoder_q.conv1.weight",
                "state_dict.module.encoder_q.layer2.0.downsample.0.weight",
                "state_dict.module.encoder_q.fc.bias",
                "state_dict.module.encoder_k.fc.bias",
                "state_dict.module.queue"
            ]),
            ours
        );
        assert_eq!(
            map(&[
                "state_dict.backbone.conv1.weight",
                "state_dict.backbone.layer2.0.downsample.0.weight",
                "state_dict.neck.fc.bias",
                "state_dict.memory_bank.feature_bank",
                "state_dict.backbone.bn1.num_batches_tracked"
            ]),
            ours
        );
    }
}
