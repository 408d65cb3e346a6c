"""Cases of boxes, of losses per element, of dropout and of adding at indices."""

import torch
import torch.nn.functional as F
import torchvision.ops as ops
from torchvision.ops.boxes import _batched_nms_vanilla

from caselib import TORCHVISION

INF, NAN = float("inf"), float("nan")


def table(rows):
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)


def proper(w, count, span=40.0, low=2.0, high=25.0):
    """Boxes with corners in a square of `span` and sides between `low` and `high`."""
    corner = w.rand(count, 2, high=span)
    return torch.cat([corner, corner + w.rand(count, 2, low=low, high=high)], 1)


def shown(args, layout):
    return dict(args) | ({"layout": layout} if layout else {})


def overlap(op):
    function = getattr(ops, op)

    def family(w):
        def add(name, boxes1, boxes2, layout=None, dtype="float32", grads=None):
            w.start(op, name)
            make = lambda boxes: proper(w, boxes) if isinstance(boxes, int) else boxes
            exact = dtype == "float64"
            w.case(op, name, lambda i, _: {"output": function(i["boxes1"], i["boxes2"])},
                   {"boxes1": make(boxes1), "boxes2": make(boxes2)}, args=shown({}, layout), ref=TORCHVISION,
                   dtype=dtype, grads=grads, rtol=1e-12 if exact else 1e-5, atol=1e-12 if exact else 2e-6)

        add("plain", 5, 7)
        add("one_by_one", 1, 1)
        add("many", 37, 29)
        add("wide", 3, 65)
        add("empty_first", 0, 4)
        add("empty_second", 3, 0)
        # Equal coordinates: the gradient of a maximum is shared.
        same = table([[0, 0, 4, 4], [0, 0, 4, 2], [1, 1, 3, 3], [4, 0, 8, 4], [4, 4, 6, 6]])
        add("equal_edges", same, same)
        add("apart", table([[0, 0, 1, 1], [100, 100, 130, 120]]), table([[10, 10, 11, 12], [-50, -60, -40, -45]]))
        add("zero_area", table([[1, 1, 1, 5], [2, 2, 6, 6]]), table([[0, 0, 3, 3], [2, 3, 6, 3]]))
        # Nothing over nothing is NaN.
        add("both_points", table([[1, 1, 1, 1]]), table([[1, 1, 1, 1], [2, 2, 2, 2]]), grads=[])
        add("reversed_corners", table([[5, 5, 1, 2], [0, 0, 4, 4]]), table([[1, 1, 6, 6], [7, 1, 3, 9]]), grads=[])
        add("infinite", table([[0, 0, INF, 4], [0, 0, NAN, 1]]), table([[1, 1, 3, 3], [-INF, 0, 2, 2]]), grads=[])
        add("huge", 1e5 + proper(w, 4), 1e5 + proper(w, 6), dtype="float64")
        add("transposed", 6, 4, layout="transposed")
        add("sliced", 6, 4, layout="sliced")
        add("f64", 6, 9, dtype="float64")
        w.error(op, "error_columns", {"boxes1": w.rand(2, 4), "boxes2": w.rand(2, 5)}, {}, f"{op}: boxes2")
        w.error(op, "error_rank", {"boxes1": w.rand(4), "boxes2": w.rand(2, 4)}, {}, f"{op}: boxes1")

    return family


