//! No operation panics, whatever it is given: every call returns a result or an error, and so does the backward pass
//! of every result.
//!
//! Arguments are drawn from a seed: mostly such as fit, then spoiled here and there by other ranks, sizes (0 too),
//! element types, strides, indices, numbers that are not finite and arguments that no sum or product of can be taken.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

mod draw;

use std::sync::Arc;

use candle_core::{DType, Tensor};
use draw::Draw;
use proptest::prelude::*;
use vision_core::boxes::{AnchorGenerator, BoxCoder, ratio_cells, scaled_cells};
use vision_core::dist::{Collective, Single};
use vision_core::ops;
use vision_core::rng::Key;
use vision_core::{FeatureMap, Result};

/// The backward pass of what came out, if anything did.
fn settle(result: Result<Tensor>) {
    if let Ok(y) = result
        && y.track_op()
        && let Ok(sum) = y.sum_all()
    {
        drop(sum.backward());
    }
}

fn settle_map(result: Result<FeatureMap>) {
    settle(result.map(|map| map.nhwc().clone()));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolutions(seed: u64) {
        let d = &mut Draw::new(seed);
        let dims @ [_, c, ..] = d.map_dims();
        let groups = d.pick(&[1, 1, 2, c.max(1)]);
        let args = ops::Conv2dArgs {
            stride: d.pair(),
            padding: d.pair(),
            dilation: d.pair(),
            groups: if d.chance(12) { d.count() } else { groups },
        };
        let out = groups * d.pick(&[1, 2, 3]);
        let kernel = [d.pick(&[1, 2, 3, 0]), d.pick(&[1, 2, 3])];
        let (input, bias) = (d.map(dims), d.maybe(&[out]));
        let weight = d.tensor(&[out, c / groups, kernel[0], kernel[1]]);
        settle(ops::conv2d(&input, &weight, bias.as_ref(), &args));
        if let Ok(map) = FeatureMap::from_nchw(&input) {
            let packed = ops::PackedConvWeight::new(weight.clone());
            let after = ops::AfterConv { scale: bias.as_ref(), shift: bias.as_ref(), residual: None, relu: true };
            drop(ops::conv2d_inference_nhwc(&map, &packed, &args, &after));
        }
        let args = ops::ConvTranspose2dArgs {
            stride: args.stride,
            padding: args.padding,
            output_padding: d.pair(),
            dilation: args.dilation,
            groups: args.groups,
        };
        let weight = d.tensor(&[c, out / groups, kernel[0], kernel[1]]);
        settle(ops::conv_transpose2d(&input, &weight, bias.as_ref(), &args));
    }

    #[test]
    fn deformable_convolution(seed: u64) {
        let d = &mut Draw::new(seed);
        let dims @ [n, c, h, w] = d.map_dims();
        let [stride, padding, dilation] = [(); 3].map(|()| d.pair());
        let border = d.pick(&[ops::DeformBorder::Zeros, ops::DeformBorder::Clamped]);
        let args = ops::DeformConv2dArgs { stride, padding, dilation, border };
        let [kh, kw] = [d.pick(&[1, 2, 3]), d.pick(&[1, 2, 3])];
        let along = |size: usize, axis: usize, kernel: usize| {
            let padded = padding[axis].checked_mul(2).and_then(|p| p.checked_add(size));
            let extent = (kernel - 1).checked_mul(dilation[axis]).and_then(|e| e.checked_add(1));
            let spare = padded.zip(extent).and_then(|(padded, extent)| padded.checked_sub(extent));
            spare.zip(Some(stride[axis].max(1))).map_or(1, |(spare, stride)| (spare / stride + 1).min(9))
        };
        let (oh, ow) = (along(h, 0, kh), along(w, 1, kw));
        let offset = d.coordinates(&[n, 2 * kh * kw, oh, ow], 6.0);
        let mask = d.maybe(&[n, kh * kw, oh, ow]);
        let (input, weight, bias) = (d.map(dims), d.tensor(&[3, c, kh, kw]), d.maybe(&[3]));
        settle(ops::deform_conv2d(&input, &offset, &weight, bias.as_ref(), mask.as_ref(), &args));
    }

    #[test]
    fn pooling_and_resizing(seed: u64) {
        let d = &mut Draw::new(seed);
        let dims = d.map_dims();
        let input = d.map(dims);
        let (kernel_size, stride, padding, dilation) = (d.pair(), d.pair(), d.pair(), d.pair());
        let ceil_mode = d.chance(2);
        let args = ops::Pool2dArgs { kernel_size, stride, padding, dilation, ceil_mode };
        settle(ops::max_pool2d(&input, &args));
        let args = ops::AvgPool2dArgs {
            kernel_size,
            stride,
            padding,
            ceil_mode,
            count_include_pad: d.chance(2),
            divisor_override: d.chance(3).then(|| d.count()),
        };
        settle(ops::avg_pool2d(&input, &args));
        let size = d.pair();
        settle(ops::adaptive_avg_pool2d(&input, size));
        settle(ops::adaptive_max_pool2d(&input, size));
        let to = if d.chance(2) {
            ops::ResizeTo::Size(d.pair())
        } else {
            ops::ResizeTo::Factor { factor: [d.number(), d.number()], recompute: d.chance(2) }
        };
        let args = ops::InterpolateArgs {
            mode: d.pick(&[ops::InterpolateMode::Nearest, ops::InterpolateMode::Bilinear]),
            align_corners: d.chance(2),
            antialias: d.chance(2),
        };
        settle(ops::interpolate(&input, to, &args));
        let (oh, ow) = (d.size(), d.size());
        let grid = d.coordinates(&[dims[0], oh, ow, 2], 3.0);
        let args = ops::GridSampleArgs {
            mode: d.pick(&[ops::GridMode::Bilinear, ops::GridMode::Nearest]),
            padding_mode: d.pick(&[
                ops::GridPadding::Zeros,
                ops::GridPadding::Border,
                ops::GridPadding::Reflection,
            ]),
            align_corners: d.chance(2),
        };
        settle(ops::grid_sample(&input, &grid, &args));
    }

    #[test]
    fn normalisation_and_activations(seed: u64) {
        let d = &mut Draw::new(seed);
        let dims @ [_, c, ..] = d.map_dims();
        let input = d.map(dims);
        let [weight, bias, mean, var] = [(); 4].map(|()| d.tensor(&[c]));
        let stats = ops::BatchStats { running_mean: &mean, running_var: &var };
        let (training, momentum, eps) = (d.chance(2), d.number(), d.number());
        settle(ops::batch_norm(&input, &weight, &bias, stats, training, momentum, eps));
        if let Ok(map) = FeatureMap::from_nchw(&input) {
            let running_var =
                if d.chance(2) { ops::RunningVar::Biased } else { ops::RunningVar::Unbiased };
            let args = ops::BatchNormArgs { training, momentum, eps, relu: d.chance(2), running_var };
            let residual = d.maybe(&[dims[0], dims[2], dims[3], c]);
            let residual = residual.and_then(|x| FeatureMap::from_nhwc(x).ok());
            let residual = residual.as_ref();
            settle_map(ops::batch_norm_nhwc(&map, &weight, &bias, stats, &args, residual));
            let collective: Arc<dyn Collective> = Arc::new(Single);
            let ranks = ops::BatchNormRanks { collective: &collective, name: "bn" };
            settle_map(ops::sync_batch_norm_nhwc(&map, &weight, &bias, stats, &args, residual, ranks));
            settle_map(ops::relu_nhwc(&map));
        }
        settle(ops::relu(&input));
        settle(ops::softplus(&input));
        settle(ops::l2_normalize(&input, eps));
        let p = d.number();
        settle(ops::dropout(&input, p, Key::new(seed)));
    }

    #[test]
    fn encodings(seed: u64) {
        let d = &mut Draw::new(seed);
        let [batch, positions, channels, codes] = [d.size(), d.size(), d.size(), d.size()];
        let (input, codewords) = (d.tensor(&[batch, positions, channels]), d.tensor(&[codes, channels]));
        let scale = d.tensor(&[codes]);
        let args = ops::EncodingArgs { normalize_distance: d.chance(2) };
        settle(ops::encoding(&input, &codewords, &scale, &args));
        drop(ops::codeword_usage(&input, &codewords, &scale, &args));
    }

    #[test]
    fn rows_and_losses(seed: u64) {
        let d = &mut Draw::new(seed);
        let [n, width, outputs] = [d.size(), d.size(), d.size()];
        let x = d.tensor(&[n, width]);
        let (weight, bias) = (d.tensor(&[outputs, width]), d.maybe(&[outputs]));
        settle(ops::linear(&x, &weight, bias.as_ref()));
        let k = d.count();
        settle(ops::topk(&x, k, d.chance(2)).map(|(values, _)| values));
        settle(ops::inner_product_topk(&x, &weight, k).map(|(values, _)| values));
        let args = ops::CrossEntropyArgs {
            weight: d.maybe(&[width]),
            ignore_index: d.pick(&[-100, 0, 1, i64::MIN, i64::MAX]),
            reduction: d.reduction(),
            label_smoothing: d.number(),
        };
        let target = d.index(&[n], width);
        settle(ops::cross_entropy(&x, &target, &args));
        let target = d.tensor(&[n, width]);
        let args = ops::BceWithLogitsArgs {
            weight: d.maybe(&[n, width]),
            pos_weight: d.maybe(&[width]),
            reduction: d.reduction(),
        };
        settle(ops::binary_cross_entropy_with_logits(&x, &target, &args));
        let args = ops::SmoothL1Args { beta: d.number(), reduction: d.reduction() };
        settle(ops::smooth_l1_loss(&x, &target, &args));
    }

    #[test]
    fn banks_and_indices(seed: u64) {
        let d = &mut Draw::new(seed);
        let [n, rows, width, k] = [d.size(), d.size(), d.size(), d.size()];
        let (features, bank) = (d.tensor(&[n, width]), d.tensor(&[rows, width]));
        let (index, drawn, scale) = (d.index(&[n], rows), d.index(&[n, k], rows), d.number());
        settle(ops::gather_scores(&features, &bank, &drawn, scale));
        settle(ops::bank_cross_entropy(&features, &bank, &index, scale));
        drop(ops::momentum_update_rows(&bank, &index, &features, scale));
        settle(ops::index_add(&bank, &index, &features));
        let each = d.index(&[n, width], rows);
        settle(ops::scatter_add(&bank, &each, &features));
        // Some of the same memory, too.
        settle(ops::index_add(&bank, &index, &bank));
        drop(ops::momentum_update_rows(&bank, &index, &bank, scale));
    }

    #[test]
    fn steps_of_optimisers(seed: u64) {
        let d = &mut Draw::new(seed);
        let dims = [d.size(), d.size()];
        let (param, grad, buffer) = (d.tensor(&dims), d.tensor(&dims), d.maybe(&dims));
        let args = ops::SgdStepArgs {
            lr: d.number(),
            momentum: d.number(),
            dampening: d.number(),
            weight_decay: d.number(),
            nesterov: d.chance(2),
            first: d.chance(2),
        };
        drop(ops::sgd_step(&param, &grad, buffer.as_ref(), &args));
        drop(ops::sgd_step(&param, &param, buffer.as_ref(), &args));
        drop(ops::sgd_step(&param, &grad, Some(&param), &args));
        drop(ops::sgd_step(&param, &grad, Some(&grad), &args));
        let args = ops::AdamStepArgs {
            lr: d.number(),
            betas: [d.number(), d.number()],
            eps: d.number(),
            weight_decay: d.number(),
            decoupled: d.chance(2),
            amsgrad: d.chance(2),
            step: d.pick(&[0, 1, 2, u64::MAX]),
        };
        let state = d.tensor(&[args.averages(), dims[0], dims[1]]);
        drop(ops::adam_step(&param, &grad, &state, &args));
        if let Ok(own) = state.narrow(0, 0, 1).and_then(|state| state.squeeze(0)) {
            drop(ops::adam_step(&own, &grad, &state, &args));
            drop(ops::adam_step(&param, &own, &state, &args));
        }
    }

    #[test]
    fn regions(seed: u64) {
        let d = &mut Draw::new(seed);
        let dims @ [n, _, h, w] = d.map_dims();
        let (input, boxes) = (d.map(dims), d.regions(n));
        let (output_size, spatial_scale, sampling_ratio) = (d.pair(), d.number(), d.pick(&[0, 1, 2, 5]));
        let aligned = d.chance(2);
        let args = ops::RoiAlignArgs { output_size, spatial_scale, sampling_ratio, aligned };
        settle(ops::roi_align(&input, &boxes, &args));
        settle(ops::roi_pool(&input, &boxes, &ops::RoiPoolArgs { output_size, spatial_scale }));
        let per_group = d.pick(&[0, 1, 2]);
        let grouped = d.map([n, 4 * per_group, h, w]);
        let output_size = if d.chance(2) { [2, 2] } else { output_size };
        let args = ops::PsRoiAlignArgs { output_size, spatial_scale, sampling_ratio };
        settle(ops::ps_roi_align(&grouped, &boxes, &args));
        let rounding = d.pick(&[ops::PsRoiRounding::AfterScaling, ops::PsRoiRounding::BeforeScaling]);
        let args = ops::PsRoiPoolArgs { output_size, spatial_scale, rounding };
        settle(ops::ps_roi_pool(&grouped, &boxes, &args));
        let args = ops::DeformPsRoiPoolArgs {
            output_size: output_size[0],
            spatial_scale,
            group_size: if d.chance(8) { d.count() } else { 2 },
            part_size: d.count(),
            sample_per_part: d.pick(&[0, 1, 2, 4]),
            trans_std: d.number(),
        };
        let parts = if args.part_size == 0 { args.output_size } else { args.part_size }.min(3);
        let offset = boxes.dims().first().and_then(|&k| d.maybe(&[k, 2, parts, parts]));
        settle(ops::deform_ps_roi_pool(&grouped, &boxes, offset.as_ref(), &args));
        if let Ok(map) = FeatureMap::from_nchw(&input) {
            let args = ops::CropAndResizeArgs {
                crop_size: output_size,
                method: d.pick(&[ops::CropMethod::Bilinear, ops::CropMethod::Nearest]),
                extrapolation_value: d.number(),
            };
            let (sides, index) = (d.coordinates(&[3, 4], 2.0), d.index(&[3], n));
            settle_map(ops::crop_and_resize(&map, &sides, &index, &args));
        }
    }

    #[test]
    fn boxes(seed: u64) {
        let d = &mut Draw::new(seed);
        let [n, m] = [d.size(), d.size()];
        let (one, two, scores) = (d.coordinates(&[n, 4], 9.0), d.coordinates(&[m, 4], 9.0), d.tensor(&[n]));
        settle(ops::box_iou(&one, &two));
        settle(ops::generalized_box_iou(&one, &two));
        let args = ops::NmsArgs { iou_threshold: d.number(), extent: d.extent() };
        settle(ops::nms(&one, &scores, &args));
        let classes = d.index(&[n], 3);
        settle(ops::batched_nms(&one, &scores, &classes, &args));
        let args = ops::SoftNmsArgs {
            method: d.pick(&[
                ops::SoftNmsMethod::Hard,
                ops::SoftNmsMethod::Linear,
                ops::SoftNmsMethod::Gaussian,
            ]),
            sigma: d.number(),
            iou_threshold: args.iou_threshold,
            min_score: d.number(),
            extent: args.extent,
        };
        settle(ops::soft_nms(&one, &scores, &args).map(|found| found.scores));
        let weights = [(); 4].map(|()| d.number());
        let coder = BoxCoder { weights, clip: d.number(), extent: d.extent() };
        let others = d.coordinates(&[n, 4], 9.0);
        settle(coder.encode(&one, &others));
        settle(coder.decode(&one, &others));
        let deltas = d.tensor(&[n, 8]);
        settle(coder.decode(&deltas, &others));
    }

    #[test]
    fn anchors(seed: u64) {
        let d = &mut Draw::new(seed);
        let levels = d.pick(&[0, 1, 2]);
        let numbers = |d: &mut Draw| -> Vec<f64> { (0..d.below(4)).map(|_| d.number()).collect() };
        let (sizes, ratios) = ((0..levels).map(|_| numbers(d)).collect::<Vec<_>>(), numbers(d));
        let scales = numbers(d);
        drop(scaled_cells(d.number(), &ratios, &scales));
        drop(ratio_cells(&scales, &ratios));
        if let Ok(anchors) = AnchorGenerator::new(&sizes, &ratios) {
            let levels = if d.chance(6) { d.size() } else { levels };
            let grids: Vec<_> = (0..levels).map(|_| d.pair()).collect();
            let strides: Vec<_> = (0..levels).map(|_| d.pair()).collect();
            let dtype = d.pick(&[DType::F32, DType::F64, DType::U32]);
            settle(anchors.all(&grids, &strides, dtype));
            drop(anchors.levels(&grids, &strides, dtype));
        }
    }
}
