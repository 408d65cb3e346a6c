//! Maps for the names of published segmentation networks, there and back.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may stop on the first surprise")]

use std::collections::BTreeSet;

use vision_weights::{Array, KeyMap, StateDict};

/// Checks that the names become what they should, all different, and come back as they were.
fn there_and_back(map: &KeyMap, names: &[(&str, &str)]) {
    let back = map.inverse().unwrap();
    for (theirs, ours) in names {
        assert_eq!(map.apply_name(theirs).as_deref(), Some(*ours));
        assert_eq!(back.apply_name(ours).as_deref(), Some(*theirs));
    }
    let state: StateDict =
        names.iter().map(|(name, _)| ((*name).to_owned(), Array::from_u32([1], &[7]).unwrap())).collect();
    let mapped = map.apply(state.clone()).unwrap();
    assert_eq!(mapped.len(), names.iter().collect::<BTreeSet<_>>().len());
    assert_eq!(back.apply(mapped).unwrap(), state);
}

#[test]
fn the_original_encoding_network() {
    let map = KeyMap::new()
        .replace_prefix("pretrained.", "backbone.")
        .table([
            ("auxlayer.conv5.0.**", "auxiliary.conv.**"),
            ("auxlayer.conv5.1.**", "auxiliary.norm.**"),
            ("auxlayer.conv5.4.**", "auxiliary.classifier.**"),
            ("head.conv5.0.**", "head.reduce.conv.**"),
            ("head.conv5.1.**", "head.reduce.norm.**"),
            ("head.connect.*.0.**", "head.lateral.*.conv.**"),
            ("head.connect.*.1.**", "head.lateral.*.norm.**"),
            ("head.fusion.0.**", "head.fusion.conv.**"),
            ("head.fusion.1.**", "head.fusion.norm.**"),
            ("head.encmodule.encoding.0.**", "head.encoding.project.conv.**"),
            ("head.encmodule.encoding.1.**", "head.encoding.project.norm.**"),
            ("head.encmodule.encoding.3.*", "head.encoding.layer.*"),
            ("head.encmodule.encoding.4.**", "head.encoding.norm.**"),
            ("head.encmodule.fc.0.**", "head.encoding.gate.**"),
            ("head.encmodule.selayer.**", "head.presence.**"),
            ("head.conv6.1.**", "head.classifier.**"),
        ])
        .unwrap();
    there_and_back(
        &map,
        &[
            ("pretrained.conv1.0.weight", "backbone.conv1.0.weight"),
            ("pretrained.layer3.22.bn3.running_mean", "backbone.layer3.22.bn3.running_mean"),
            ("pretrained.layer1.0.downsample.1.weight", "backbone.layer1.0.downsample.1.weight"),
            ("head.conv5.0.weight", "head.reduce.conv.weight"),
            ("head.conv5.1.running_var", "head.reduce.norm.running_var"),
            ("head.connect.0.0.weight", "head.lateral.0.conv.weight"),
            ("head.connect.1.1.bias", "head.lateral.1.norm.bias"),
            ("head.fusion.0.weight", "head.fusion.conv.weight"),
            ("head.encmodule.encoding.0.weight", "head.encoding.project.conv.weight"),
            ("head.encmodule.encoding.3.codewords", "head.encoding.layer.codewords"),
            ("head.encmodule.encoding.3.scale", "head.encoding.layer.scale"),
            ("head.encmodule.encoding.4.running_mean", "head.encoding.norm.running_mean"),
            ("head.encmodule.fc.0.bias", "head.encoding.gate.bias"),
            ("head.encmodule.selayer.weight", "head.presence.weight"),
            ("head.conv6.1.weight", "head.classifier.weight"),
            ("auxlayer.conv5.0.weight", "auxiliary.conv.weight"),
            ("auxlayer.conv5.4.bias", "auxiliary.classifier.bias"),
        ],
    );
}