def nms(w):
    def add(name, boxes, scores, iou_threshold, layout=None, dtype="float32"):
        w.case("nms", name, lambda i, _: {"keep": ops.nms(i["boxes"], i["scores"], iou_threshold)},
               {"boxes": boxes, "scores": scores}, args=shown({"iou_threshold": iou_threshold}, layout),
               ref=TORCHVISION, dtype=dtype, grads=[], rtol=0.0, atol=0.0)

    for count, threshold in [(1, 0.5), (20, 0.5), (63, 0.3), (130, 0.7), (300, 0.5)]:
        name = f"random_{count}"
        w.start("nms", name)
        add(name, proper(w, count, span=8.0 * count**0.5), w.rand(count), threshold)
    w.start("nms", "rest")
    some, scores = proper(w, 40), w.rand(40)
    add("empty", table([]), torch.zeros(0, dtype=torch.float64), 0.5)
    add("threshold_zero", some, scores, 0.0)
    add("threshold_one", some, scores, 1.0)
    add("threshold_negative", some, scores, -0.5)
    add("threshold_above_one", some, scores, 2.0)
    add("equal_scores", some, torch.full((40,), 0.25, dtype=torch.float64), 0.4)
    add("few_scores", some, w.randint(0, 4, 40).double(), 0.4)
    add("duplicates", some[w.randint(0, 6, 40)], scores, 0.5)
    # An overlap of exactly the threshold is kept.
    third = table([[0, 0, 2, 1], [1, 0, 3, 1], [10, 0, 12, 2], [10, 0, 12, 1]])
    add("at_threshold", third, torch.tensor([0.9, 0.8, 0.7, 0.6]).double(), 0.5)
    odd = table([[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 4, 4], [4, 4, 0, 0], [3, 1, 1, 3], [-9, -9, -1, -1],
                 [-8, -9, -1, -1]])
    add("zero_area_and_reversed", odd, torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3]).double(), 0.3)
    wild = table([[0, 0, INF, INF], [0, 0, 4, 4], [NAN, 0, 4, 4], [0, 0, 4, 4.1], [-INF, -INF, INF, INF]])
    add("infinite_boxes", wild, torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]).double(), 0.5)
    infinite = scores.clone()
    infinite[3], infinite[5], infinite[7], infinite[9] = INF, -INF, INF, 0.0
    add("infinite_scores", some, infinite, 0.5)
    add("transposed", some, scores, 0.5, layout="transposed")
    add("sliced", some, scores, 0.5, layout="sliced")
    add("f64", some, scores, 0.5, dtype="float64")
    w.error("nms", "error_scores", {"boxes": w.rand(3, 4), "scores": w.rand(2)}, {"iou_threshold": 0.5},
            "nms: scores")
    w.error("nms", "error_columns", {"boxes": w.rand(3, 5), "scores": w.rand(3)}, {"iou_threshold": 0.5}, "nms: boxes")


def batched_nms(w):
    def add(name, boxes, scores, idxs, iou_threshold, layout=None, dtype="float32", function=ops.batched_nms):
        w.case("batched_nms", name,
               lambda i, _: {"keep": function(i["boxes"], i["scores"], i["idxs"], iou_threshold)},
               {"boxes": boxes, "scores": scores, "idxs": idxs}, args=shown({"iou_threshold": iou_threshold}, layout),
               ref=TORCHVISION, dtype=dtype, grads=[], rtol=0.0, atol=0.0)

    w.start("batched_nms", "all")
    none = torch.zeros(0, dtype=torch.float64)
    for count, classes in [(1, 1), (30, 3), (150, 80), (200, 2)]:
        add(f"random_{count}_{classes}", proper(w, count), w.rand(count), w.randint(0, classes, count), 0.3)
    some, scores, idxs = proper(w, 40), w.rand(40), w.randint(0, 3, 40)
    add("empty", table([]), none, none.long(), 0.5)
    add("one_class", some, scores, torch.full((40,), 7), 0.4)
    add("all_different", some, scores, torch.arange(40), 0.0)
    add("same_box_everywhere", some[:1].repeat(12, 1), w.rand(12), w.randint(0, 4, 12), 0.5)
    # Per class, as torchvision does for many boxes: an offset would move negative coordinates into other classes.
    add("negative_coordinates", some - 60.0, scores, idxs, 0.3, function=_batched_nms_vanilla)
    add("negative_classes", some, scores, idxs * 1000 - 1500, 0.3, function=_batched_nms_vanilla)
    add("transposed", some, scores, idxs, 0.4, layout="transposed")
    add("f64", some, scores, idxs, 0.4, dtype="float64")
    w.error("batched_nms", "error_idxs", {"boxes": w.rand(3, 4), "scores": w.rand(3), "idxs": torch.arange(2)},
            {"iou_threshold": 0.5}, "batched_nms: idxs")
    w.error("batched_nms", "error_scores", {"boxes": w.rand(3, 4), "scores": w.rand(4), "idxs": torch.arange(3)},
            {"iou_threshold": 0.5}, "batched_nms: scores")
