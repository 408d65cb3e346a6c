"""Cases of pooling, resizing and sampling: where an output pixel reads between or over input pixels."""

import torch
import torch.nn.functional as F


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
