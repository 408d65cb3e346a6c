#!/usr/bin/env python3
"""Writes every committed golden case beside this file: `python3 tests/golden/generate.py`.

Needs torch, torchvision, Pillow and pycocotools from PyPI (CPU is enough). The same seed and the same versions write the same
bytes. `--models FOLDER` writes whole networks at full size there instead; those are too large to commit:

    python3 tests/golden/generate.py --models /some/folder
    cargo xtask conformance /some/folder
"""

import argparse
import shutil
from pathlib import Path

import torch

import boxes_cases
import coco_cases
import core_cases
import detect_cases
import encnet_cases
import instdisc_cases
import metrics_cases
import region_cases
import resample_cases
import training_cases
from caselib import Writer

# (op, source files it exercises under vision-core/src/ops, family). Adding an op means adding a row here, one in
# tests/src/registry, and `cargo xtask tidy` checks that both are there.
FAMILIES = [
    ("conv2d", ["conv2d"], core_cases.conv2d),
    ("conv_transpose2d", ["conv_transpose2d"], core_cases.conv_transpose2d),
    ("max_pool2d", ["max_pool2d"], core_cases.max_pool2d),
    ("adaptive_avg_pool2d", ["adaptive_avg_pool2d"], core_cases.adaptive_avg_pool2d),
    ("adaptive_max_pool2d", ["adaptive_max_pool2d"], core_cases.adaptive_max_pool2d),
    ("batch_norm", ["batch_norm"], core_cases.batch_norm),
    ("relu", ["relu"], core_cases.relu),
    ("linear", ["linear"], core_cases.linear),
    ("cross_entropy", ["cross_entropy"], core_cases.cross_entropy),
    ("normalize", ["l2_normalize"], core_cases.normalize),
    ("softplus", ["softplus"], core_cases.softplus),
    ("topk", ["topk"], core_cases.topk),
    ("inner_product_topk", ["inner_product_topk"], core_cases.inner_product_topk),
    ("avg_pool2d", ["avg_pool2d"], resample_cases.avg_pool2d),
    ("interpolate", ["interpolate"], resample_cases.interpolate),
    ("grid_sample", ["grid_sample"], resample_cases.grid_sample),
    ("deform_conv2d", ["deform_conv2d"], resample_cases.deform_conv2d),
    ("roi_align", ["roi_align"], region_cases.roi_align),
    ("roi_pool", ["roi_pool"], region_cases.roi_pool),
    ("ps_roi_align", ["ps_roi_align"], region_cases.ps_roi_align),
    ("ps_roi_pool", ["ps_roi_pool"], region_cases.ps_roi_pool),
    ("deform_ps_roi_pool", ["deform_ps_roi_pool"], region_cases.deform_ps_roi_pool),
    ("crop_and_resize", ["crop_and_resize"], region_cases.crop_and_resize),
    ("box_iou", ["box_iou"], boxes_cases.overlap("box_iou")),
    ("generalized_box_iou", ["box_iou"], boxes_cases.overlap("generalized_box_iou")),
    ("nms", ["nms"], boxes_cases.nms),
    ("batched_nms", ["nms"], boxes_cases.batched_nms),
    ("soft_nms", ["soft_nms"], boxes_cases.soft_nms),
    ("binary_cross_entropy_with_logits", ["binary_cross_entropy_with_logits"], boxes_cases.bce_with_logits),
    ("smooth_l1_loss", ["smooth_l1_loss"], boxes_cases.smooth_l1_loss),
    ("dropout", ["dropout"], boxes_cases.dropout),
    ("index_add", ["index_add"], boxes_cases.index_add),
    ("scatter_add", ["index_add"], boxes_cases.scatter_add),
    ("box_coder.encode", [], boxes_cases.encode),
    ("box_coder.decode", [], boxes_cases.decode),
    ("anchors", [], boxes_cases.anchors),
    ("optim.sgd", ["sgd_step"], training_cases.sgd),
    ("optim.adam", ["adam_step"], training_cases.adam("optim.adam", torch.optim.Adam)),
    ("optim.adamw", ["adam_step"], training_cases.adam("optim.adamw", torch.optim.AdamW)),
    ("schedule", [], training_cases.schedule),
    ("model.resnet18", [], training_cases.model_resnet(18)),
    ("model.resnet34", [], training_cases.model_resnet(34)),
    ("model.resnet50", [], training_cases.model_resnet(50)),
    ("model.fasterrcnn_resnet50_fpn", [], detect_cases.fasterrcnn_resnet50_fpn_cases),
    ("detect.transform", ["interpolate"], detect_cases.transform),
    ("detect.fpn", ["conv2d", "interpolate", "max_pool2d"], detect_cases.fpn),
    ("detect.rpn", ["conv2d", "topk", "nms"], detect_cases.rpn),
    ("detect.roi_pooler", ["roi_align"], detect_cases.roi_pooler),
    ("detect.postprocess", ["nms"], detect_cases.postprocess),
    ("image.resize", [], training_cases.image_resize),
    ("image.adjust", [], training_cases.image_adjust),
    ("segmentation_metrics", [], metrics_cases.segmentation_metrics),
    ("coco_eval", [], coco_cases.coco_eval),
    ("instdisc.nce", ["gather_scores"], instdisc_cases.instdisc_nce),
    ("instdisc.full_softmax", ["bank_cross_entropy"], instdisc_cases.instdisc_full_softmax),
    ("instdisc.infonce", ["gather_scores"], instdisc_cases.instdisc_infonce),
    ("instdisc.bank_update", ["momentum_update"], instdisc_cases.instdisc_bank_update),
    ("instdisc.knn", ["inner_product_topk"], instdisc_cases.instdisc_knn),
    ("instdisc.proximal", [], instdisc_cases.instdisc_proximal),
    ("instdisc.model", [], instdisc_cases.instdisc_model),
    ("encnet.encoding", ["encoding"], encnet_cases.encnet_encoding),
    ("encnet.context", ["encoding"], encnet_cases.encnet_context),
    ("encnet.se_loss", [], encnet_cases.encnet_se_loss),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="where the cases go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="write whole networks there instead")
    parser.add_argument("--only", metavar="TEXT", help="only families whose name contains this text; others stay")
    parser.add_argument("--skip-checks", action="store_true", help="do not run the networks of the published numbers")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    families = [row for row in FAMILIES if not args.only or args.only in row[0]]
    if not args.only:
        encnet_cases.check_numbers_of_the_original()
        instdisc_cases.check_golden_a()
        if not args.skip_checks:
            instdisc_cases.check_golden_b()
    if args.models:
        writer = Writer(args.models, args.seed)
        training_cases.whole_models(writer)
        instdisc_cases.whole_models(writer)
        detect_cases.whole_models(writer)
    else:
        for op in sorted({p.parent for p in args.out.glob("*/*.safetensors")}):
            if not args.only or args.only in op.name:
                shutil.rmtree(op)
        writer = Writer(args.out, args.seed)
        for op, _, family in families:
            writer.start(op, "")
            family(writer)
    print(f"{writer.count} cases, {writer.bytes / 1e6:.2f} MB under {writer.folder}")


if __name__ == "__main__":
    main()
