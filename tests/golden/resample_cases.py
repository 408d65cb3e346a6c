"""Cases of pooling, resizing and sampling: where an output pixel reads between or over input pixels."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision

from caselib import TORCH, TORCHVISION

RECORDED = Path(__file__).resolve().parent / "recorded"
CLAMPED = f"the border rule of MXNet 1.x's DeformableConvolution, written in {TORCH}"


def close(dtype, rtol=1e-5, atol=1e-5):
    """Tolerances of a case: `f64` ones are about formulas only."""
    return {"dtype": dtype} | ({"rtol": rtol, "atol": atol} if dtype == "float32" else {"rtol": 1e-11, "atol": 1e-11})


def avg_pool2d(w):
    def add(name, x, kernel_size, layout=None, dtype="float32", **args):
        w.start("avg_pool2d", name)
        values = w.randn(*x) if isinstance(x, tuple) else x
        shown = {"kernel_size": kernel_size, **args} | ({"layout": layout} if layout else {})
        w.case("avg_pool2d", name, lambda i, _: {"output": F.avg_pool2d(i["input"], kernel_size, **args)},
               {"input": values}, args=shown, **close(dtype, 1e-6, 1e-6))

    add("2x2", (2, 3, 6, 8), 2)
    add("2x2_odd", (2, 3, 7, 5), 2)
    add("3x3_stride2_pad1", (2, 3, 8, 8), 3, stride=2, padding=1)
    add("3x3_stride1_pad1_inside", (3, 2, 6, 7), 3, stride=1, padding=1, count_include_pad=False)
    add("kernel_3x2_stride_2x1", (1, 2, 7, 6), [3, 2], stride=[2, 1], padding=[1, 0])
    add("ceil_mode", (1, 2, 8, 7), 3, stride=2, ceil_mode=True)
    add("ceil_mode_pad", (1, 2, 8, 6), 3, stride=2, padding=1, ceil_mode=True)
    add("ceil_mode_pad_inside", (1, 2, 8, 6), 3, stride=2, padding=1, ceil_mode=True, count_include_pad=False)
    # The last window would start in the padding and is dropped.
    add("ceil_mode_dropped", (1, 1, 5, 5), 2, stride=3, padding=1, ceil_mode=True)
    add("divisor", (1, 2, 7, 6), 3, stride=2, padding=1, divisor_override=4)
    add("divisor_ceil_mode", (1, 2, 7, 6), 2, stride=2, ceil_mode=True, divisor_override=1)
    add("kernel_is_input", (9, 1, 3, 4), [3, 4])
    add("empty_batch", (0, 3, 6, 6), 2)
    infinite = torch.arange(36, dtype=torch.float64).reshape(1, 1, 6, 6)
    infinite[0, 0, 1, 1], infinite[0, 0, 4, 5], infinite[0, 0, 4, 0] = float("inf"), -float("inf"), float("nan")
    add("infinities", infinite, 2)
    add("channels_last", (2, 3, 6, 7), 3, stride=2, padding=1, layout="channels_last")
    add("sliced", (2, 3, 6, 7), 2, layout="sliced")
    add("f64", (2, 3, 7, 6), 3, stride=2, padding=1, count_include_pad=False, dtype="float64")
    x = {"input": w.randn(1, 1, 4, 4)}
    w.error("avg_pool2d", "error_padding", x, {"kernel_size": 2, "padding": 2}, "avg_pool2d: padding")
    w.error("avg_pool2d", "error_kernel_zero", x, {"kernel_size": 0}, "avg_pool2d: kernel_size")
    w.error("avg_pool2d", "error_divisor", x, {"kernel_size": 2, "divisor_override": 0}, "divisor_override")
    w.error("avg_pool2d", "error_kernel_beyond_input", x, {"kernel_size": 5}, "avg_pool2d: input")


def interpolate(w):
    def add(name, x, layout=None, dtype="float32", native=False, **args):
        w.start("interpolate", name)
        values = w.randn(*x) if isinstance(x, tuple) else x
        shown = dict(args) | ({"layout": layout} if layout else {})
        w.case("interpolate", name, lambda i, _: {"output": F.interpolate(i["input"], **args)}, {"input": values},
               args=shown, native=native, **close(dtype, 1e-5, 4e-6))

    add("nearest_x2", (2, 3, 5, 4), scale_factor=2)
    add("nearest_size_odd", (2, 3, 7, 5), size=[9, 13])
    add("nearest_shrink", (1, 2, 11, 9), size=[4, 3])
    add("nearest_factor", (1, 2, 7, 9), scale_factor=[1.5, 0.6])
    add("nearest_factor_recompute", (1, 2, 7, 9), scale_factor=[1.5, 0.6], recompute_scale_factor=True)
    # Rows and columns where the ratio times the index is close to a whole number.
    add("nearest_rounding", torch.arange(49.0 * 3).double().reshape(1, 1, 49, 3), size=[147, 7], native=True)
    add("bilinear_x2", (2, 3, 5, 4), scale_factor=2, mode="bilinear", align_corners=False)
    add("bilinear_x2_aligned", (2, 3, 5, 4), scale_factor=2, mode="bilinear", align_corners=True)
    add("bilinear_odd", (3, 2, 7, 5), size=[10, 3], mode="bilinear", align_corners=False)
    add("bilinear_odd_aligned", (3, 2, 7, 5), size=[10, 3], mode="bilinear", align_corners=True)
    add("bilinear_one_pixel_in", (2, 3, 1, 1), size=[3, 4], mode="bilinear", align_corners=True)
    add("bilinear_one_pixel_out", (2, 3, 4, 5), size=[1, 1], mode="bilinear", align_corners=True)
    add("bilinear_factor", (1, 2, 5, 9), scale_factor=[1.5, 0.7], mode="bilinear", align_corners=False)
    add("bilinear_factor_recompute", (1, 2, 5, 9), scale_factor=[1.5, 0.7], mode="bilinear", align_corners=False,
        recompute_scale_factor=True)
    # The size stays, the factor does not say 1: a copy.
    add("bilinear_factor_same_size", (1, 2, 5, 4), scale_factor=1.1, mode="bilinear", align_corners=False)
    add("antialias_shrink", (2, 3, 13, 11), size=[5, 4], mode="bilinear", align_corners=False, antialias=True)
    add("antialias_shrink_aligned", (1, 2, 13, 11), size=[5, 4], mode="bilinear", align_corners=True, antialias=True)
    add("antialias_mixed", (1, 2, 12, 5), size=[5, 9], mode="bilinear", align_corners=False, antialias=True)
    add("antialias_one_axis", (1, 2, 12, 5), size=[12, 2], mode="bilinear", align_corners=False, antialias=True)
    add("antialias_factor", (1, 2, 9, 10), scale_factor=[0.6, 1.3], mode="bilinear", align_corners=False,
        antialias=True)
    add("antialias_one_pixel", (1, 2, 9, 10), size=[1, 1], mode="bilinear", align_corners=False, antialias=True)
    add("empty_batch", (0, 3, 4, 4), size=[6, 3], mode="bilinear", align_corners=False)
    infinite = torch.arange(24, dtype=torch.float64).reshape(1, 1, 4, 6)
    infinite[0, 0, 1, 1], infinite[0, 0, 3, 5] = float("inf"), float("nan")
    add("infinities", infinite, size=[7, 9], mode="bilinear", align_corners=False)
    add("infinities_nearest", infinite, size=[7, 9])
    add("channels_last", (2, 5, 6, 7), size=[9, 4], mode="bilinear", align_corners=False, layout="channels_last")
    add("transposed", (2, 3, 6, 7), size=[4, 9], layout="transposed")
    add("f64", (2, 3, 7, 6), size=[9, 4], mode="bilinear", align_corners=True, dtype="float64")
    add("f64_antialias", (1, 2, 9, 11), size=[4, 5], mode="bilinear", align_corners=False, antialias=True,
        dtype="float64")
    x = {"input": w.randn(1, 1, 4, 4)}
    w.error("interpolate", "error_size_zero", x, {"size": [0, 2]}, "interpolate: size")
    w.error("interpolate", "error_factor", x, {"scale_factor": 0.2}, "interpolate: scale_factor")
    w.error("interpolate", "error_nearest_aligned", x, {"size": 2, "align_corners": True}, "align_corners")
    w.error("interpolate", "error_nearest_antialias", x, {"size": 2, "antialias": True}, "antialias")
    w.error("interpolate", "error_no_pixels", {"input": w.randn(1, 1, 0, 4)}, {"size": 2}, "interpolate: input")


def grid_sample(w):
    def add(name, x, grid, layout=None, dtype="float32", native=False, reach=1.2, grads=None, **args):
        w.start("grid_sample", name)
        values = w.randn(*x) if isinstance(x, tuple) else x
        places = w.rand(values.shape[0], *grid, 2, low=-reach, high=reach) if isinstance(grid, tuple) else grid
        shown = dict(args) | ({"layout": layout} if layout else {})
        w.case("grid_sample", name, lambda i, _: {"output": F.grid_sample(i["input"], i["grid"], **args)},
               {"input": values, "grid": places}, args=shown, native=native, grads=grads,
               **close(dtype, 2e-5, 2e-5))

    add("bilinear_zeros", (2, 3, 6, 7), (5, 4), align_corners=False)
    add("bilinear_zeros_aligned", (2, 3, 6, 7), (5, 4), align_corners=True)
    add("bilinear_border", (2, 3, 6, 7), (5, 4), padding_mode="border", align_corners=False)
    add("bilinear_border_aligned", (1, 3, 5, 4), (7, 3), padding_mode="border", align_corners=True)
    add("bilinear_reflection", (2, 3, 6, 7), (5, 4), padding_mode="reflection", align_corners=False, reach=4.0)
    add("bilinear_reflection_aligned", (1, 3, 5, 4), (7, 3), padding_mode="reflection", align_corners=True, reach=4.0)
    add("nearest_zeros", (2, 3, 6, 7), (5, 4), mode="nearest", align_corners=False)
    add("nearest_border_aligned", (1, 2, 6, 7), (5, 4), mode="nearest", padding_mode="border", align_corners=True)
    add("nearest_reflection", (1, 2, 6, 7), (5, 4), mode="nearest", padding_mode="reflection", align_corners=False,
        reach=3.0)
    # Places halfway between pixels, which round to the even one.
    halves = torch.tensor([-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0]).double()
    add("nearest_halves", (1, 2, 4, 4), torch.stack(torch.meshgrid(halves, halves, indexing="ij"), -1)[None],
        mode="nearest", align_corners=False)
    # The centres and edges of pixels: the derivative is the one to the right.
    add("bilinear_centres", (1, 2, 4, 4), torch.stack(torch.meshgrid(halves, halves, indexing="ij"), -1)[None],
        align_corners=False)
    add("one_pixel", (3, 2, 1, 1), (3, 3), align_corners=True, padding_mode="reflection")
    add("wide_channels", (1, 19, 5, 6), (4, 4), align_corners=False)
    add("batch9_channels1", (9, 1, 4, 5), (2, 3), align_corners=False)
    add("empty_batch", (0, 3, 4, 4), (2, 3), align_corners=False)
    far = torch.tensor([1e20, 0.1, -1e20, 0.3, 5.0, 0.0, -7.3, 0.2, 1e9, -1e9]).double().reshape(1, 1, 5, 2)
    add("far_outside", (1, 2, 3, 4), far, align_corners=False)
    add("far_outside_border", (1, 2, 3, 4), far, padding_mode="border", align_corners=False)
    inf, nan = float("inf"), float("nan")
    nowhere = torch.tensor([nan, 0.0, 0.0, nan, inf, 0.0, 0.0, -inf, 0.2, 0.1]).double().reshape(1, 1, 5, 2)
    add("no_place", (1, 2, 3, 4), nowhere, align_corners=False)
    add("no_place_nearest", (1, 2, 3, 4), nowhere, mode="nearest", align_corners=False)
    # Forward only: the reference's backward reads outside of the map here.
    add("no_place_border", (1, 2, 3, 4), nowhere, padding_mode="border", align_corners=False, grads=[])
    add("no_place_reflection", (1, 2, 3, 4), nowhere, padding_mode="reflection", align_corners=False, grads=[])
    add("channels_last", (2, 5, 6, 7), (3, 4), align_corners=False, layout="channels_last")
    add("transposed", (2, 3, 6, 7), (3, 4), align_corners=False, layout="transposed")
    add("f64", (2, 3, 6, 7), (5, 4), padding_mode="reflection", align_corners=False, dtype="float64", reach=3.0)
    x = w.randn(1, 1, 4, 4)
    w.error("grid_sample", "error_grid_width", {"input": x, "grid": w.rand(1, 2, 2, 3)}, {}, "grid_sample: grid")
    w.error("grid_sample", "error_batch", {"input": x, "grid": w.rand(2, 2, 2, 2)}, {}, "grid_sample: grid")
    w.error("grid_sample", "error_no_pixels", {"input": w.randn(1, 1, 0, 4), "grid": w.rand(1, 2, 2, 2)}, {},
            "grid_sample: input")


def clamped_deform_conv2d(x, offset, weight, bias=None, mask=None, stride=(1, 1), padding=(0, 0), dilation=(1, 1)):
    """Deformable convolution with the border rule of MXNet 1.x's `deformable_im2col`.

    A position counts if 0 <= y < H and 0 <= x < W; one beyond the centre of the last row or column reads that row
    or column.
    """
    n, c, height, width = x.shape
    o, group_in, kh, kw = weight.shape
    taps, (oh, ow) = kh * kw, offset.shape[2:]
    shared = offset.shape[1] // (2 * taps)
    moved = offset.reshape(n, shared, taps, 2, oh, ow)

    def positions(axis, count, size):
        tap = torch.arange(taps) // kw if axis == 0 else torch.arange(taps) % kw
        window = torch.arange(count) * stride[axis] - padding[axis]
        window = window.reshape((count, 1) if axis == 0 else (1, count))
        at = moved[:, :, :, axis] + window + (tap * dilation[axis]).reshape(taps, 1, 1)
        inside = (at >= 0) & (at < size)
        at = torch.where(at >= size - 1, torch.full_like(at, size - 1), at)
        low = at.detach().floor().clamp(0, size - 1)
        return inside, low, (low + 1).clamp(max=size - 1), at - low

    inside_y, y0, y1, dy = positions(0, oh, height)
    inside_x, x0, x1, dx = positions(1, ow, width)
    pixels = x.reshape(n, shared, c // shared, height * width)
    columns = 0.0
    for row, wy in ((y0, 1 - dy), (y1, dy)):
        for column, wx in ((x0, 1 - dx), (x1, dx)):
            index = (row * width + column).long().reshape(n, shared, 1, -1).expand(-1, -1, c // shared, -1)
            value = torch.gather(pixels, 3, index).reshape(n, shared, c // shared, taps, oh, ow)
            columns = columns + value * (wy * wx * (inside_y & inside_x)).unsqueeze(2)
    if mask is not None:
        columns = columns * mask.reshape(n, shared, 1, taps, oh, ow)
    groups = c // group_in
    columns = columns.reshape(n, groups, group_in, taps, oh, ow)
    weight = weight.reshape(groups, o // groups, group_in, taps)
    out = torch.einsum("ngckyx,gock->ngoyx", columns, weight).reshape(n, o, oh, ow)
    return out if bias is None else out + bias.reshape(-1, 1, 1)


def deform_conv2d(w):
    pairs = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}

    def add(name, x, weight, offset_groups=1, bias=True, mask=True, reach=0.8, offset=None, layout=None,
            border="zeros", dtype="float32", **args):
        w.start("deform_conv2d", name)
        spread = pairs | {k: tuple(v) if isinstance(v, list) else (v, v) for k, v in args.items()}
        windows = [(x[2 + a] + 2 * spread["padding"][a] - spread["dilation"][a] * (weight[2 + a] - 1) - 1)
                   // spread["stride"][a] + 1 for a in (0, 1)]
        taps = weight[2] * weight[3]
        inputs = {
            "input": w.randn(*x),
            "offset": w.randn(x[0], 2 * offset_groups * taps, *windows, std=reach),
            "weight": w.randn(*weight, std=(2.0 / (weight[1] * taps)) ** 0.5),
        }
        if offset is not None:
            inputs["offset"][:] = offset
        if bias:
            inputs["bias"] = w.randn(weight[0])
        if mask:
            inputs["mask"] = w.rand(x[0], offset_groups * taps, *windows)
        reference = {"zeros": torchvision.ops.deform_conv2d, "clamped": clamped_deform_conv2d}[border]
        shown = dict(args) | ({"border": border} if border != "zeros" else {}) | ({"layout": layout} if layout else {})
        w.case("deform_conv2d", name,
               lambda i, _: {"output": reference(i["input"], i["offset"], i["weight"], bias=i.get("bias"),
                                                 mask=i.get("mask"), **spread)},
               inputs, args=shown, ref=TORCHVISION if border == "zeros" else CLAMPED, **close(dtype, 2e-5, 2e-5))

    add("3x3", (2, 4, 6, 5), (4, 4, 3, 3), padding=1)
    add("3x3_plain", (2, 4, 6, 5), (4, 4, 3, 3), bias=False, mask=False, padding=1)
    add("bias_without_mask", (1, 4, 5, 6), (3, 4, 3, 3), mask=False)
    add("offset_groups", (1, 8, 6, 5), (4, 8, 3, 3), offset_groups=4, padding=2, dilation=2)
    add("groups", (2, 6, 5, 6), (4, 3, 3, 3), padding=1, bias=False)
    add("groups_across_offset_groups", (1, 6, 6, 7), (6, 2, 3, 3), offset_groups=2, padding=1)
    add("depthwise", (1, 6, 5, 6), (6, 1, 3, 3), offset_groups=3, padding=1, mask=False)
    add("stride_padding_dilation", (1, 3, 11, 12), (4, 3, 3, 2), stride=[2, 3], padding=[2, 1], dilation=[1, 2])
    add("1x1", (2, 5, 4, 7), (3, 5, 1, 1))
    add("1x5_odd", (1, 3, 5, 9), (2, 3, 1, 5), padding=[0, 2])
    add("batch9", (9, 2, 3, 4), (2, 2, 2, 2))
    add("wide_channels", (1, 32, 4, 5), (16, 32, 3, 3), padding=1, bias=False)
    add("empty_batch", (0, 4, 5, 5), (2, 4, 3, 3), padding=1)
    # Every position between the last pixels and the zeros around.
    add("far_reach", (1, 2, 4, 5), (2, 2, 3, 3), reach=4.0, padding=1)
    add("far_outside", (1, 2, 4, 5), (2, 2, 3, 3), offset=1e8, padding=1)
    add("whole_steps", (1, 2, 4, 5), (2, 2, 3, 3), offset=-1.0, padding=1)
    add("channels_last", (2, 5, 6, 5), (3, 5, 3, 3), padding=1, layout="channels_last")
    add("transposed", (2, 3, 6, 5), (3, 3, 3, 3), padding=1, layout="transposed")
    add("f64", (2, 4, 6, 5), (4, 2, 3, 3), offset_groups=2, padding=1, stride=2, dtype="float64")
    add("clamped", (2, 4, 6, 5), (4, 4, 3, 3), padding=1, border="clamped")
    add("clamped_plain_groups", (1, 8, 6, 5), (4, 4, 3, 3), offset_groups=4, bias=False, mask=False, padding=2,
        dilation=2, border="clamped")
    add("clamped_stride_padding", (1, 3, 11, 9), (4, 3, 3, 2), stride=[2, 3], padding=[2, 1], border="clamped")
    add("clamped_far_reach", (1, 2, 4, 5), (2, 2, 3, 3), reach=4.0, padding=1, border="clamped")
    add("clamped_one_pixel", (1, 2, 1, 1), (2, 2, 3, 3), reach=0.5, padding=1, border="clamped")
    add("clamped_f64", (1, 4, 6, 5), (4, 2, 3, 3), offset_groups=2, padding=1, border="clamped", dtype="float64")

    # What MXNet itself computed, with the loss `sum(y * y)`: one image; every second window of two images; a
    # wider map. The reference above must agree before its other cases are worth anything.
    with np.load(RECORDED / "mxnet_deformable_convolution.npz") as file:
        recorded = {key: value for key, value in file.items()}

    def from_mxnet(part, stride, gradient):
        x, offset, weight, y = (recorded[f"{part}.{key}"] for key in ("x", "offset", "weight", "y"))
        tensors = {"in.input": x, "in.offset": offset, "in.weight": weight, "out.output": y}
        leaves = [torch.from_numpy(t).double().requires_grad_(True) for t in (x, offset)]
        ours = clamped_deform_conv2d(*leaves, torch.from_numpy(weight).double(), stride=(stride, stride),
                                     padding=(2, 2), dilation=(2, 2))
        assert (ours - torch.from_numpy(y)).abs().max() < 1e-5
        if gradient:
            tensors["gradout.output"] = 2.0 * y
            tensors[f"grad.in.{gradient}"] = want = recorded[f"{part}.grad_{gradient.replace('input', 'x')}"]
            got = torch.autograd.grad((ours * ours).sum(), leaves[0 if gradient == "input" else 1])[0]
            assert (got - torch.from_numpy(want)).abs().max() < 5e-5
        args = {"padding": 2, "dilation": 2, "stride": stride, "border": "clamped"}
        w.put("deform_conv2d", f"mxnet_{part}", tensors, args, "MXNet 1.9.1 DeformableConvolution", 2e-5, 3e-5)

    from_mxnet("image", 1, "input")
    from_mxnet("half", 2, "offset")
    from_mxnet("wide", 2, None)

    w.start("deform_conv2d", "error")
    inputs = {"input": w.randn(1, 4, 5, 5), "offset": w.randn(1, 18, 3, 3), "weight": w.randn(2, 4, 3, 3)}
    for name, change, args, message in [
        ("error_offset_size", {"offset": w.randn(1, 18, 5, 5)}, {}, "deform_conv2d: offset"),
        ("error_offset_channels", {"offset": w.randn(1, 17, 3, 3)}, {}, "deform_conv2d: offset"),
        ("error_offset_groups", {"offset": w.randn(1, 54, 3, 3)}, {}, "deform_conv2d: offset"),
        ("error_mask", {"mask": w.randn(1, 18, 3, 3)}, {}, "deform_conv2d: mask"),
        ("error_weight", {"weight": w.randn(2, 3, 3, 3)}, {}, "deform_conv2d: weight"),
        ("error_stride_zero", {}, {"stride": 0}, "deform_conv2d: stride"),
    ]:
        w.error("deform_conv2d", name, inputs | change, args, message, ref=TORCHVISION)
