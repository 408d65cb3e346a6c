"""Cases of operations over boxes on a map."""

from pathlib import Path

import numpy as np
import torch
import torchvision.ops as ops
from caselib import TORCHVISION

RECORDED = Path(__file__).resolve().parent / "recorded"

# (x1, y1, x2, y2) on a map of about 14 x 18 pixels at scale 1/16: ordinary, the whole picture, smaller than a pixel,
# partly outside on either side, outside, inside out, without extent, far larger than the picture.
ORDINARY = [[3.2, 4.7, 90.1, 120.9], [0, 0, 287, 223], [17, 130, 150, 180.5]]
ODD = [[100.5, 80.5, 101.2, 81.4], [250, 200, 400, 300], [-20, -10, 40, 50], [500, 10, 600, 90],
       [150, 120, 60, 40], [64, 48, 64, 48], [-3e4, -2e4, 3e4, 2e4]]


def boxes_of(rows, batch):
    """Boxes `(K, 5)`, dealt out to the pictures of a batch in turn."""
    index = torch.arange(len(rows), dtype=torch.float64) % max(batch, 1)
    return torch.cat([index[:, None], torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)], 1)


def close(dtype, atol=1e-5):
    return {"dtype": dtype} | ({"rtol": 1e-5, "atol": atol} if dtype == "float32" else {"rtol": 1e-11, "atol": 1e-11})


def adder(w, op, function, ref=TORCHVISION):
    def add(name, x, rows, layout=None, dtype="float32", native=False, atol=1e-5, grads=("in.input",), **args):
        w.start(op, name)
        shown = {"spatial_scale": 1 / 16} | args
        w.case(op, name, lambda i, _: {"output": function(i["input"], i["boxes"], **shown)},
               {"input": w.randn(*x), "boxes": boxes_of(rows, x[0])}, grads=list(grads),
               args=shown | ({"layout": layout} if layout else {}), ref=ref, native=native, **close(dtype, atol))

    return add


def errors(w, op, x, args):
    """What every operation over boxes refuses."""
    w.start(op, "error")
    inputs = {"input": w.randn(*x), "boxes": boxes_of(ORDINARY, x[0])}
    bad = inputs["boxes"].clone()
    bad[1, 3] = float("nan")
    endless = inputs["boxes"].clone()
    endless[2, 1] = -float("inf")
    other = inputs["boxes"].clone()
    other[0, 0] = x[0]
    for name, change, more, message in [
        ("error_nan_box", {"boxes": bad}, {}, f"{op}: boxes"),
        ("error_infinite_box", {"boxes": endless}, {}, f"{op}: boxes"),
        ("error_no_such_picture", {"boxes": other}, {}, f"{op}: boxes"),
        ("error_four_columns", {"boxes": inputs["boxes"][:, 1:]}, {}, f"{op}: boxes"),
        ("error_rank", {"input": inputs["input"][0]}, {}, f"{op}: input"),
        ("error_scale", {}, {"spatial_scale": -1.0}, f"{op}: spatial_scale"),
        ("error_output_size", {}, {"output_size": 0}, f"{op}: output_size"),
    ]:
        w.error(op, name, inputs | change, {"spatial_scale": 1 / 16} | args | more, message, ref=TORCHVISION)


def roi_align(w):
    add = adder(w, "roi_align", ops.roi_align)
    add("adaptive", (2, 3, 14, 18), ORDINARY, output_size=7)
    add("aligned", (2, 3, 14, 18), ORDINARY, output_size=7, aligned=True)
    add("ratio2", (1, 3, 14, 18), ORDINARY, output_size=7, sampling_ratio=2, aligned=True)
    add("ratio3_legacy", (1, 2, 14, 18), ORDINARY, output_size=[3, 5], sampling_ratio=3)
    add("odd_boxes", (2, 2, 14, 18), ODD[:-1], output_size=[4, 3], sampling_ratio=2, aligned=True)
    add("odd_boxes_legacy", (2, 2, 14, 18), ODD[:-1], output_size=[4, 3], sampling_ratio=2)
    add("odd_boxes_adaptive", (2, 2, 14, 18), ODD[:-1], output_size=[4, 3], aligned=True)
    add("huge_box", (1, 2, 14, 18), ODD[-1:], output_size=2, aligned=True, atol=1e-4)
    add("one_pixel", (1, 2, 1, 1), [[-8, -8, 24, 24], [0, 0, 0, 0]], output_size=2, aligned=True)
    add("batch9", (9, 1, 5, 6), ORDINARY * 3, output_size=2, aligned=True)
    add("many_channels", (1, 37, 6, 7), ORDINARY, output_size=2, sampling_ratio=2, aligned=True)
    add("no_boxes", (2, 3, 6, 7), [], output_size=2)
    add("overlaps", (1, 4, 14, 18), [[20 + i, 30 - i, 200 + i, 160] for i in range(12)], output_size=3, aligned=True)
    add("channels_last", (2, 3, 14, 18), ORDINARY, output_size=3, layout="channels_last")
    add("sliced", (2, 3, 14, 18), ORDINARY, output_size=3, layout="sliced", sampling_ratio=2)
    add("f64", (2, 3, 14, 18), ORDINARY + ODD[:-1], output_size=[3, 4], aligned=True, dtype="float64")
    errors(w, "roi_align", (2, 2, 6, 7), {"output_size": 2})


