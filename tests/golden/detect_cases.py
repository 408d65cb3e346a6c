"""Cases of detectors: the parts of torchvision's Faster R-CNN and the whole of it."""

import math
from collections import OrderedDict

import numpy as np
import torch
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

from boxes_cases import proper
from caselib import TORCHVISION


def named(maps):
    return OrderedDict((str(k), m) for k, m in enumerate(maps))


def numbered(name, values):
    return {f"{name}{k}": v for k, v in enumerate(values)}


def listed(inputs, name):
    return [inputs[f"{name}{k}"] for k in range(sum(key.startswith(name) for key in inputs))]


def parameters(w, module, std=0.2):
    """Drawn values for every parameter, so that no bias is zero."""
    return {k: w.randn(*v.shape, std=std) for k, v in module.state_dict().items()}


def call(module, params, *args):
    return torch.func.functional_call(module, params, args)


def fpn(w):
    def add(name, channels, out, shapes, batch=1, dtype="float32", layout=None):
        w.start("detect.fpn", name)
        module = FeaturePyramidNetwork(channels, out, LastLevelMaxPool())
        maps = [w.randn(batch, c, *shape) for c, shape in zip(channels, shapes)]
        run = lambda i, p: call(module, p, named(listed(i, "map")))
        exact = dtype == "float64"
        w.case("detect.fpn", name, run, numbered("map", maps), params=parameters(w, module),
               args={"in_channels": channels, "out_channels": out} | ({"layout": layout} if layout else {}),
               ref=TORCHVISION, dtype=dtype, rtol=1e-11 if exact else 1e-5, atol=1e-11 if exact else 2e-5)

    halves = [(24, 16), (12, 8), (6, 4), (3, 2)]
    add("four_levels", [4, 6, 8, 10], 5, halves, batch=2)
    # Sizes that halving rounds up, as in pictures that are not padded to multiples of 32.
    add("odd_sizes", [3, 4, 5], 4, [(13, 9), (7, 5), (4, 3)])
    add("unrelated_sizes", [3, 4], 4, [(11, 10), (4, 7)])
    add("one_level", [3], 4, [(5, 6)])
    add("one_pixel", [3, 4], 4, [(2, 1), (1, 1)])
    add("empty_batch", [3, 4], 4, [(6, 4), (3, 2)], batch=0)
    add("channels_last", [3, 4], 4, [(6, 4), (3, 2)], layout="channels_last")
    add("f64", [4, 6, 8, 10], 5, halves, dtype="float64")
    w.error("detect.fpn", "error_maps", numbered("map", [w.randn(1, 3, 4, 4)]),
            {"in_channels": [3, 4], "out_channels": 4}, "fpn: maps", ref=TORCHVISION)


RPN = {"sizes": [[8], [16], [32]], "aspect_ratios": [0.5, 1.0, 2.0]}


def rpn_module(channels, sizes, aspect_ratios, pre_nms_top_n=1000, post_nms_top_n=1000, nms_thresh=0.7,
               score_thresh=0.0, min_size=1e-3):
    anchors = AnchorGenerator(tuple(tuple(s) for s in sizes), (tuple(aspect_ratios),) * len(sizes))
    both = lambda count: {"training": count, "testing": count}
    module = RegionProposalNetwork(anchors, RPNHead(channels, anchors.num_anchors_per_location()[0]), 0.7, 0.3, 256,
                                   0.5, both(pre_nms_top_n), both(post_nms_top_n), nms_thresh, score_thresh)
    module.min_size = min_size
    return module.eval()


