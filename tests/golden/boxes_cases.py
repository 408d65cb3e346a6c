"""Cases of boxes, of losses per element, of dropout and of adding at indices."""

import math

import torch
import torch.nn.functional as F
import torchvision.ops as ops
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops.boxes import _batched_nms_vanilla

from caselib import TORCH, TORCHVISION

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


def soft_suppress(boxes, scores, method="linear", sigma=0.5, iou_threshold=0.3, min_score=0.001, extent="inclusive"):
    """Soft-NMS from its published definition: the loop of the authors' `cpu_soft_nms`, swaps and all."""
    one = 1.0 if extent == "inclusive" else 0.0
    rows = [[*box, score, i] for i, (box, score) in enumerate(zip(boxes.tolist(), scores.tolist()))]
    i = 0
    while i < len(rows):
        best = i
        for k in range(i + 1, len(rows)):
            if rows[best][4] < rows[k][4]:
                best = k
        rows[i], rows[best] = rows[best], rows[i]
        ax1, ay1, ax2, ay2 = rows[i][:4]
        k = i + 1
        while k < len(rows):
            x1, y1, x2, y2, score, _ = rows[k]
            w, h = min(ax2, x2) - max(ax1, x1) + one, min(ay2, y2) - max(ay1, y1) + one
            if w > 0 and h > 0:
                union = (ax2 - ax1 + one) * (ay2 - ay1 + one) + (x2 - x1 + one) * (y2 - y1 + one) - w * h
                overlap, weight = w * h / union, 1.0
                if method == "gaussian":
                    weight = math.exp(-overlap * overlap / sigma)
                elif overlap > iou_threshold:
                    weight = 1.0 - overlap if method == "linear" else 0.0
                rows[k][4] = weight * score
                if rows[k][4] < min_score:
                    rows[k] = rows[-1]
                    rows.pop()
                    continue
            k += 1
        i += 1
    kept = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return {"boxes": kept[:, :4], "scores": kept[:, 4], "keep": kept[:, 5].long()}


def soft_nms(w):
    def add(name, boxes, scores, layout=None, dtype="float32", **args):
        w.case("soft_nms", name, lambda i, _: soft_suppress(i["boxes"], i["scores"], **args),
               {"boxes": boxes, "scores": scores}, args=shown(args, layout), grads=[], dtype=dtype,
               ref="definition of Bodla et al., 2017, and their cpu_soft_nms", rtol=2e-5 if dtype == "float32" else 1e-11,
               atol=1e-6 if dtype == "float32" else 1e-12)

    w.start("soft_nms", "all")
    for method in ["linear", "gaussian", "hard"]:
        for extent in ["inclusive", "continuous"]:
            add(f"{method}_{extent}", proper(w, 40), w.rand(40), method=method, extent=extent)
    dossier = table([[10, 10, 60, 60], [12, 12, 62, 62], [14, 10, 64, 60], [100, 100, 150, 150], [10, 10, 60, 60],
                     [105, 100, 155, 150]])
    six = torch.tensor([0.9, 0.85, 0.8, 0.7, 0.3, 0.02], dtype=torch.float64)
    add("published_gaussian", dossier, six, method="gaussian", sigma=0.55)
    add("published_defaults", dossier, six)
    add("one", proper(w, 1), w.rand(1), method="gaussian")
    add("many", proper(w, 150, span=120.0), w.rand(150), method="gaussian", sigma=0.3)
    add("nothing_dropped", proper(w, 30), w.rand(30), method="gaussian", sigma=0.1, min_score=0.0)
    add("most_dropped", proper(w, 60), w.rand(60), method="gaussian", min_score=0.4)
    add("linear_threshold", proper(w, 40), w.rand(40), iou_threshold=0.05, min_score=0.05)
    # Scores below `min_score` from the start stay if nothing overlaps them.
    add("low_scores_apart", table([[0, 0, 5, 5], [20, 20, 25, 25], [40, 40, 45, 45]]),
        torch.tensor([1e-5, 1e-4, 0.5]).double(), method="gaussian")
    # Ties are decided by position, which swaps change.
    add("equal_scores", proper(w, 40), torch.full((40,), 0.5, dtype=torch.float64), method="gaussian", dtype="float64")
    add("duplicates", proper(w, 5)[w.randint(0, 5, 30)], w.randint(1, 4, 30).double() / 4, dtype="float64",
        extent="continuous")
    add("empty", table([]), torch.zeros(0, dtype=torch.float64), method="gaussian")
    add("zero_area_and_reversed", table([[1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 4, 4], [4, 4, 0, 0], [3, 1, 1, 3]]),
        torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5]).double(), method="gaussian")
    add("transposed", proper(w, 20), w.rand(20), layout="transposed", method="gaussian")
    add("f64", proper(w, 40), w.rand(40), dtype="float64", method="gaussian", extent="continuous")
    boxes, scores = w.rand(3, 4), w.rand(3)
    w.error("soft_nms", "error_sigma", {"boxes": boxes, "scores": scores}, {"method": "gaussian", "sigma": 0.0},
            "soft_nms: sigma")
    w.error("soft_nms", "error_scores", {"boxes": boxes, "scores": w.rand(2)}, {}, "soft_nms: scores")