def roi_pool(w):
    # Which pixels a cell covers is decided by rounding, so the reference computes in the stored type.
    add = adder(w, "roi_pool", ops.roi_pool)
    add("7x7", (2, 3, 14, 18), ORDINARY, output_size=7, native=True)
    add("2x3", (1, 2, 14, 18), ORDINARY, output_size=[2, 3], native=True)
    add("odd_boxes", (2, 2, 14, 18), ODD, output_size=[4, 3], native=True)
    add("one_pixel", (1, 2, 1, 1), [[-8, -8, 24, 24], [0, 0, 0, 0]], output_size=2, native=True)
    add("batch9", (9, 1, 5, 6), ORDINARY * 3, output_size=2, native=True)
    add("many_channels", (1, 37, 6, 7), ORDINARY, output_size=2, native=True)
    add("no_boxes", (2, 3, 6, 7), [], output_size=2, native=True)
    add("overlaps", (1, 4, 14, 18), [[20 + i, 30 - i, 200 + i, 160] for i in range(12)], output_size=3, native=True)
    add("thirds", (1, 1, 40, 40), [[0, 0, 16.0 * (n - 1), 16.0 * (n - 1)] for n in range(1, 41)], output_size=7,
        native=True)
    add("channels_last", (2, 3, 14, 18), ORDINARY, output_size=3, layout="channels_last", native=True)
    add("f64", (2, 3, 14, 18), ORDINARY + ODD, output_size=[3, 4], dtype="float64")
    errors(w, "roi_pool", (2, 2, 6, 7), {"output_size": 2})

    w.start("roi_pool", "ties")
    x = torch.tensor([1.0, 3.0, 3.0, -float("inf")], dtype=torch.float64).repeat(2, 9, 2)[None]
    args = {"output_size": 2, "spatial_scale": 0.5}
    w.case("roi_pool", "ties", lambda i, _: {"output": ops.roi_pool(i["input"], i["boxes"], **args)},
           {"input": x, "boxes": boxes_of([[0, 0, 10, 12], [4, 4, 9, 9]], 1)}, grads=["in.input"], args=args,
           ref=TORCHVISION, native=True, **close("float32"))


def ps_roi_align(w):
    add = adder(w, "ps_roi_align", ops.ps_roi_align)
    add("adaptive", (2, 12, 14, 18), ORDINARY, output_size=2)
    add("3x2_ratio2", (1, 12, 14, 18), ORDINARY, output_size=[3, 2], sampling_ratio=2)
    add("7x7_ratio4", (1, 98, 14, 18), ORDINARY, output_size=7, sampling_ratio=4)
    # Without the box of no extent: the reference divides 0 by 0 there with an adaptive ratio.
    add("odd_boxes", (2, 8, 14, 18), ODD[:5], output_size=2)
    add("odd_boxes_ratio2", (2, 8, 14, 18), ODD[:-1], output_size=2, sampling_ratio=2)
    add("batch9", (9, 4, 5, 6), ORDINARY * 3, output_size=2)
    add("no_boxes", (2, 8, 6, 7), [], output_size=2)
    add("channels_last", (2, 12, 14, 18), ORDINARY, output_size=2, layout="channels_last")
    add("f64", (2, 12, 14, 18), ORDINARY + ODD[:5], output_size=[2, 3], dtype="float64")
    errors(w, "ps_roi_align", (2, 8, 6, 7), {"output_size": 2})
    w.error("ps_roi_align", "error_channels", {"input": w.randn(1, 7, 5, 5), "boxes": boxes_of(ORDINARY, 1)},
            {"output_size": 2}, "ps_roi_align: input", ref=TORCHVISION)