def rpn(w):
    def add(name, image_sizes, padded=(64, 96), channels=12, grids=((16, 24), (8, 12), (4, 6)), logits=0.2, bias=0.0,
            offsets=0.05, native=False, dtype="float32", **args):
        w.start("detect.rpn", name)
        shown = RPN | args
        module = rpn_module(channels, **shown)
        batch = len(image_sizes)
        maps = [w.randn(batch, channels, *grid) for grid in grids]
        params = parameters(w, module)
        # How far logits and offsets spread, and about what.
        params["head.cls_logits.weight"] *= logits / 0.2
        params["head.cls_logits.bias"] += bias
        params["head.bbox_pred.weight"] *= offsets
        params["head.bbox_pred.bias"] *= offsets

        def run(i, p):
            maps = listed(i, "map")
            pictures = ImageList(maps[0].new_zeros(batch, 3, *padded), image_sizes)
            logits, deltas = call(module.head, {k.removeprefix("head."): v for k, v in p.items()}, maps)
            kept, filter_proposals = [], module.filter_proposals
            # The module returns boxes only; their scores are seen on the way.
            module.filter_proposals = lambda *a: kept.append(filter_proposals(*a)) or kept[0]
            boxes, _ = call(module, p, pictures, named(maps))
            module.filter_proposals = filter_proposals
            return (numbered("objectness", [m.permute(0, 2, 3, 1) for m in logits])
                    | numbered("deltas", [m.permute(0, 2, 3, 1) for m in deltas])
                    | numbered("boxes", boxes) | numbered("scores", kept[0][1]))

        exact = dtype == "float64"
        # Sides grow with the exponential of their offset: wide ones are differences of thousands of pixels.
        pixels = 1e-4 * max(1.0, offsets) ** 2
        w.case("detect.rpn", name, run, numbered("map", maps), params=params, grads=[], native=native,
               args=shown | {"padded": list(padded), "image_sizes": [list(s) for s in image_sizes]},
               ref=TORCHVISION, dtype=dtype, rtol=1e-10 if exact else 1e-5, atol=1e-10 if exact else pixels)

    add("ordinary", [(60, 90)], pre_nms_top_n=100, post_nms_top_n=40)
    # Anchors in the padding of the smaller picture are left without area.
    add("two_pictures", [(64, 96), (37, 51)], pre_nms_top_n=60, post_nms_top_n=50)
    add("every_anchor", [(60, 90)], grids=((4, 6), (2, 3), (1, 2)))
    # Strides that are no powers of two: whole quotients of 96 and 128 by the size of the map.
    add("odd_strides", [(90, 120)], padded=(96, 128), grids=((12, 16), (5, 7), (3, 4)), pre_nms_top_n=50)
    # Scores of 1 throughout: suppression takes them by map, then by logit.
    add("equal_scores", [(60, 90)], bias=40.0, native=True, pre_nms_top_n=40, post_nms_top_n=30)
    add("low_scores", [(60, 90)], score_thresh=0.9, pre_nms_top_n=80)
    add("nothing_left", [(60, 90), (60, 90)], score_thresh=0.9, bias=-30.0)
    add("min_size", [(60, 90)], min_size=12.0, pre_nms_top_n=80)
    add("wide_offsets", [(60, 90)], offsets=3.0, pre_nms_top_n=80)
    add("no_suppression", [(60, 90)], nms_thresh=1.0, pre_nms_top_n=30)
    add("f64", [(60, 90)], dtype="float64", pre_nms_top_n=100, post_nms_top_n=40)
    maps = numbered("map", [torch.zeros(1, 4, 4, 4)])
    w.error("detect.rpn", "error_maps", maps, RPN | {"padded": [64, 96], "image_sizes": [[60, 90]]}, "rpn: maps",
            ref=TORCHVISION)
    bad = numbered("map", [torch.full((1, 4, *grid), math.nan) for grid in ((16, 24), (8, 12), (4, 6))])
    w.error("detect.rpn", "error_nan", bad, RPN | {"padded": [64, 96], "image_sizes": [[60, 90]]}, "NaN",
            ref=TORCHVISION)


