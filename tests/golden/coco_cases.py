"""Cases of detection metrics, computed by pycocotools."""

import contextlib
import importlib.metadata
import io

import numpy as np
import torch
from pycocotools import mask as masks
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

REF = f"pycocotools {importlib.metadata.version('pycocotools')}"


def evaluate(detections, gt, iou_type="bbox", size=None):
    """The twelve numbers. Masks are those of the boxes as polygons in pictures of `size` (height, width)."""
    detections, gt = np.asarray(detections, "float64"), np.asarray(gt, "float64")

    def mask(box):
        x, y, w, h = box
        return masks.merge(masks.frPyObjects([[x, y, x + w, y, x + w, y + h, x, y + h]], *size))

    def annotation(row):
        box = row[1:5].tolist()
        return {"image_id": int(row[0]), "bbox": box} | ({"segmentation": mask(box)} if iou_type == "segm" else {})

    truths = [annotation(row) | {"id": i + 1, "category_id": int(row[5]), "iscrowd": int(row[6]), "area": row[7]}
              for i, row in enumerate(gt)]
    found = [annotation(row) | {"score": row[5], "category_id": int(row[6])} for row in detections]
    if iou_type == "segm":
        # Results with boxes would be taken for results of boxes.
        for row in found:
            del row["bbox"]
    images = sorted({row["image_id"] for row in truths + found})
    categories = sorted({row["category_id"] for row in truths + found})
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        sized = dict(zip(("height", "width"), size or (0, 0)))
        coco.dataset = {"images": [{"id": i} | sized for i in images], "annotations": truths,
                        "categories": [{"id": c} for c in categories]}
        coco.createIndex()
        results = coco.loadRes(found) if found else COCO()
        metric = COCOeval(coco, results, iou_type)
        metric.evaluate()
        metric.accumulate()
        metric.summarize()
    return np.asarray(metric.stats, "float64")


def scene(w, images, categories, objects, span=200.0, low=4.0, high=120.0, crowds=0.0, levels=None, noise=6, keep=0.8):
    """Truths at random places; most are found about where they are, and some detections are of nothing.

    Scores have `levels` values, if given, so that many are equal.
    """
    rows = []
    for image in images:
        count = int(w.randint(0, objects + 1, 1))
        for _ in range(count):
            x, y = w.rand(2, high=span).tolist()
            width, height = w.rand(2, low=low, high=high).tolist()
            crowd = float(w.rand(1) < crowds)
            # Masks cover a part of their box.
            share = float(w.rand(1, low=0.5, high=1.0))
            rows.append([image, x, y, width, height, categories[int(w.randint(0, len(categories), 1))], crowd,
                         width * height * share])
    found = []
    for row in rows:
        for _ in range(int(w.randint(1, 3, 1))):
            if float(w.rand(1)) < keep:
                shift = w.randn(4, std=0.08) * torch.tensor([row[3], row[4], row[3], row[4]], dtype=torch.float64)
                x, y, width, height = (torch.tensor(row[1:5], dtype=torch.float64) + shift).tolist()
                found.append([row[0], x, y, abs(width), abs(height), float(w.rand(1)), row[5]])
    for image in images:
        for _ in range(int(w.randint(0, noise + 1, 1))):
            x, y = w.rand(2, high=span).tolist()
            width, height = w.rand(2, low=low, high=high).tolist()
            found.append([image, x, y, width, height, float(w.rand(1)),
                          categories[int(w.randint(0, len(categories), 1))]])
    found = torch.tensor(found, dtype=torch.float64).reshape(-1, 7)
    if levels:
        found[:, 5] = torch.floor(found[:, 5] * levels) / levels
    return found[torch.randperm(len(found), generator=w.generator)], torch.tensor(rows, dtype=torch.float64).reshape(-1, 8)