def rfcn_ps_roi_pool(x, boxes, output_size, spatial_scale, rounding=None):
    """R-FCN's pooling as its paper and `MXNet` define it: whole pixels between rounded, then scaled corners."""
    k = output_size
    channels, (height, width) = x.shape[1] // (k * k), x.shape[2:]
    half_away = lambda v: np.floor(abs(v) + 0.5) * np.sign(v)
    out = []
    for index, x1, y1, x2, y2 in boxes.tolist():
        spans = []
        for low, high, size in ((y1, y2, height), (x1, x2, width)):
            start = half_away(low) * spatial_scale
            cell = max((half_away(high) + 1) * spatial_scale - start, 0.1) / k
            spans.append([(int(np.clip(np.floor(i * cell + start), 0, size)),
                           int(np.clip(np.ceil((i + 1) * cell + start), 0, size))) for i in range(k)])
        planes = x[int(index)].reshape(channels, k, k, height, width)
        cells = []
        for i, (top, bottom) in enumerate(spans[0]):
            for j, (left, right) in enumerate(spans[1]):
                part = planes[:, i, j, top:max(bottom, top), left:max(right, left)]
                cells.append(part.mean((1, 2)) if part.numel() else 0 * planes[:, i, j, 0, 0])
        out.append(torch.stack(cells, 1).reshape(channels, k, k))
    return torch.stack(out)


def ps_roi_pool(w):
    # The reference's forward pass leaves out the last row and column of the map and its backward pass does not, so
    # gradients are compared on boxes that do not reach them.
    add = adder(w, "ps_roi_pool", ops.ps_roi_pool)
    inner = [[3.2, 4.7, 90.1, 120.9], [17, 130, 150, 180.5], [-20, -10, 40, 50], [100.5, 80.5, 101.2, 81.4]]
    add("2x2", (2, 12, 14, 18), inner, output_size=2, native=True)
    add("3x2", (1, 12, 14, 18), inner, output_size=[3, 2], native=True)
    add("7x7", (1, 98, 14, 18), inner, output_size=7, native=True)
    add("batch9", (9, 4, 14, 18), inner * 2, output_size=2, native=True)
    add("no_boxes", (2, 8, 6, 7), [], output_size=2, native=True)
    add("channels_last", (2, 12, 14, 18), inner, output_size=2, layout="channels_last", native=True)
    add("f64", (2, 12, 14, 18), inner, output_size=[2, 3], dtype="float64")
    add("to_the_edge", (1, 98, 14, 18), ORDINARY, output_size=7, native=True, grads=())
    add("odd_boxes", (2, 8, 14, 18), ODD, output_size=2, native=True, grads=())
    rfcn = adder(w, "ps_roi_pool", rfcn_ps_roi_pool, "R-FCN's definition in torch, agreeing with MXNet 1.9.1")
    rfcn("rfcn_3x3", (2, 18, 14, 18), ORDINARY, output_size=3, rounding="before_scaling")
    rfcn("rfcn_odd_boxes", (2, 8, 14, 18), ODD, output_size=2, rounding="before_scaling")
    rfcn("rfcn_f64", (2, 8, 14, 18), ORDINARY + ODD, output_size=2, rounding="before_scaling", dtype="float64")
    recorded = np.load(RECORDED / "mxnet_ps_roi_pooling.npz")
    x, boxes = (torch.from_numpy(recorded[key]).double() for key in ("input", "rois"))
    ours = rfcn_ps_roi_pool(x, boxes, 7, 1 / 16)
    assert (ours - torch.from_numpy(recorded["pooled"])).abs().max() < 1e-5
    w.put("ps_roi_pool", "mxnet", {"in.input": recorded["input"], "in.boxes": recorded["rois"],
                                   "out.output": recorded["pooled"]},
          {"output_size": 7, "spatial_scale": 1 / 16, "rounding": "before_scaling"}, "MXNet 1.9.1 PSROIPooling",
          1e-5, 1e-5)
    errors(w, "ps_roi_pool", (2, 8, 6, 7), {"output_size": 2})