def roi_pooler(w):
    strides = [4, 8, 16, 32]

    def add(name, boxes, padded=(224, 256), channels=2, dtype="float32", strides=strides, layout=None, **args):
        w.start("detect.roi_pooler", name)
        maps = [w.randn(len(boxes), channels, padded[0] // s, padded[1] // s) for s in strides]
        boxes = [torch.as_tensor(b, dtype=torch.float64).reshape(-1, 4) for b in boxes]
        module = MultiScaleRoIAlign([str(k) for k in range(len(strides))], args.get("output_size", 7),
                                    args.get("sampling_ratio", 2), canonical_scale=args.get("canonical_size", 224),
                                    canonical_level=args.get("canonical_level", 4))

        def run(i, _):
            out = module(named(listed(i, "map")), listed(i, "boxes"), [padded] * len(boxes))
            assert module.scales == [1 / s for s in strides]
            return {"output": out}

        exact = dtype == "float64"
        w.case("detect.roi_pooler", name, run, numbered("map", maps) | numbered("boxes", boxes),
               grads=[f"in.map{k}" for k in range(len(maps))], ref=TORCHVISION, dtype=dtype,
               args={"strides": strides} | args | ({"layout": layout} if layout else {}),
               rtol=1e-10 if exact else 1e-5, atol=1e-10 if exact else 2e-5)

    # A box for each level in turn, and backwards, so that results have to be put in order.
    every = [[10, 20, 90.5, 70], [5, 5, 120, 130], [0, 0, 224, 223], [0, 0, 256, 224], [3, 2, 9, 11]]
    add("every_level", [every, every[::-1]], output_size=3, canonical_size=120)
    add("torchvision_sizes", [every], output_size=7)
    # Sides of exactly half, once and twice the canonical size, and a hair less.
    edge = [[0, 0, 112, 112], [0, 0, 111.99, 112], [0, 0, 224, 224], [0, 0, 224, 223.99], [16, 16, 72, 72]]
    add("edges_of_levels", [edge], output_size=2)
    add("one_level", [every], strides=[8], output_size=3, sampling_ratio=0)
    add("adaptive", [every], output_size=2, sampling_ratio=0)
    add("no_boxes", [[], []], output_size=2)
    add("no_boxes_in_one", [every, [], every[:1]], output_size=2)
    add("without_area", [[[5, 5, 5, 9], [7, 7, 7, 7], [300, 10, 310, 20], [-9, -9, -1, -2]]], output_size=2)
    add("f64", [every], dtype="float64", output_size=3)
    add("channels_last", [every], output_size=2, layout="channels_last")

    maps = numbered("map", [torch.zeros(1, 2, 8, 8)])
    for name, rows in [("error_nan", [[0, 0, math.nan, 5]]), ("error_infinite", [[0, 0, math.inf, 5]]),
                       ("error_inside_out", [[9, 0, 5, 5]])]:
        w.error("detect.roi_pooler", name, maps | {"boxes0": torch.tensor(rows, dtype=torch.float64)},
                {"strides": [8]}, "pooler: box 0", ref=TORCHVISION)


def heads_of(score_thresh=0.05, nms_thresh=0.5, detections_per_img=100):
    return RoIHeads(None, None, None, 0.5, 0.5, 512, 0.25, None, score_thresh, nms_thresh, detections_per_img).eval()


def postprocess(w):
    def add(name, counts, classes, image_sizes=None, spread=2.0, dtype="float32", native=False, change=None, reach=1.0,
            **args):
        w.start("detect.postprocess", name)
        image_sizes = image_sizes or [(60, 90)] * len(counts)
        total = sum(counts)
        logits, deltas = w.randn(total, classes, std=spread), w.randn(total, 4 * classes, std=reach)
        boxes = [proper(w, n, span=50.0, low=8.0, high=40.0) for n in counts]
        if change:
            change(logits, deltas, boxes)
        heads = heads_of(**args)

        def run(i, _):
            boxes, scores, labels = heads.postprocess_detections(i["class_logits"], i["box_regression"],
                                                                 listed(i, "proposals"), image_sizes)
            return numbered("boxes", boxes) | numbered("scores", scores) | numbered("labels", labels)

        exact = dtype == "float64"
        inputs = {"class_logits": logits, "box_regression": deltas} | numbered("proposals", boxes)
        w.case("detect.postprocess", name, run, inputs, grads=[], native=native, dtype=dtype, ref=TORCHVISION,
               args=args | {"image_sizes": [list(s) for s in image_sizes]}, rtol=1e-10 if exact else 1e-5,
               atol=1e-10 if exact else 2e-5)

    add("ordinary", [40], 5)
    add("three_pictures", [20, 0, 13], 4, image_sizes=[(60, 90), (10, 10), (45, 70)])
    add("no_regions", [0, 0], 4)
    add("nothing_above", [9], 3, score_thresh=0.999999)
    add("few_detections", [60], 6, detections_per_img=7)
    add("low_threshold", [30], 5, score_thresh=0.0, nms_thresh=0.3)
    add("coco_classes", [25], 91, spread=4.0)
    add("many_candidates", [400], 4, spread=1.0, reach=0.5)
    add("two_classes", [30], 2)

    def ties(logits, deltas, boxes):
        # Regions in pairs that overlap, the classes' logits equal within and across regions.
        logits[:] = torch.tensor([0.0, 1.0, 1.0, 0.5])
        deltas[:] = 0
        boxes[0][1::2] = boxes[0][::2] + 1

    add("equal_scores", [12], 4, change=ties, native=True)

    def tiny(logits, deltas, boxes):
        # Boxes beyond the border, and of almost no size.
        boxes[0][:4] += 200
        boxes[0][4:8, 2:] = boxes[0][4:8, :2] + 0.02
        deltas[4:8] = -5

    add("small_and_outside", [20], 4, change=tiny)

    def huge(logits, deltas, boxes):
        # Sizes that the clip limits, and certain classes.
        deltas[:] = deltas * 100
        logits[:5] = torch.tensor([-500.0, 0.0, 500.0, 0.0])

    add("huge_offsets", [20], 4, change=huge)
    add("f64", [40], 5, dtype="float64")
    plain = {"class_logits": torch.zeros(2, 3), "box_regression": torch.zeros(2, 12),
             "proposals0": torch.ones(2, 4)}
    sizes = {"image_sizes": [[60, 90]]}
    for name, change, message in [
        ("error_classes", {"box_regression": torch.zeros(2, 8)}, "box_regression"),
        ("error_regions", {"proposals0": torch.ones(3, 4)}, "proposals"),
        ("error_nan_logit", {"class_logits": torch.tensor([[0.0, 0, 0], [0, math.nan, 0]])}, "class_logits: row 1"),
        ("error_nan_box", {"box_regression": torch.full((2, 12), math.nan)}, "detections: box 0"),
    ]:
        w.error("detect.postprocess", name, plain | change, sizes, message, ref=TORCHVISION)


def transform(w):
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

    def add(name, shapes, min_size, max_size, size_divisible=32, dtype="float32"):
        w.start("detect.transform", name)
        module = GeneralizedRCNNTransform(min_size, max_size, mean, std, size_divisible).eval()

        def run(i, _):
            batch, _ = module(listed(i, "image"))
            return {"batch": batch.tensors, "sizes": torch.tensor(batch.image_sizes)}

        # PyTorch itself is 1.4e-5 off in single precision, which rounds where between two pixels it looks.
        exact = dtype == "float64"
        w.case("detect.transform", name, run, numbered("image", [w.rand(3, *shape) for shape in shapes]), grads=[],
               args={"min_size": min_size, "max_size": max_size, "size_divisible": size_divisible}, ref=TORCHVISION,
               dtype=dtype, rtol=1e-11 if exact else 1e-5, atol=1e-11 if exact else 3e-5)

    add("enlarged", [(20, 31)], 40, 100)
    add("shrunk", [(70, 50)], 31, 100)
    add("longer_side_decides", [(15, 60)], 40, 80)
    add("same_size", [(32, 64)], 32, 64)
    add("batch", [(20, 30), (33, 17), (24, 24)], 24, 40, size_divisible=16)
    # Factors whose product with the size is a hair below a whole number.
    add("rounding", [(29, 41), (49, 37)], 43, 66, size_divisible=1)
    add("one_pixel", [(1, 1)], 3, 9, size_divisible=4)
    add("f64", [(20, 31)], 40, 100, dtype="float64")
    args = {"min_size": 24, "max_size": 40, "size_divisible": 32}
    for name, images, message in [
        ("error_rank", [torch.zeros(1, 3, 8, 8)], "images: picture 0"),
        ("error_channels", [torch.zeros(3, 8, 8), torch.zeros(4, 8, 8)], "images: picture 1"),
        ("error_no_pixels", [torch.zeros(3, 0, 8)], "images: picture 0"),
        ("error_nothing_left", [torch.zeros(3, 1, 200)], "no pixel is left"),
        ("error_empty", [], "images"),
    ]:
        w.error("detect.transform", name, numbered("image", images), args, message, ref=TORCHVISION)


def hash_numbers(name, count):
    """Numbers in [-1, 1) that depend on a name and a position: both sides evaluate the formula."""
    seed = 2166136261
    for byte in name.encode():
        seed = (seed ^ byte) * 16777619 % 2**32
    with np.errstate(over="ignore"):
        x = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9) ^ np.uint32(seed)
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x85EBCA6B)
        x ^= x >> np.uint32(13)
        x *= np.uint32(0xC2B2AE35)
        x ^= x >> np.uint32(16)
    return torch.from_numpy(x.astype(np.float64) / 2.0**31 - 1.0)