def coco_eval(w):
    def put(name, detections, gt, iou_type="bbox", size=None):
        stats = evaluate(detections.numpy(), gt.numpy(), iou_type, size)
        tensors = {"in.detections": detections.numpy(), "in.gt": gt.numpy(), "out.stats": stats}
        args = {"iou_type": iou_type} | ({"size": list(size)} if size else {})
        w.put("coco_eval", name, tensors, args, REF, 1e-12, 1e-12)

    def drawn(name, images=8, categories=(1,), objects=6, change=None, **rest):
        w.start("coco_eval", name)
        detections, gt = scene(w, range(1, images + 1), list(categories), objects, **rest)
        put(name, *(change(detections, gt) if change else (detections, gt)))

    drawn("ordinary")
    drawn("one_image", images=1, objects=9)
    drawn("many_images", images=60, categories=(1, 2, 3, 17, 90), objects=5)
    drawn("ties", images=12, categories=(1, 2), levels=3)
    drawn("all_scores_equal", images=10, levels=1)
    drawn("crowds", images=12, categories=(1, 2), crowds=0.4, objects=8)
    drawn("only_crowds", crowds=1.1)
    drawn("small_objects", low=2.0, high=40.0, images=12, objects=9)
    drawn("large_objects", low=60.0, high=400.0, images=12)
    drawn("crowded_pictures", span=40.0, images=6, categories=(1, 2), objects=14, crowds=0.2, noise=20, levels=10)
    drawn("more_than_100_detections", images=3, objects=8, noise=260, keep=1.0)
    drawn("perfect", change=lambda d, g: (torch.cat([g[:, :5], 0.5 + g[:, :1] / 100, g[:, 5:6]], 1), g))
    drawn("no_detections", categories=(1, 2), change=lambda d, g: (d[:0], g))
    drawn("no_truths", categories=(1, 2), change=lambda d, g: (d, g[:0]))
    drawn("category_never_found", categories=(1, 2, 3), change=lambda d, g: (d[d[:, 6] != 2], g))
    drawn("category_without_truths", categories=(1, 2, 3), change=lambda d, g: (d, g[g[:, 5] != 2]))
    drawn("images_without_truths", images=10, change=lambda d, g: (d, g[g[:, 0] > 4]))

    def scattered(detections, gt):
        """Ids in any order and far apart; rows of truths shuffled."""
        ids = torch.tensor([0, 900001, 42, 7, 581929, 3, 139, 58], dtype=torch.float64)
        detections[:, 0], gt[:, 0] = ids[detections[:, 0].long() - 1], ids[gt[:, 0].long() - 1]
        return detections, gt[torch.randperm(len(gt), generator=w.generator)]

    drawn("scattered_ids", categories=(1, 80), change=scattered, levels=4)

    def areas(detections, gt):
        """Areas on the borders between sizes, and far from those of the boxes."""
        borders = torch.tensor([0.0, 1023.9, 1024.0, 1024.1, 9216.0, 9216.1, 1e10, 2e10], dtype=torch.float64)
        gt[:, 7] = borders[w.randint(0, len(borders), len(gt))]
        return detections, gt

    drawn("areas_at_borders", images=14, change=areas, objects=8)

    def flat(detections, gt):
        """Boxes without width, without height, and points."""
        for rows in (detections, gt):
            rows[0::3, 3] = 0.0
            rows[1::4, 4] = 0.0
        gt[:, 7] = gt[:, 3] * gt[:, 4]
        return detections, gt

    drawn("zero_area", images=6, change=flat, objects=9)

    # The same overlap twice, and an overlap of exactly a threshold.
    gt = torch.tensor([[1, 0, 0, 10, 10, 1, 0, 100], [1, 20, 0, 10, 10, 1, 0, 100], [1, 0, 0, 10, 10, 1, 0, 100.0]])
    detections = torch.tensor([[1, 0, 0, 10, 5, 0.9, 1], [1, 20, 0, 10, 7.5, 0.8, 1], [1, 0, 0, 10, 10, 0.7, 1]])
    put("at_threshold", detections.double(), gt.double())

    w.start("coco_eval", "masks")
    detections, gt = scene(w, range(1, 9), [1, 2], 7, crowds=0.15, levels=20)
    size = (170, 230)
    gt[:, 7] = torch.tensor([float(masks.area(masks.merge(masks.frPyObjects(
        [[x, y, x + a, y, x + a, y + b, x, y + b]], *size)))) for _, x, y, a, b, *_ in gt.tolist()])
    put("masks", detections, gt, "segm", size)

    some, few = torch.tensor([[1, 0, 0, 4, 4, 0.5, 1.0]]), torch.tensor([[1, 0, 0, 4, 4, 1, 0, 16.0]])

    def with_value(tensor, column, value):
        return tensor.clone().index_fill_(1, torch.tensor([column]), value)

    nan = float("nan")
    for name, detections, truths, message in [
        ("error_detection_columns", some[:, :6], few, "in.detections must be (N, 7)"),
        ("error_gt_columns", some, few[:, :5], "in.gt must be (N, 8)"),
        ("error_score", with_value(some, 5, nan), few, "score is NaN"),
        ("error_box", with_value(some, 1, nan), few, "x is NaN"),
        ("error_width", with_value(some, 3, -1.0), few, "width is -1"),
        ("error_truth_height", some, with_value(few, 4, float("inf")), "height is inf"),
        ("error_area", some, with_value(few, 7, -2.0), "area is -2"),
        ("error_image", with_value(some, 0, 0.5), few, "image 0.5"),
        ("error_category", some, with_value(few, 5, -1.0), "category -1"),
    ]:
        w.error("coco_eval", name, {"detections": detections, "gt": truths}, {"iou_type": "bbox"}, message, REF,
                dtype="float64")
    w.error("coco_eval", "error_iou_type", {"detections": some, "gt": few}, {"iou_type": "keypoints"}, "iou_type", REF,
            dtype="float64")