def deform_pool(x, boxes, offset=None, output_size=7, spatial_scale=1.0, group_size=7, part_size=0,
                sample_per_part=4, trans_std=0.1):
    """Deformable position-sensitive pooling as `MXNet` defines it, one sample at a time."""
    p, g, parts = output_size, group_size, part_size or output_size
    channels, (height, width) = x.shape[1] // (g * g), x.shape[2:]
    classes = offset.shape[1] // 2 if offset is not None else 1
    half_away = lambda v: np.floor(abs(v) + 0.5) * np.sign(v)

    def reads(start, length, cell, moved, size):
        """Places along an axis, with the pixels around them and their weights; outside ones are left out."""
        result = []
        for sample in range(sample_per_part):
            at = start + cell * length / p + moved * trans_std * length + sample * length / p / sample_per_part
            if -0.5 <= float(at.detach()) <= size - 0.5:
                at = at.clamp(0, size - 1)
                low, high = int(torch.floor(at.detach())), int(torch.ceil(at.detach()))
                result.append([(low, 1 - (at - low)), (high, at - low)])
        return result

    out = []
    for region, (index, x1, y1, x2, y2) in enumerate(boxes.tolist()):
        sides = []
        for low, high in ((y1, y2), (x1, x2)):
            start = half_away(low) * spatial_scale - 0.5
            sides.append((start, max((half_away(high) + 1) * spatial_scale - 0.5 - start, 0.1)))
        for c in range(channels):
            for i in range(p):
                for j in range(p):
                    k, dx, dy = c // (channels // classes), torch.zeros(()).double(), torch.zeros(()).double()
                    if offset is not None:
                        dx = offset[region, 2 * k, i * parts // p, j * parts // p]
                        dy = offset[region, 2 * k + 1, i * parts // p, j * parts // p]
                    rows = reads(*sides[0], i, dy, height)
                    columns = reads(*sides[1], j, dx, width)
                    plane = x[int(index), (c * g + i * g // p) * g + j * g // p]
                    total = sum(wy * wx * plane[r, s] for row in rows for column in columns
                                for r, wy in row for s, wx in column)
                    out.append(total / (len(rows) * len(columns)) if rows and columns else 0 * plane[0, 0])
    shape = (len(boxes), channels, p, p)
    return torch.stack(out).reshape(shape) if out else x.new_zeros(shape) + 0 * x.sum()


def deform_ps_roi_pool(w):
    ref = "MXNet's definition in torch, agreeing with MXNet 1.9.1"

    def add(name, x, rows, classes=0, reach=1.0, layout=None, dtype="float32", **args):
        w.start("deform_ps_roi_pool", name)
        shown = {"spatial_scale": 1 / 16} | args
        inputs = {"input": w.randn(*x), "boxes": boxes_of(rows, x[0])}
        parts = shown.get("part_size", 0) or shown["output_size"]
        if classes:
            inputs["offset"] = w.randn(len(rows), 2 * classes, parts, parts, std=reach)
        run = lambda i, _: {"output": deform_pool(i["input"], i["boxes"], i.get("offset"), **shown)}
        w.case("deform_ps_roi_pool", name, run, inputs, grads=["in.input"] + ["in.offset"] * bool(classes),
               args=shown | ({"layout": layout} if layout else {}), ref=ref, **close(dtype, 2e-5))

    plain = {"output_size": 3, "group_size": 3, "sample_per_part": 2}
    add("without_offset", (2, 18, 14, 18), ORDINARY, **plain)
    add("one_class", (2, 18, 14, 18), ORDINARY, classes=1, **plain)
    add("class_offsets", (1, 27, 10, 12), ORDINARY, classes=3, **plain)
    add("group1", (1, 4, 10, 12), ORDINARY, classes=1, output_size=3, group_size=1, sample_per_part=4)
    add("group2_of_3", (1, 8, 10, 12), ORDINARY, classes=2, output_size=3, group_size=2, sample_per_part=2)
    add("parts2_of_4", (1, 4, 10, 12), ORDINARY, classes=1, output_size=4, group_size=2, part_size=2,
        sample_per_part=2)
    add("parts5_of_3", (1, 4, 10, 12), ORDINARY, classes=1, output_size=3, group_size=2, part_size=5,
        sample_per_part=1)
    add("odd_boxes", (2, 8, 14, 18), ODD[:-1], classes=1, output_size=2, group_size=2, sample_per_part=2)
    add("far_offsets", (2, 8, 14, 18), ORDINARY, classes=1, reach=9.0, output_size=2, group_size=2)
    add("strong", (1, 8, 14, 18), ORDINARY, classes=1, output_size=2, group_size=2, trans_std=0.7)
    add("no_boxes", (1, 8, 5, 5), [], output_size=2, group_size=2)
    add("channels_last", (2, 8, 14, 18), ORDINARY, classes=1, output_size=2, group_size=2, layout="channels_last")
    add("f64", (2, 8, 14, 18), ORDINARY + ODD[:-1], classes=2, output_size=2, group_size=2, dtype="float64")

    # What MXNet itself computed, with the loss `sum(y * y)`. The definition above must agree.
    recorded = np.load(RECORDED / "mxnet_ps_roi_pooling.npz")
    args = {"output_size": 7, "spatial_scale": 1 / 16, "group_size": 7, "part_size": 7, "sample_per_part": 4,
            "trans_std": 0.1}
    x, boxes, offset = (torch.from_numpy(recorded[key]).double() for key in ("input", "rois", "offset"))
    x.requires_grad_(True), offset.requires_grad_(True)
    ours = deform_pool(x, boxes, offset, **args)
    assert (ours.detach() - torch.from_numpy(recorded["deformed"])).abs().max() < 1e-5
    (ours * ours).sum().backward()
    assert (x.grad - torch.from_numpy(recorded["grad_input"])).abs().max() < 2e-5
    assert (offset.grad - torch.from_numpy(recorded["grad_offset"])).abs().max() < 2e-5
    shared = {"in.input": recorded["input"], "in.boxes": recorded["rois"]}
    w.put("deform_ps_roi_pool", "mxnet", shared | {
        "in.offset": recorded["offset"], "out.output": recorded["deformed"], "gradout.output": 2.0 * recorded["deformed"],
        "grad.in.input": recorded["grad_input"], "grad.in.offset": recorded["grad_offset"],
    }, args, "MXNet 1.9.1 DeformablePSROIPooling", 1e-5, 2e-5)
    w.put("deform_ps_roi_pool", "mxnet_without_offset", shared | {"out.output": recorded["still"]}, args,
          "MXNet 1.9.1 DeformablePSROIPooling", 1e-5, 1e-5)
    errors(w, "deform_ps_roi_pool", (2, 8, 6, 7), {"output_size": 2, "group_size": 2})
    inputs = {"input": w.randn(1, 8, 5, 5), "boxes": boxes_of(ORDINARY, 1)}
    for name, change, more, message in [
        ("error_offset", {"offset": w.randn(3, 3, 2, 2)}, {}, "deform_ps_roi_pool: offset"),
        ("error_classes", {"offset": w.randn(3, 6, 2, 2)}, {}, "deform_ps_roi_pool: offset"),
        ("error_groups", {}, {"group_size": 3}, "deform_ps_roi_pool: input"),
    ]:
        w.error("deform_ps_roi_pool", name, inputs | change, {"output_size": 2, "group_size": 2} | more, message)


def crop(image, boxes, box_ind, crop_size, method="bilinear", extrapolation_value=0.0):
    """`crop_and_resize` by its definition, in matrices of weights per axis."""
    height, width = image.shape[1:3]

    def axis(low, high, count, size):
        at = (low * (size - 1) + torch.arange(count).to(low) * ((high - low) * (size - 1) / (count - 1)) if count > 1
              else 0.5 * (low + high) * (size - 1) + torch.zeros(1).to(low))
        weights, inside = torch.zeros(count, size).to(low), (at >= 0) & (at <= size - 1)
        for i in range(count):
            if inside[i] and method == "nearest":
                weights[i, int(torch.floor(at[i] + 0.5))] = 1
            elif inside[i]:
                weights[i, int(torch.floor(at[i]))] += 1 - (at[i] - torch.floor(at[i]))
                weights[i, int(torch.ceil(at[i]))] += at[i] - torch.floor(at[i])
        return weights, inside

    out = []
    for (y1, x1, y2, x2), index in zip(boxes, box_ind):
        rows, down = axis(y1, y2, crop_size[0], height)
        columns, across = axis(x1, x2, crop_size[1], width)
        value = torch.einsum("iy,jx,yxc->ijc", rows, columns, image[int(index)])
        outside = ~(down[:, None] & across[None, :])
        out.append(torch.where(outside[..., None], torch.full_like(value, extrapolation_value), value))
    shape = (0, *crop_size, image.shape[3])
    return torch.stack(out) if out else image.new_zeros(shape) + 0 * image.sum()


def crop_and_resize(w):
    ordinary = [[0.1, 0.2, 0.7, 0.9], [0.3, 0.0, 0.95, 0.5]]
    corners = [[0.0, 0.0, 1.0, 1.0], [0.25, 0.25, 0.75, 0.75], [-0.2, 0.5, 0.6, 1.2], [1.0, 1.0, 0.0, 0.0],
               [0.5, 0.1, 0.5, 0.1], [2.0, 2.0, 3.0, 3.0], [-1e3, -1e3, 1e3, 1e3]]
    # Recorded from TensorFlow in single precision on these boxes; the definition above must agree.
    recorded = np.load(RECORDED / "tensorflow_crop_and_resize.npz")
    x, at, index = (torch.from_numpy(recorded[key]) for key in ("image", "boxes", "box_ind"))
    for method in ("bilinear", "nearest"):
        for size in ((3, 4), (1, 1), (7, 7)):
            name = f"{method}_{size[0]}x{size[1]}"
            got, gradient = recorded[name], recorded[f"{name}.grad"]
            image = x.clone().requires_grad_(True)
            ours = crop(image, at, index, size, method, 0.5)
            assert np.abs(ours.detach().numpy() - got).max() < 2e-6, name
            (ours * torch.from_numpy(got)).sum().backward()
            assert np.abs(image.grad.numpy() - gradient).max() < 1e-5, name
            w.put("crop_and_resize", f"tensorflow_{name}", {
                "in.image": recorded["image"], "in.boxes": recorded["boxes"], "in.box_ind": recorded["box_ind"],
                "out.output": got, "gradout.output": got, "grad.in.image": gradient,
            }, {"crop_size": list(size), "method": method, "extrapolation_value": 0.5},
                f"tensorflow {recorded['version']}", 1e-5, 1e-5)

    def add(name, shape, rows, size, dtype="float32", **args):
        w.start("crop_and_resize", name)
        boxes = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
        inputs = {"image": w.randn(*shape), "boxes": boxes, "box_ind": torch.arange(len(rows)) % max(shape[0], 1)}
        run = lambda i, _: {"output": crop(i["image"], i["boxes"], i["box_ind"], size, **args)}
        w.case("crop_and_resize", name, run, inputs, grads=["in.image"], args=args | {"crop_size": list(size)},
               ref="TensorFlow's definition in torch, agreeing with TensorFlow", **close(dtype))

    add("7x7", (2, 9, 11, 3), ordinary, (7, 7))
    add("corners_f64", (2, 5, 6, 2), corners, (3, 4), dtype="float64")
    add("nearest_f64", (2, 5, 6, 2), corners, (4, 3), dtype="float64", method="nearest")
    add("one_pixel", (1, 1, 1, 2), corners[:2], (2, 2))
    add("batch9", (9, 4, 5, 1), ordinary * 5, (2, 3))
    add("no_boxes", (1, 4, 5, 2), [], (2, 3))
    inputs = {"image": w.randn(1, 4, 4, 1), "boxes": torch.tensor(ordinary), "box_ind": torch.tensor([0, 0])}
    for name, change, args, message in [
        ("error_no_such_picture", {"box_ind": torch.tensor([0, 1])}, {}, "crop_and_resize: box_ind"),
        ("error_box_ind", {"box_ind": torch.tensor([0])}, {}, "crop_and_resize: box_ind"),
        ("error_five_columns", {"boxes": torch.zeros(2, 5)}, {}, "crop_and_resize: boxes"),
        ("error_nan_box", {"boxes": torch.full((2, 4), float("nan"))}, {}, "crop_and_resize: boxes"),
        ("error_crop_size", {}, {"crop_size": [0, 3]}, "crop_and_resize: crop_size"),
    ]:
        w.error("crop_and_resize", name, inputs | change, {"crop_size": [2, 2]} | args, message)