# Factors of He's bound, by beginnings of names: maps of the pyramid are about one, scores spread, and boxes move by some
# of their size.
GAINS = {
    "backbone.fpn.": 0.3,
    "rpn.head.cls_logits.": 1.0,
    "rpn.head.bbox_pred.": 0.1,
    "roi_heads.box_predictor.cls_score.": 0.8,
    "roi_heads.box_predictor.bbox_pred.": 1.0,
}


def hash_init(module):
    """Weights uniform up to He's bound, times their gain; statistics and scales about one, the last scale of a residual
    branch about a quarter, biases and means about zero. Rounded to float32."""
    for name, value in module.state_dict().items():
        u = hash_numbers(name, value.numel()).reshape(value.shape)
        if value.dim() >= 2:
            gain = next((gain for start, gain in GAINS.items() if name.startswith(start)), 1.0)
            u = u * (math.sqrt(6.0 / value[0].numel()) * gain)
        elif name.endswith("running_var"):
            u = 1.0 + 0.5 * u
        elif name.endswith("bn3.weight"):
            u = 0.25 + 0.1 * u
        elif name.endswith("weight"):
            u = 1.0 + 0.2 * u
        else:
            u = 0.1 * u
        value.copy_(u.to(torch.float32))
    return module


def faster_rcnn(num_classes, **args):
    """torchvision's detector with the frozen normalisation that it has when weights are published for it."""
    net = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=num_classes, **args)
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.BatchNorm2d):
                setattr(parent, name, FrozenBatchNorm2d(child.num_features))
    return net.eval()