def bce_with_logits(w):
    op, function = "binary_cross_entropy_with_logits", F.binary_cross_entropy_with_logits

    def add(name, shape, weight=None, pos_weight=None, layout=None, dtype="float32", x=None, t=None, scale=2.0,
            grads=None, **args):
        w.start(op, name)
        x = w.randn(*shape, std=scale) if x is None else x
        inputs = {"input": x, "target": w.rand(*x.shape) if t is None else t}
        if weight is not None:
            inputs["weight"] = w.rand(*weight, low=0.2, high=2.0)
        if pos_weight is not None:
            inputs["pos_weight"] = w.rand(*pos_weight, low=0.2, high=3.0)
        exact = dtype == "float64"
        w.case(op, name,
               lambda i, _: {"output": function(i["input"], i["target"], i.get("weight"),
                                                pos_weight=i.get("pos_weight"), **args)},
               inputs, args=shown(args, layout), grads=["in.input", "in.target"] if grads is None else grads,
               dtype=dtype, rtol=1e-12 if exact else 1e-5, atol=1e-12 if exact else 1e-6)

    for reduction in ["mean", "sum", "none"]:
        add(reduction, (5, 4), reduction=reduction)
        add(f"weights_{reduction}", (5, 4), weight=(5, 4), pos_weight=(4,), reduction=reduction)
    add("one", (1,))
    add("many", (33, 65))
    add("weight_per_class", (6, 4), weight=(4,))
    add("weight_per_sample", (6, 4), weight=(6, 1), reduction="none")
    add("pos_weight_spatial", (2, 3, 4, 5), pos_weight=(3, 1, 1))
    add("pos_weight_scalar", (3, 4), pos_weight=(1,))
    hard = (torch.arange(24) % 3 == 0).double().reshape(6, 4)
    add("hard_targets", None, x=w.randn(6, 4), t=hard, pos_weight=(4,))
    huge = torch.tensor([100.0, -100.0, 88.0, -88.0, 1e4, -1e4, 3e38, -3e38, 0.0, -0.0]).double()
    ends = torch.stack([torch.ones(10), torch.zeros(10)]).double()
    add("huge_logits", None, x=huge.repeat(2, 1), t=ends, reduction="none", grads=["in.input"])
    add("huge_logits_weights", None, x=huge[:8].repeat(2, 1) / 3, t=ends[:, :8], pos_weight=(8,), reduction="none",
        grads=["in.input"])
    add("infinities", None, x=torch.tensor([INF, -INF, INF, -INF, NAN, 1.0]).double(),
        t=torch.tensor([0.0, 1.0, 0.5, 0.5, 1.0, NAN]).double(), reduction="none", grads=[])
    add("empty_sum", (0, 4), pos_weight=(4,), reduction="sum")
    add("empty_none", (0, 4), reduction="none")
    add("empty_mean", (0, 4), grads=[])
    add("transposed", (5, 4), layout="transposed", pos_weight=(4,))
    add("sliced", (5, 4), layout="sliced", weight=(5, 4))
    add("f64", (5, 4), weight=(5, 4), pos_weight=(4,), dtype="float64")
    w.start(op, "errors")
    pair = {"input": w.randn(2, 3), "target": w.rand(2, 3)}
    w.error(op, "error_target", pair | {"target": w.rand(3, 2)}, {}, f"{op}: target")
    w.error(op, "error_weight", pair | {"weight": w.rand(2)}, {}, f"{op}: weight")
    w.error(op, "error_pos_weight", pair | {"pos_weight": w.rand(4)}, {}, f"{op}: pos_weight")


