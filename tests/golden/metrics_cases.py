"""Cases of metrics, computed by numpy the way the papers' code does."""

import numpy as np
import torch

REF = f"numpy {np.__version__}, histograms as in the evaluation of EncNet"


def _scores(pred, target, num_classes, ignore_index):
    """Pixel accuracy and IoU from histograms over the pixels that count; absent classes have an IoU of 0."""
    valid = target != ignore_index
    pred, target = pred[valid], target[valid]
    bins = np.arange(num_classes + 1)
    inter = np.histogram(pred[pred == target], bins)[0]
    union = np.histogram(pred, bins)[0] + np.histogram(target, bins)[0] - inter
    iou = inter / (np.spacing(1) + union)
    seen = union > 0
    return {
        "pix_acc": inter.sum() / (np.spacing(1) + len(target)),
        "miou": iou.mean(),
        "miou_skip": iou[seen].mean() if seen.any() else 0.0,
        "iou": iou,
    }


def segmentation_metrics(w):
    def case(name, pred, target, num_classes, ignore_index=-1):
        out = _scores(pred.numpy(), target.numpy(), num_classes, ignore_index)
        tensors = {"in.pred": pred.numpy(), "in.target": target.numpy()}
        tensors |= {f"out.{key}": np.asarray(value, "float64") for key, value in out.items()}
        args = {"num_classes": num_classes, "ignore_index": ignore_index}
        w.put("segmentation_metrics", name, tensors, args, REF, 1e-12, 1e-12)

    def drawn(name, shape, num_classes, ignored, ignore_index, used=None):
        w.start("segmentation_metrics", name)
        target = w.randint(0, used or num_classes, *shape)
        pred = torch.where(w.rand(*shape) < 0.7, target, w.randint(0, used or num_classes, *shape))
        target = torch.where(w.rand(*shape) < ignored, torch.tensor(ignore_index), target)
        case(name, pred, target, num_classes, ignore_index)

    case("by_hand", torch.tensor([[0, 1, 1, 1], [2, 0, 3, 0]]), torch.tensor([[0, 0, 1, 1], [2, 2, -1, -1]]), 5)
    drawn("plain", (2, 31, 17), 21, 0.1, -1)
    drawn("ignore_255", (3, 20, 20), 7, 0.3, 255)
    drawn("absent_classes", (1, 24, 24), 150, 0.1, -1, used=40)
    drawn("many_classes", (4, 64, 48), 150, 0.05, -1)
    drawn("one_class", (1, 9, 9), 1, 0.2, -1)
    drawn("all_ignored", (1, 5, 5), 4, 1.1, -1)
    case("empty", torch.zeros(0, 4, 4, dtype=torch.int64), torch.zeros(0, 4, 4, dtype=torch.int64), 3)
    small = torch.tensor([[0, 1]])
    for name, pred, target, args, message in [
        ("error_label_255", small, torch.tensor([[0, 255]]), {"num_classes": 2}, "label is 255"),
        ("error_prediction", torch.tensor([[0, 2]]), small, {"num_classes": 2}, "prediction is 2"),
        ("error_sizes", torch.tensor([[0]]), small, {"num_classes": 2}, "predictions"),
        ("error_ignored_class", small, small, {"num_classes": 2, "ignore_index": 1}, "ignore"),
    ]:
        w.error("segmentation_metrics", name, {"pred": pred, "target": target}, args, message, REF)