def run_detector(net, images):
    """Maps of the pyramid that are small, and what is found in each picture, by torchvision's own forward pass."""
    seen = {}
    hook = net.backbone.register_forward_hook(lambda *a: seen.update(a[2]))
    found = net(images)
    hook.remove()
    outputs = {"pool": seen["pool"]}
    for k, one in enumerate(found):
        outputs |= {f"{key}{k}": value for key, value in one.items()}
    return outputs


def detector_case(w, name, net, shapes, args, params=None):
    op = "model.fasterrcnn_resnet50_fpn"
    images = [w.rand(3, *shape).float() for shape in shapes]
    with torch.no_grad():
        single = run_detector(net.float(), images)
        double = run_detector(net.double(), [image.double() for image in images])
        # The same boxes have to come out in single precision, or the case says more of roundings than of the code.
        for key, value in double.items():
            assert value.shape == single[key].shape, (name, key, value.shape, single[key].shape)
            assert not value.numel() or (value - single[key]).abs().max() <= 1e-2, (name, key)
        w.case(op, name, lambda i, _: run_detector(net, listed(i, "image")), numbered("image", images), params=params,
               grads=[], args=args, ref=TORCHVISION, rtol=1e-4, atol=1e-3)


def fasterrcnn_resnet50_fpn_cases(w):
    def add(name, shapes, num_classes=6, **args):
        w.start("model.fasterrcnn_resnet50_fpn", name)
        net = hash_init(faster_rcnn(num_classes, **args))
        detector_case(w, name, net, shapes, {"init": "hash", "num_classes": num_classes} | args)

    small = {"min_size": 96, "max_size": 160}
    # Few proposals, so that classes that seldom win are found too.
    few = {"rpn_post_nms_top_n_test": 80, "box_nms_thresh": 0.3}
    add("two_pictures", [(64, 96), (75, 60)], **small, **few)
    add("coco_classes", [(48, 64)], num_classes=91, box_score_thresh=0.01, **small, **few)


def whole_models(w):
    """The detector with its defaults and every parameter stored: a large file, for `--models` only."""
    w.start("model.fasterrcnn_resnet50_fpn", "full_800")
    net = hash_init(faster_rcnn(91))
    state = {k: v.clone() for k, v in net.state_dict().items()}
    detector_case(w, "full_800", net, [(150, 200)], {"num_classes": 91}, params=state)