def smooth_l1_loss(w):
    op = "smooth_l1_loss"

    def add(name, shape, layout=None, dtype="float32", x=None, t=None, grads=None, **args):
        w.start(op, name)
        x = w.randn(*shape, std=2.0) if x is None else x
        t = w.randn(*x.shape) if t is None else t
        exact = dtype == "float64"
        w.case(op, name, lambda i, _: {"output": F.smooth_l1_loss(i["input"], i["target"], **args)},
               {"input": x, "target": t}, args=shown(args, layout), grads=grads, dtype=dtype,
               rtol=1e-12 if exact else 1e-5, atol=1e-12 if exact else 1e-6)

    for reduction in ["mean", "sum", "none"]:
        add(reduction, (5, 4), reduction=reduction)
        add(f"beta_zero_{reduction}", (5, 4), beta=0.0, reduction=reduction)
        add(f"beta_ninth_{reduction}", (7, 4), beta=1 / 9, reduction=reduction)
    add("one", (1,))
    add("many", (65, 33), beta=3.0)
    add("rank4", (2, 3, 4, 5), beta=0.5)
    # At a difference of exactly `beta`, and of zero.
    edge = torch.tensor([0.0, 1.0, -1.0, 0.5, -0.5, 2.0]).double()
    add("edges", None, x=edge, t=torch.zeros(6).double(), reduction="none")
    add("edges_beta_half", None, x=edge, t=torch.zeros(6).double(), beta=0.5, reduction="none")
    add("edges_beta_zero", None, x=edge, t=torch.zeros(6).double(), beta=0.0, reduction="none")
    add("extremes", None, x=torch.tensor([INF, -INF, 3e38, 1e-40, NAN]).double(),
        t=torch.tensor([0.0, 1.0, 1e30, 0.0, 0.0]).double(), reduction="none")
    add("empty_sum", (0, 4), reduction="sum")
    add("empty_none", (0, 4), reduction="none")
    add("empty_mean", (0, 4), grads=[])
    add("transposed", (5, 4), layout="transposed")
    add("sliced", (5, 4), layout="sliced")
    add("f64", (5, 4), beta=0.7, dtype="float64")
    w.start(op, "errors")
    pair = {"input": w.randn(2, 3), "target": w.rand(2, 3)}
    w.error(op, "error_beta", pair, {"beta": -1.0}, f"{op}: beta")
    w.error(op, "error_target", pair | {"target": w.rand(3, 2)}, {}, f"{op}: target")


def philox(counter, key):
    """One block of Philox 4x32-10 (Salmon et al., 2011)."""
    word = (1 << 32) - 1
    for turn in range(10):
        if turn:
            key = [(key[0] + 0x9E3779B9) & word, (key[1] + 0xBB67AE85) & word]
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(b >> 32) ^ counter[1] ^ key[0], b & word, (a >> 32) ^ counter[3] ^ key[1], a & word]
    return counter