#[test]
fn mmsegmentation_encnet() {
    let names = KeyMap::new()
        .table([
            // The last normalisation of the stem has a name of its own.
            ("backbone.stem.7.**", "backbone.bn1.**"),
            ("backbone.stem.*.**", "backbone.conv1.*.**"),
            ("decode_head.bottleneck.conv.**", "head.reduce.conv.**"),
            ("decode_head.bottleneck.bn.**", "head.reduce.norm.**"),
            ("decode_head.lateral_convs.*.conv.**", "head.lateral.*.conv.**"),
            ("decode_head.lateral_convs.*.bn.**", "head.lateral.*.norm.**"),
            ("decode_head.fusion.conv.**", "head.fusion.conv.**"),
            ("decode_head.fusion.bn.**", "head.fusion.norm.**"),
            ("decode_head.enc_module.encoding_project.conv.**", "head.encoding.project.conv.**"),
            ("decode_head.enc_module.encoding_project.bn.**", "head.encoding.project.norm.**"),
            ("decode_head.enc_module.encoding.0.*", "head.encoding.layer.*"),
            ("decode_head.enc_module.encoding.1.**", "head.encoding.norm.**"),
            ("decode_head.enc_module.fc.0.**", "head.encoding.gate.**"),
            ("decode_head.se_layer.**", "head.presence.**"),
            ("decode_head.conv_seg.**", "head.classifier.**"),
            ("auxiliary_head.convs.0.conv.**", "auxiliary.conv.**"),
            ("auxiliary_head.convs.0.bn.**", "auxiliary.norm.**"),
            ("auxiliary_head.conv_seg.**", "auxiliary.classifier.**"),
        ])
        .unwrap();
    there_and_back(
        &names,
        &[
            ("backbone.stem.0.weight", "backbone.conv1.0.weight"),
            ("backbone.stem.1.running_mean", "backbone.conv1.1.running_mean"),
            ("backbone.stem.3.weight", "backbone.conv1.3.weight"),
            ("backbone.stem.4.bias", "backbone.conv1.4.bias"),
            ("backbone.stem.6.weight", "backbone.conv1.6.weight"),
            ("backbone.stem.7.weight", "backbone.bn1.weight"),
            ("backbone.layer1.0.conv1.weight", "backbone.layer1.0.conv1.weight"),
            ("backbone.layer4.2.bn3.num_batches_tracked", "backbone.layer4.2.bn3.num_batches_tracked"),
            ("decode_head.bottleneck.conv.weight", "head.reduce.conv.weight"),
            ("decode_head.bottleneck.bn.weight", "head.reduce.norm.weight"),
            ("decode_head.lateral_convs.1.conv.weight", "head.lateral.1.conv.weight"),
            ("decode_head.lateral_convs.0.bn.bias", "head.lateral.0.norm.bias"),
            ("decode_head.fusion.conv.weight", "head.fusion.conv.weight"),
            ("decode_head.enc_module.encoding_project.conv.weight", "head.encoding.project.conv.weight"),
            ("decode_head.enc_module.encoding_project.bn.bias", "head.encoding.project.norm.bias"),
            ("decode_head.enc_module.encoding.0.codewords", "head.encoding.layer.codewords"),
            ("decode_head.enc_module.encoding.0.scale", "head.encoding.layer.scale"),
            ("decode_head.enc_module.encoding.1.running_var", "head.encoding.norm.running_var"),
            ("decode_head.enc_module.fc.0.weight", "head.encoding.gate.weight"),
            ("decode_head.se_layer.bias", "head.presence.bias"),
            ("decode_head.conv_seg.weight", "head.classifier.weight"),
            ("auxiliary_head.convs.0.conv.weight", "auxiliary.conv.weight"),
            ("auxiliary_head.convs.0.bn.running_var", "auxiliary.norm.running_var"),
            ("auxiliary_head.conv_seg.bias", "auxiliary.classifier.bias"),
        ],
    );
    // A checkpoint has more around the names; what is optional stays out of the map that is undone.
    let checkpoint = KeyMap::new().strip_prefix("state_dict.").strip_prefix("module.").then(&names);
    let ours = checkpoint.apply_name("state_dict.module.decode_head.se_layer.weight");
    assert_eq!(ours.as_deref(), Some("head.presence.weight"));
    assert!(checkpoint.inverse().is_err());
}

#[test]
fn a_timm_backbone_under_a_prefix() {
    let map = KeyMap::new().drop_prefix("fc.").add_prefix("backbone.").drop_suffix("num_batches_tracked");
    there_and_back(
        &map,
        &[
            ("conv1.0.weight", "backbone.conv1.0.weight"),
            ("conv1.4.running_mean", "backbone.conv1.4.running_mean"),
            ("bn1.weight", "backbone.bn1.weight"),
            ("layer1.0.downsample.0.weight", "backbone.layer1.0.downsample.0.weight"),
            ("layer4.2.bn3.bias", "backbone.layer4.2.bn3.bias"),
        ],
    );
    assert_eq!(map.apply_name("fc.weight"), None);
    assert_eq!(map.apply_name("bn1.num_batches_tracked"), None);
    // A shortcut that pools first, and so counts its layers one further.
    let shifted =
        KeyMap::new().replace("downsample.1", "downsample.0").replace("downsample.2", "downsample.1");
    there_and_back(
        &shifted,
        &[
            ("layer2.0.downsample.1.weight", "layer2.0.downsample.0.weight"),
            ("layer2.0.downsample.2.running_var", "layer2.0.downsample.1.running_var"),
            ("layer1.1.conv2.weight", "layer1.1.conv2.weight"),
        ],
    );
}