def mask(count, p, seed):
    """Which elements dropout keeps under `Key::new(seed)`: part of the library's format."""
    words = []
    for group in range(-(-count // 32)):
        blocks = [philox([8 * group + lane, 0, 0, 6], [seed & 0xFFFFFFFF, seed >> 32]) for lane in range(8)]
        words += [blocks[lane][word] for word in range(4) for lane in range(8)]
    return torch.tensor([word >= round(p * 2**32) for word in words[:count]]).double()


def dropout(w):
    def add(name, x, p, seed=0, layout=None, dtype="float32"):
        w.start("dropout", name)
        x = w.randn(*x) if isinstance(x, tuple) else x

        def run(i, _):
            x = i["input"]
            if p in (0.0, 1.0):
                # Nothing is left to chance.
                return {"output": F.dropout(x, p, training=True)}
            kept = mask(x.numel(), p, seed).reshape(x.shape)
            return {"output": x * kept / (1.0 - p)}

        exact = dtype == "float64"
        w.case("dropout", name, run, {"input": x}, args=shown({"p": p, "seed": seed}, layout), dtype=dtype,
               ref=TORCH if p in (0.0, 1.0) else "Philox 4x32-10 masks, definition", atol=1e-30,
               rtol=1e-14 if exact else 3e-7)

    add("half", (4, 7), 0.5)
    add("tenth", (3, 5, 7), 0.1, seed=7)
    add("most", (33, 65), 0.9, seed=2**40 + 3)
    add("one", (1,), 0.3, seed=1)
    add("rank4", (2, 3, 4, 5), 0.2, seed=11)
    add("nothing", (5, 6), 0.0)
    add("everything", (5, 6), 1.0)
    add("everything_special", torch.tensor([INF, -INF, NAN, 1.0]).double(), 1.0)
    add("empty", (0, 4), 0.5)
    add("transposed", (6, 9), 0.5, seed=3, layout="transposed")
    add("channels_last", (2, 3, 4, 5), 0.5, seed=3, layout="channels_last")
    add("f64", (6, 9), 0.35, seed=5, dtype="float64")
    w.error("dropout", "error_p", {"input": w.randn(3)}, {"p": 1.5}, "dropout: p")


def index_add(w):
    def add(name, x, count, layout=None, dtype="float32", index=None):
        w.start("index_add", name)
        inputs = {"input": w.randn(*x), "source": w.randn(count, *x[1:]),
                  "index": w.randint(0, max(x[0], 1), count) if index is None else torch.tensor(index)}
        exact = dtype == "float64"
        w.case("index_add", name,
               lambda i, _: {"output": torch.index_add(i["input"], 0, i["index"], i["source"])},
               inputs, args=shown({"dim": 0}, layout), dtype=dtype, rtol=1e-13 if exact else 2e-6,
               atol=1e-13 if exact else 2e-6)

    add("plain", (5, 3), 4)
    add("many", (17, 33), 60)
    add("vector", (6,), 9)
    add("rank4", (4, 2, 3, 5), 7)
    add("one_row", (1, 4), 6)
    add("all_to_one", (3, 4), 5, index=[2, 2, 2, 2, 2])
    add("each_once", (5, 3), 5, index=[3, 1, 4, 0, 2])
    add("empty_source", (3, 4), 0)
    add("no_columns", (3, 0), 2)
    add("transposed", (5, 6), 7, layout="transposed")
    add("sliced", (5, 6), 7, layout="sliced")
    add("f64", (5, 6), 7, dtype="float64")
    w.start("index_add", "errors")
    one = {"input": w.randn(3, 2), "source": w.randn(2, 2), "index": torch.tensor([0, 2])}
    w.error("index_add", "error_index", one | {"index": torch.tensor([0, 3])}, {}, "index_add: index")
    w.error("index_add", "error_count", one | {"index": torch.tensor([0])}, {}, "index_add: source")
    w.error("index_add", "error_width", one | {"source": w.randn(2, 3)}, {}, "index_add: source")


def scatter_add(w):
    def add(name, x, src, layout=None, dtype="float32", index=None):
        w.start("scatter_add", name)
        inputs = {"input": w.randn(*x), "src": w.randn(*src),
                  "index": w.randint(0, max(x[0], 1), *src) if index is None else torch.full(src, index)}
        exact = dtype == "float64"
        w.case("scatter_add", name,
               lambda i, _: {"output": torch.scatter_add(i["input"], 0, i["index"], i["src"])},
               inputs, args=shown({"dim": 0}, layout), dtype=dtype, rtol=1e-13 if exact else 2e-6,
               atol=1e-13 if exact else 2e-6)

    add("plain", (5, 3), (4, 3))
    add("narrow", (5, 6), (4, 2))
    add("many", (17, 33), (60, 33))
    add("vector", (6,), (9,))
    add("rank3_narrow", (4, 3, 5), (7, 2, 3))
    add("rank4", (3, 2, 3, 2), (5, 2, 3, 2))
    add("one_row", (1, 4), (6, 4))
    add("all_to_one", (3, 4), (5, 4), index=1)
    add("empty_source", (3, 4), (0, 4))
    add("no_columns", (3, 4), (2, 0))
    add("transposed", (5, 6), (7, 6), layout="transposed")
    add("sliced", (5, 6), (7, 4), layout="sliced")
    add("f64", (5, 6), (7, 5), dtype="float64")
    w.start("scatter_add", "errors")
    one = {"input": w.randn(3, 2), "src": w.randn(2, 2), "index": torch.zeros(2, 2).long()}
    w.error("scatter_add", "error_index", one | {"index": torch.full((2, 2), 3)}, {}, "scatter_add: index")
    w.error("scatter_add", "error_source", one | {"src": w.randn(1, 2)}, {}, "scatter_add: source")
    w.error("scatter_add", "error_wide", one | {"src": w.randn(2, 3), "index": torch.zeros(2, 3).long()}, {},
            "scatter_add: index")


def coder(weights=(1.0, 1.0, 1.0, 1.0), extent="continuous", **args):
    """torchvision's coder; boxes that count pixels are continuous ones that end a pixel further."""
    inner = BoxCoder(tuple(weights), **args)
    if extent == "continuous":
        return inner.encode_single, inner.decode_single
    # The centre lies half a pixel before that of the longer box, of both boxes.
    longer = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)

    def decode(deltas, anchors):
        boxes = inner.decode_single(deltas, anchors + longer)
        return boxes - longer.repeat(boxes.shape[1] // 4)

    return lambda boxes, anchors: inner.encode_single(boxes + longer, anchors + longer), decode


def encode(w):
    op = "box_coder.encode"

    def add(name, boxes, anchors, layout=None, dtype="float32", **args):
        w.start(op, name)
        make = lambda boxes: proper(w, boxes) if isinstance(boxes, int) else boxes
        exact = dtype == "float64"
        w.case(op, name, lambda i, _: {"output": coder(**args)[0](i["boxes"], i["anchors"])},
               {"boxes": make(boxes), "anchors": make(anchors)}, args=shown(args, layout), grads=[], dtype=dtype,
               ref=TORCHVISION, rtol=1e-12 if exact else 1e-5, atol=1e-12 if exact else 2e-5)

    add("plain", 6, 6)
    add("one", 1, 1, weights=[10.0, 10.0, 5.0, 5.0])
    add("many", 130, 130, weights=[10.0, 20.0, 5.0, 2.5])
    add("inclusive", 7, 7, extent="inclusive", weights=[10.0, 10.0, 5.0, 5.0])
    same = proper(w, 4)
    add("same", same, same)
    add("zero_area", table([[1, 1, 1, 3], [2, 2, 5, 5], [1, 1, 1, 1]]), table([[0, 0, 2, 2], [3, 3, 3, 6], [1, 1, 1, 1]]))
    add("reversed_and_infinite", table([[5, 5, 1, 2], [0, 0, INF, 4], [NAN, 0, 1, 1]]),
        table([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2]]))
    add("empty", 0, 0)
    add("transposed", 5, 5, layout="transposed")
    add("sliced", 5, 5, layout="sliced")
    add("f64", 9, 9, dtype="float64", weights=[10.0, 10.0, 5.0, 5.0])
    w.error(op, "error_anchors", {"boxes": proper(w, 3), "anchors": proper(w, 2)}, {}, f"{op}: anchors")
    w.error(op, "error_weight", {"boxes": proper(w, 2), "anchors": proper(w, 2)}, {"weights": [1, 1, 0, 1]},
            f"{op}: weights")


def decode(w):
    op = "box_coder.decode"

    def add(name, anchors, classes=1, std=0.5, layout=None, dtype="float32", deltas=None, grads=None, **args):
        w.start(op, name)
        anchors = proper(w, anchors) if isinstance(anchors, int) else anchors
        deltas = w.randn(len(anchors), 4 * classes, std=std) if deltas is None else deltas
        exact = dtype == "float64"
        w.case(op, name, lambda i, _: {"output": coder(**args)[1](i["deltas"], i["anchors"])},
               {"deltas": deltas, "anchors": anchors}, args=shown(args, layout),
               grads=["in.deltas"] if grads is None else grads, dtype=dtype, ref=TORCHVISION,
               rtol=1e-12 if exact else 1e-5, atol=1e-11 if exact else 5e-5)

    add("plain", 6)
    add("one", 1, weights=[10.0, 10.0, 5.0, 5.0])
    add("classes", 5, classes=7, weights=[10.0, 10.0, 5.0, 5.0])
    add("many", 130, weights=[10.0, 20.0, 5.0, 2.5])
    add("inclusive", 7, classes=2, extent="inclusive", weights=[10.0, 10.0, 5.0, 5.0])
    # Beyond, at and below the limit of the sizes.
    edge = torch.tensor([[0, 0, 100, 1], [0, 0, 2, -100], [1, -1, 2.5, 1.5]]).double()
    add("clipped", 3, deltas=edge)
    add("clip_at_two", 3, deltas=edge, bbox_xform_clip=2.0)
    add("infinite", table([[0, 0, 4, 4], [0, 0, INF, 2], [3, 3, 3, 3], [5, 5, 1, 1]]),
        deltas=torch.tensor([[INF, 0, 0, -INF], [0, 0, 0, 0], [1, 1, 1, 1], [0.5, 0.5, 0.5, NAN]]).double(), grads=[])
    add("empty", 0, classes=3)
    add("transposed", 5, classes=2, layout="transposed")
    add("sliced", 5, classes=2, layout="sliced")
    add("f64", 9, classes=2, dtype="float64", weights=[10.0, 10.0, 5.0, 5.0])
    w.error(op, "error_deltas", {"deltas": w.randn(3, 6), "anchors": proper(w, 3)}, {}, f"{op}: deltas")
    w.error(op, "error_anchors", {"deltas": w.randn(3, 4), "anchors": proper(w, 2)}, {}, f"{op}: anchors")


def anchors(w):
    def add(name, grid_sizes, sizes, aspect_ratios, strides=None, image_size=None):
        w.start("anchors", name)
        generator = AnchorGenerator(tuple(map(tuple, sizes)), tuple(map(tuple, aspect_ratios)))
        args = {"grid_sizes": grid_sizes, "sizes": sizes, "aspect_ratios": aspect_ratios}
        if strides is None:
            steps = [[image_size[0] // h, image_size[1] // v] for h, v in grid_sizes]
            args["image_size"] = image_size
        else:
            steps = args["strides"] = strides
        made = generator.grid_anchors(grid_sizes, [[torch.tensor(s) for s in step] for step in steps])
        w.case("anchors", name, lambda i, _: {"output": torch.cat(made)}, {}, args=args, grads=[], ref=TORCHVISION,
               rtol=0.0, atol=0.0)

    half = [0.5, 1.0, 2.0]
    add("default_cell", [[2, 3]], [[128, 256, 512]], [half], strides=[[16, 16]])
    add("one", [[1, 1]], [[32]], [[1.0]], strides=[[32, 32]])
    add("pyramid", [[8, 10], [4, 5], [2, 3], [1, 2], [1, 1]], [[32], [64], [128], [256], [512]], [half] * 5,
        strides=[[4, 4], [8, 8], [16, 16], [32, 32], [64, 64]])
    add("from_image", [[7, 9], [4, 5]], [[32, 64], [128]], [half, [1.0]], image_size=[100, 133])
    add("mixed_ratios", [[3, 2], [2, 2]], [[16, 20, 25], [40]], [[0.333, 1.0, 3.0], [0.25, 4.0]],
        strides=[[8, 12], [16, 24]])
    add("halves", [[2, 2]], [[5, 15, 7, 9.5]], [[1.0]], strides=[[3, 5]])
    add("empty_map", [[0, 4], [1, 1]], [[32], [64]], [half, half], strides=[[8, 8], [16, 16]])
    add("no_ratios", [[2, 2]], [[32]], [[]], strides=[[8, 8]])
    w.error("anchors", "error_size", {}, {"grid_sizes": [[1, 1]], "strides": [[8, 8]], "sizes": [[0]],
                                          "aspect_ratios": [[1.0]]}, "anchors: sizes")
    w.error("anchors", "error_levels", {}, {"grid_sizes": [[1, 1], [1, 1]], "strides": [[8, 8]], "sizes": [[8]],
                                            "aspect_ratios": [[1.0]]}, "anchors: grids")
