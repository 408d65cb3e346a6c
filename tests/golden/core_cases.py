"""Cases of the operations that PyTorch has: layers, losses, selection."""

import torch
import torch.nn.functional as F


def conv2d(w):
    def add(name, x, weight, bias=True, grads=None, dtype="float32", layout=None, atol=1e-5, **args):
        w.start("conv2d", name)
        fan_in = weight[1] * weight[2] * weight[3]
        inputs = {"input": w.randn(*x), "weight": w.randn(*weight, std=(2.0 / fan_in) ** 0.5)}
        if bias:
            inputs["bias"] = w.randn(weight[0])
        shown = dict(args)
        if layout:
            shown["layout"] = layout
        w.case("conv2d", name, lambda i, _: {"output": F.conv2d(i["input"], i["weight"], i.get("bias"), **args)},
               inputs, args=shown, grads=grads, dtype=dtype, rtol=1e-5 if dtype == "float32" else 1e-11,
               atol=atol if dtype == "float32" else 1e-11)

    add("3x3", (2, 3, 8, 8), (4, 3, 3, 3), padding=1)
    add("3x3_no_bias", (2, 3, 8, 8), (4, 3, 3, 3), bias=False, padding=1)
    add("3x3_no_padding", (1, 4, 7, 9), (5, 4, 3, 3))
    add("1x1", (3, 8, 5, 5), (6, 8, 1, 1))
    add("1x1_stride2_odd", (2, 8, 7, 5), (6, 8, 1, 1), stride=2)
    add("3x3_stride2_even", (2, 3, 8, 10), (4, 3, 3, 3), stride=2, padding=1)
    add("3x3_stride2_odd", (2, 3, 9, 7), (4, 3, 3, 3), stride=2, padding=1)
    # Height and width leave different remainders.
    add("3x3_stride2_mixed", (2, 3, 8, 7), (4, 3, 3, 3), stride=2, padding=1)
    add("stride_2_3", (1, 2, 11, 13), (3, 2, 3, 3), stride=[2, 3], padding=[0, 1])
    add("stride3_rest", (1, 2, 12, 14), (3, 2, 3, 3), stride=3)
    add("kernel_1x5", (2, 3, 6, 9), (4, 3, 1, 5), padding=[0, 2])
    add("kernel_5x2", (2, 3, 9, 6), (4, 3, 5, 2), padding=[2, 1])
    add("7x7_stem", (2, 3, 20, 17), (8, 3, 7, 7), bias=False, stride=2, padding=3)
    add("11x11_stride4", (1, 3, 31, 29), (4, 3, 11, 11), stride=4, padding=2)
    add("dilation2", (2, 3, 9, 9), (4, 3, 3, 3), dilation=2, padding=2)
    add("dilation_2_3_stride2", (1, 3, 13, 12), (4, 3, 3, 3), dilation=[2, 3], stride=2, padding=[1, 3])
    add("groups2", (2, 6, 6, 7), (4, 3, 3, 3), groups=2, padding=1)
    add("depthwise", (2, 6, 7, 6), (6, 1, 3, 3), groups=6, padding=1)
    add("depthwise_multiplier_stride2", (1, 4, 9, 8), (8, 1, 3, 3), groups=4, stride=2, padding=1)
    add("groups_dilation_stride", (2, 6, 11, 10), (9, 2, 3, 3), groups=3, dilation=2, stride=2, padding=1)
    add("kernel_is_input", (2, 3, 4, 5), (6, 3, 4, 5))
    add("output_1x1_channels1", (1, 1, 3, 3), (1, 1, 3, 3))
    add("batch17", (17, 2, 5, 5), (3, 2, 3, 3), padding=1)
    add("wide_channels", (1, 64, 5, 6), (48, 64, 3, 3), padding=1)
    add("padding_beyond_kernel", (1, 2, 3, 3), (2, 2, 2, 2), padding=3)
    add("empty_batch", (0, 3, 6, 6), (4, 3, 3, 3), padding=1)
    add("transposed", (2, 3, 8, 6), (4, 3, 3, 3), padding=1, layout="transposed")
    add("channels_last", (2, 3, 7, 6), (4, 3, 3, 3), stride=2, padding=1, layout="channels_last")
    add("sliced", (2, 4, 6, 7), (4, 2, 3, 3), groups=2, layout="sliced")
    add("f64_mixed", (2, 4, 9, 8), (6, 2, 3, 3), groups=2, stride=2, padding=1, dtype="float64")

    w.start("conv2d", "error_channels")
    w.error("conv2d", "error_channels", {"input": w.randn(1, 4, 5, 5), "weight": w.randn(2, 3, 3, 3)}, {}, "weight")
    w.error("conv2d", "error_groups", {"input": w.randn(1, 4, 5, 5), "weight": w.randn(4, 1, 3, 3)},
            {"groups": 3}, "groups")
    w.error("conv2d", "error_kernel_beyond_input", {"input": w.randn(1, 2, 3, 3), "weight": w.randn(2, 2, 5, 5)},
            {}, "kernel")
    w.error("conv2d", "error_stride_zero", {"input": w.randn(1, 2, 3, 3), "weight": w.randn(2, 2, 1, 1)},
            {"stride": 0}, "stride")
    w.error("conv2d", "error_rank", {"input": w.randn(2, 3, 3), "weight": w.randn(2, 2, 1, 1)}, {}, "input")


def conv_transpose2d(w):
    def add(name, x, weight, bias=True, dtype="float32", layout=None, **args):
        w.start("conv_transpose2d", name)
        inputs = {"input": w.randn(*x), "weight": w.randn(*weight, std=(weight[0] * weight[2] * weight[3]) ** -0.5)}
        if bias:
            inputs["bias"] = w.randn(weight[1] * args.get("groups", 1))
        shown = dict(args)
        if layout:
            shown["layout"] = layout
        w.case("conv_transpose2d", name,
               lambda i, _: {"output": F.conv_transpose2d(i["input"], i["weight"], i.get("bias"), **args)},
               inputs, args=shown, dtype=dtype, rtol=1e-5 if dtype == "float32" else 1e-12,
               atol=2e-5 if dtype == "float32" else 1e-12)

    add("3x3", (2, 4, 5, 6), (4, 3, 3, 3), padding=1)
    add("4x4_stride2_pad1", (2, 5, 6, 4), (5, 18, 4, 4), stride=2, padding=1)
    add("2x2_stride2", (1, 17, 5, 3), (17, 4, 2, 2), stride=2)
    add("3x3_stride2_output_padding", (2, 3, 5, 7), (3, 4, 3, 3), stride=2, padding=1, output_padding=1)
    add("output_padding_one_axis", (1, 3, 4, 4), (3, 2, 3, 3), stride=[2, 3], padding=1, output_padding=[1, 0])
    add("dilation2", (1, 3, 5, 4), (3, 5, 3, 3), dilation=2, padding=1)
    add("stride3_kernel2", (1, 2, 3, 4), (2, 3, 2, 2), stride=3)
    add("groups2", (2, 6, 4, 5), (6, 4, 3, 3), groups=2, stride=2, padding=1)
    add("depthwise", (2, 5, 4, 4), (5, 1, 4, 4), groups=5, stride=2, padding=1)
    add("1x1_no_bias", (3, 20, 3, 3), (20, 33, 1, 1), bias=False)
    add("one_pixel", (4, 3, 1, 1), (3, 6, 4, 4), stride=1)
    add("float64", (2, 4, 4, 5), (4, 6, 4, 4), dtype="float64", stride=2, padding=1)
    add("channels_last", (2, 4, 5, 6), (4, 3, 3, 3), layout="channels_last", padding=1)
    add("transposed", (2, 4, 5, 6), (4, 3, 3, 3), layout="transposed", stride=2)
    add("empty_batch", (0, 4, 5, 6), (4, 3, 3, 3), stride=2)
    w.error("conv_transpose2d", "error_channels", {"input": w.randn(1, 3, 4, 4), "weight": w.randn(2, 2, 3, 3)}, {},
            "weight")
    w.error("conv_transpose2d", "error_output_padding",
            {"input": w.randn(1, 2, 4, 4), "weight": w.randn(2, 2, 3, 3)}, {"output_padding": 1}, "output_padding")


def max_pool2d(w):
    def add(name, x, kernel_size, layout=None, make=None, **args):
        w.start("max_pool2d", name)
        values = make(w) if make else w.randn(*x)
        shown = {"kernel_size": kernel_size, **args}
        if layout:
            shown["layout"] = layout
        w.case("max_pool2d", name, lambda i, _: {"output": F.max_pool2d(i["input"], kernel_size, **args)},
               {"input": values}, args=shown, rtol=0.0,
               # Where windows overlap, the order of a sum decides the last bit of the gradient.
               atol=0.0 if args.get("stride", kernel_size) == kernel_size else 1e-6)

    add("2x2", (2, 3, 6, 8), 2)
    add("2x2_odd", (2, 3, 7, 5), 2)
    add("3x3_stride2_pad1", (2, 3, 8, 8), 3, stride=2, padding=1)
    add("3x3_stride2_pad1_odd", (2, 3, 9, 7), 3, stride=2, padding=1)
    add("3x3_stride1", (1, 2, 6, 6), 3, stride=1, padding=1)
    add("kernel_3x2_stride_2x1", (1, 2, 7, 6), [3, 2], stride=[2, 1])
    add("dilation2", (1, 2, 9, 8), 3, stride=2, dilation=2, padding=1)
    add("ceil_mode", (1, 2, 8, 7), 3, stride=2, ceil_mode=True)
    # The last window would start in the padding and is dropped.
    add("ceil_mode_dropped", (1, 1, 5, 5), 2, stride=3, padding=1, ceil_mode=True)
    add("batch9_channels1", (9, 1, 4, 4), 2)
    add("empty_batch", (0, 3, 6, 6), 2)
    # Equal values: the first one in row order takes the whole gradient.
    add("ties", None, 3, stride=2, padding=1, make=lambda w: w.randint(0, 2, 2, 3, 9, 9).double())
    add("ties_constant", None, 2, make=lambda w: torch.full((1, 2, 4, 4), 0.5, dtype=torch.float64))
    add("all_negative_padded", None, 3, stride=2, padding=1, make=lambda w: -1.0 - w.rand(1, 2, 6, 6))

    def with_infinity(w):
        x = w.randn(1, 2, 6, 6)
        x[0, 0, 1, 1], x[0, 1, :3, :3] = float("inf"), float("-inf")
        return x

    add("infinities", None, 3, stride=2, padding=1, make=with_infinity)

    def with_nan(w):
        x = w.randn(1, 1, 6, 6)
        x[0, 0, 2, 3] = float("nan")
        return x

    add("nan", None, 2, make=with_nan)
    add("channels_last", (2, 3, 6, 7), 3, stride=2, padding=1, layout="channels_last")
    add("transposed", (2, 3, 6, 7), 2, layout="transposed")
    w.error("max_pool2d", "error_padding", {"input": w.randn(1, 1, 4, 4)}, {"kernel_size": 2, "padding": 2},
            "padding")
    w.error("max_pool2d", "error_kernel_zero", {"input": w.randn(1, 1, 4, 4)}, {"kernel_size": 0}, "kernel")


def adaptive_avg_pool2d(w):
    def add(name, x, output_size, layout=None):
        w.start("adaptive_avg_pool2d", name)
        args = {"output_size": output_size} | ({"layout": layout} if layout else {})
        w.case("adaptive_avg_pool2d", name,
               lambda i, _: {"output": F.adaptive_avg_pool2d(i["input"], output_size)},
               {"input": w.randn(*x)}, args=args, rtol=1e-5, atol=1e-6)

    add("global", (2, 5, 7, 7), 1)
    add("global_1x1_input", (3, 4, 1, 1), 1)
    add("divides", (2, 3, 8, 6), [4, 3])
    add("does_not_divide", (2, 3, 7, 10), [3, 4])
    add("enlarges", (1, 2, 3, 2), [5, 7])
    add("one_row", (1, 3, 6, 9), [1, 4])
    add("empty_batch", (0, 3, 6, 6), 1)
    add("transposed", (2, 3, 7, 5), [2, 3], layout="transposed")
    w.error("adaptive_avg_pool2d", "error_rank", {"input": w.randn(1, 4, 4)}, {"output_size": 1}, "input")
    w.error("adaptive_avg_pool2d", "error_no_pixels", {"input": w.randn(1, 1, 0, 4)}, {"output_size": 1}, "input")


def adaptive_max_pool2d(w):
    def add(name, x, output_size, layout=None, make=None, dtype="float32", divides=False, grads=None):
        w.start("adaptive_max_pool2d", name)
        args = {"output_size": output_size} | ({"layout": layout} if layout else {})
        w.case("adaptive_max_pool2d", name,
               lambda i, _: {"output": F.adaptive_max_pool2d(i["input"], output_size)},
               {"input": make(w) if make else w.randn(*x)}, args=args, dtype=dtype, grads=grads, rtol=0.0,
               # Where bins overlap, the order of a sum decides the last bit of the gradient.
               atol=0.0 if divides else 1e-6)

    add("global", (2, 5, 7, 7), 1, divides=True)
    add("global_1x1_input", (3, 4, 1, 1), 1, divides=True)
    add("divides", (2, 3, 8, 6), [4, 3], divides=True)
    add("does_not_divide", (2, 3, 7, 10), [3, 4])
    add("does_not_divide_f64", (2, 3, 11, 5), [4, 3], dtype="float64")
    add("enlarges", (1, 2, 3, 2), [5, 7])
    add("same_size", (1, 3, 4, 5), [4, 5], divides=True)
    add("one_row", (1, 3, 6, 9), [1, 4])
    add("one_column", (1, 3, 6, 9), [5, 1])
    add("one_pixel_high", (2, 3, 1, 9), [2, 4])
    add("batch9_channels1", (9, 1, 5, 5), 2)
    add("pyramid", (1, 17, 13, 11), 6)
    add("empty_batch", (0, 3, 6, 6), 1)
    add("no_bins", (2, 3, 6, 6), [0, 2], grads=[])
    # Equal values: the first one in row order takes the whole gradient.
    add("ties", None, [3, 4], make=lambda w: w.randint(0, 2, 2, 3, 9, 9).double())
    add("ties_constant", None, 2, make=lambda w: torch.full((1, 2, 4, 4), 0.5, dtype=torch.float64), divides=True)
    add("all_negative", None, 3, make=lambda w: -1.0 - w.rand(1, 2, 7, 7))

    def with_infinity(w):
        x = w.randn(1, 2, 6, 6)
        x[0, 0, 1, 1], x[0, 1, :4, :4] = float("inf"), float("-inf")
        return x

    add("infinities", None, 3, make=with_infinity, divides=True)

    def with_nan(w):
        x = w.randn(1, 2, 6, 6)
        # Of two in a bin, the last one takes the gradient.
        x[0, 0, 2, 3] = x[0, 1, 0, 0] = x[0, 1, 1, 1] = float("nan")
        return x

    add("nan", None, 3, make=with_nan, divides=True)
    add("channels_last", (2, 3, 6, 7), [3, 2], layout="channels_last")
    add("transposed", (2, 3, 7, 5), [2, 3], layout="transposed")
    add("sliced", (2, 3, 7, 5), [2, 3], layout="sliced")
    w.error("adaptive_max_pool2d", "error_rank", {"input": w.randn(1, 4, 4)}, {"output_size": 1}, "input")
    w.error("adaptive_max_pool2d", "error_no_pixels", {"input": w.randn(1, 1, 0, 4)}, {"output_size": 1}, "input")


def batch_norm(w):
    def add(name, x, training, momentum=0.1, eps=1e-5, scale=1.0, mean=0.0, layout=None, dtype="float32",
            grads=None, atol=2e-5, **ranks):
        w.start("batch_norm", name)
        c = x[1]
        inputs = {
            "input": w.randn(*x, std=scale, mean=mean),
            "weight": w.rand(c, low=0.5, high=1.5),
            "bias": w.randn(c),
            "running_mean": w.randn(c, std=0.2),
            "running_var": w.rand(c, low=0.5, high=1.5),
        }

        def run(i, _):
            running_mean, running_var = i["running_mean"].clone(), i["running_var"].clone()
            out = F.batch_norm(i["input"], running_mean, running_var, i["weight"], i["bias"], training, momentum, eps)
            return {"output": out, "running_mean": running_mean, "running_var": running_var}

        args = {"training": training, "momentum": momentum, "eps": eps} | ({"layout": layout} if layout else {}) | ranks
        w.case("batch_norm", name, run, inputs, args=args, dtype=dtype, atol=atol if dtype == "float32" else 1e-11,
               rtol=2e-5 if dtype == "float32" else 1e-11,
               grads=["in.input", "in.weight", "in.bias"] if grads is None else grads)

    add("train", (4, 3, 5, 6), True)
    add("train_odd", (3, 5, 7, 3), True)
    add("train_batch1", (1, 4, 6, 6), True)
    add("train_1x1_map", (8, 3, 1, 1), True)
    add("train_momentum", (4, 3, 4, 4), True, momentum=0.5, eps=1e-3)
    # One-pass variance in f32 loses these digits.
    add("train_large_mean", (4, 3, 6, 6), True, mean=200.0, atol=2e-3)
    add("train_tiny_variance", (4, 3, 6, 6), True, scale=1e-3)
    add("train_channels_last", (3, 4, 5, 5), True, layout="channels_last")
    add("train_f64", (4, 3, 5, 6), True, dtype="float64")
    add("eval", (4, 3, 5, 6), False)
    add("eval_batch1_odd", (1, 7, 3, 5), False, eps=1e-3)
    add("eval_transposed", (2, 3, 4, 6), False, layout="transposed")
    add("eval_empty_batch", (0, 3, 4, 4), False)
    one = {"input": w.randn(1, 2, 1, 1), "weight": torch.ones(2), "bias": torch.zeros(2),
           "running_mean": torch.zeros(2), "running_var": torch.ones(2)}
    w.error("batch_norm", "error_one_value", one, {"training": True}, "value")
    w.error("batch_norm", "error_channels", one | {"input": w.randn(2, 3, 2, 2)}, {"training": False}, "weight")
    # `world_size` ranks share the batch, `shards` pictures each; the reference sees all of it.
    add("ranks2", (4, 3, 5, 6), True, world_size=2)
    add("ranks2_f64", (4, 3, 5, 6), True, dtype="float64", world_size=2)
    add("ranks4", (8, 5, 3, 4), True, momentum=0.3, eps=1e-3, world_size=4)
    add("ranks4_f64", (8, 5, 3, 4), True, momentum=0.3, eps=1e-3, dtype="float64", world_size=4)
    add("ranks2_unequal", (5, 4, 4, 3), True, world_size=2, shards=[1, 4])
    add("ranks2_unequal_f64", (5, 4, 4, 3), True, dtype="float64", world_size=2, shards=[1, 4])
    add("ranks4_unequal", (9, 33, 3, 2), True, world_size=4, shards=[2, 1, 5, 1])
    add("ranks4_unequal_f64", (9, 33, 3, 2), True, dtype="float64", world_size=4, shards=[2, 1, 5, 1])
    add("ranks4_empty_ranks", (4, 3, 4, 4), True, world_size=4, shards=[0, 3, 0, 1])
    add("ranks2_one_value_each", (2, 6, 1, 1), True, dtype="float64", world_size=2)
    add("ranks2_large_mean", (4, 3, 6, 6), True, mean=200.0, atol=2e-3, world_size=2)
    add("ranks2_large_mean_f64", (4, 3, 6, 6), True, mean=200.0, dtype="float64", world_size=2, shards=[3, 1])
    add("ranks2_channels_last", (3, 4, 5, 5), True, layout="channels_last", world_size=2)
    add("ranks2_eval", (4, 3, 5, 6), False, world_size=2)
    w.error("batch_norm", "error_ranks_one_value", one, {"training": True, "world_size": 2}, "value")


def relu(w):
    def add(name, x, layout=None):
        w.start("relu", name)
        w.case("relu", name, lambda i, _: {"output": F.relu(i["input"])}, {"input": x},
               args={"layout": layout} if layout else {}, rtol=0.0, atol=0.0)

    w.start("relu", "plain")
    add("plain", w.randn(2, 3, 5, 7))
    # The derivative at zero is zero.
    add("zeros", torch.tensor([[-1.0, -0.0, 0.0, 1.0], [0.0, 2.0, -3.0, 0.0]], dtype=torch.float64))
    add("special", torch.tensor([float("inf"), -float("inf"), float("nan"), 1e30, -1e30], dtype=torch.float64))
    add("empty", torch.zeros(0, 4, dtype=torch.float64))
    add("transposed", w.randn(3, 5), layout="transposed")


def linear(w):
    def add(name, x, out, bias=True, layout=None, dtype="float32"):
        w.start("linear", name)
        inputs = {"input": w.randn(*x), "weight": w.randn(out, x[-1], std=x[-1] ** -0.5)}
        if bias:
            inputs["bias"] = w.randn(out)
        w.case("linear", name, lambda i, _: {"output": F.linear(i["input"], i["weight"], i.get("bias"))}, inputs,
               args={"layout": layout} if layout else {}, dtype=dtype,
               rtol=1e-5 if dtype == "float32" else 1e-11, atol=1e-5 if dtype == "float32" else 1e-11)

    add("plain", (4, 7), 5)
    add("no_bias", (4, 7), 5, bias=False)
    add("batch1", (1, 128), 10)
    add("many", (65, 33), 17)
    add("rank3", (2, 3, 6), 4)
    add("empty_batch", (0, 6), 4)
    add("transposed", (5, 6), 4, layout="transposed")
    add("f64", (3, 9), 4, dtype="float64")
    w.error("linear", "error_features", {"input": w.randn(2, 3), "weight": w.randn(4, 5)}, {}, "5")


def cross_entropy(w):
    def add(name, shape, weight=False, target=None, scale=1.0, native=False, logits=None, layout=None, rtol=1e-5,
            atol=1e-6, dtype="float32", **args):
        w.start("cross_entropy", name)
        logits = w.randn(*shape, std=scale) if logits is None else logits
        shape = tuple(logits.shape)
        spatial = (shape[0], *shape[2:])
        inputs = {"input": logits, "target": w.randint(0, shape[1], *spatial) if target is None else target}
        if weight:
            inputs["weight"] = w.rand(shape[1], low=0.2, high=2.0)
        shown = dict(args) | ({"layout": layout} if layout else {})
        w.case("cross_entropy", name,
               lambda i, _: {"output": F.cross_entropy(i["input"], i["target"], i.get("weight"), **args)},
               inputs, args=shown, grads=["in.input"], native=native, dtype=dtype,
               rtol=rtol if dtype == "float32" else 1e-11, atol=atol if dtype == "float32" else 1e-12)

    some = torch.tensor([1, -100, 3, -100, 0, 2])
    add("mean", (5, 4))
    add("sum", (5, 4), reduction="sum")
    add("none", (5, 4), reduction="none")
    add("batch1", (1, 3))
    add("one_class", (4, 1))
    add("many_classes", (3, 1000))
    add("weight_mean", (6, 4), weight=True)
    add("weight_sum", (6, 4), weight=True, reduction="sum")
    add("weight_none", (6, 4), weight=True, reduction="none")
    add("ignore_default", (6, 4), target=some)
    add("ignore_255", (6, 4), target=torch.tensor([1, 255, 3, 255, 0, 2]), ignore_index=255)
    add("ignore_a_class", (6, 4), target=torch.tensor([1, 0, 3, 0, 0, 2]), ignore_index=0)
    add("ignore_none_reduction", (6, 4), target=some, reduction="none")
    add("ignore_weight", (6, 4), weight=True, target=some)
    add("smoothing", (6, 4), label_smoothing=0.1)
    add("smoothing_weight_ignore", (6, 4), weight=True, target=some, label_smoothing=0.2)
    add("smoothing_weight_sum", (6, 4), weight=True, target=some, label_smoothing=0.2, reduction="sum")
    add("smoothing_none", (6, 4), weight=True, target=some, label_smoothing=0.3, reduction="none")
    add("spatial", (2, 3, 4, 5))
    add("spatial_ignore_weight", (2, 3, 4, 5), weight=True, ignore_index=1)
    add("spatial_none", (2, 3, 4, 5), reduction="none")
    add("rank3", (2, 3, 7), label_smoothing=0.1)
    add("huge_logits", None, logits=torch.tensor([[1e4, -1e4, 0.0], [3e38, -3e38, 1.0], [80.0, 100.0, 90.0]]).double(),
        target=torch.tensor([0, 0, 0]), reduction="none")
    add("infinite_logit", None, logits=torch.tensor([[0.0, -float("inf"), 1.0], [2.0, 1.0, -float("inf")]]).double(),
        target=torch.tensor([0, 1]))
    # A mean over nothing: NaN, as in PyTorch.
    add("all_ignored", (3, 4), target=torch.full((3,), -100))
    add("all_ignored_sum", (3, 4), target=torch.full((3,), -100), reduction="sum")
    add("empty_batch_sum", (0, 4), reduction="sum")
    add("empty_batch_none", (0, 4), reduction="none")
    add("transposed", (5, 4), layout="transposed")
    add("f64", (5, 4), weight=True, label_smoothing=0.1, dtype="float64")
    w.error("cross_entropy", "error_target_range", {"input": w.randn(2, 3), "target": torch.tensor([0, 3])}, {},
            "target")
    w.error("cross_entropy", "error_target_negative", {"input": w.randn(2, 3), "target": torch.tensor([0, -1])}, {},
            "target")
    w.error("cross_entropy", "error_batch", {"input": w.randn(2, 3), "target": torch.tensor([0, 1, 2])}, {}, "target")


def normalize(w):
    def add(name, x, layout=None, **args):
        w.start("normalize", name)
        x = w.randn(*x) if isinstance(x, tuple) else x
        w.case("normalize", name, lambda i, _: {"output": F.normalize(i["input"], dim=-1, **args)}, {"input": x},
               args=args | {"dim": -1} | ({"layout": layout} if layout else {}), rtol=1e-5, atol=1e-6)

    add("plain", (4, 7))
    add("batch1_wide", (1, 128))
    add("rank3", (2, 3, 5))
    add("empty_batch", (0, 5))
    add("transposed", (5, 4), layout="transposed")
    w.start("normalize", "large")
    add("large", w.randn(3, 6, std=1e10), eps=1e-12)


def softplus(w):
    def add(name, x, layout=None):
        w.start("softplus", name)
        w.case("softplus", name, lambda i, _: {"output": F.softplus(i["input"])}, {"input": x},
               args={"layout": layout} if layout else {}, rtol=2e-6, atol=1e-7)

    w.start("softplus", "plain")
    add("plain", w.randn(3, 5, std=3.0))
    add("extremes", torch.tensor([-1e30, -100.0, -20.0, -1e-8, 0.0, 1e-8, 20.0, 100.0, 1e30]).double())
    add("infinite", torch.tensor([-float("inf"), float("inf")]).double())
    add("transposed", w.randn(4, 3), layout="transposed")


def topk(w):
    def add(name, x, k, largest=True, layout=None):
        def run(i, _):
            # A stable sort: among equal values the lower index comes first. torch.topk leaves that order open.
            values, indices = torch.sort(i["input"], dim=-1, descending=largest, stable=True)
            return {"values": values[..., :k], "indices": indices[..., :k]}

        w.case("topk", name, run, {"input": x}, grads=[], rtol=0.0, atol=0.0,
               args={"k": k, "largest": largest} | ({"layout": layout} if layout else {}))

    w.start("topk", "all")
    add("plain", w.randn(3, 20), 5)
    add("smallest", w.randn(3, 20), 5, largest=False)
    add("k_is_n", w.randn(2, 9), 9)
    add("k1", w.randn(6, 33), 1)
    add("long", w.randn(2, 5000), 200)
    add("rank1", w.randn(15), 4)
    add("ties", w.randint(0, 4, 4, 40).double(), 12)
    add("ties_smallest", w.randint(0, 3, 4, 40).double(), 12, largest=False)
    add("ties_constant", torch.zeros(2, 17, dtype=torch.float64), 6)
    infinite = w.randn(2, 12)
    infinite[0, 3], infinite[0, 7], infinite[1, 1] = float("inf"), -float("inf"), float("inf")
    add("infinities", infinite, 12)
    add("empty_batch", torch.zeros(0, 6, dtype=torch.float64), 3)
    add("transposed", w.randn(7, 5), 3, layout="transposed")
    nan = w.randn(2, 8)
    nan[1, 4] = float("nan")
    w.error("topk", "error_nan", {"input": nan}, {"k": 2}, "NaN")
    w.error("topk", "error_k", {"input": w.randn(2, 8)}, {"k": 9}, "k")


def inner_product_topk(w):
    def add(name, queries, rows, k, layout=None):
        def run(i, _):
            values, indices = torch.sort(i["queries"] @ i["rows"].T, dim=1, descending=True, stable=True)
            return {"values": values[:, :k], "indices": indices[:, :k]}

        w.case("inner_product_topk", name, run, {"queries": queries, "rows": rows}, grads=[], rtol=1e-5, atol=1e-5,
               args={"k": k} | ({"layout": layout} if layout else {}))

    w.start("inner_product_topk", "all")
    add("plain", w.randn(5, 7), w.randn(40, 7), 6)
    add("k_is_n", w.randn(3, 4), w.randn(11, 4), 11)
    add("one_row", w.randn(2, 4), w.randn(1, 4), 1)
    add("several_tiles", w.randn(35, 16), w.randn(600, 16), 20)
    add("empty_queries", w.randn(0, 5), w.randn(9, 5), 3)
    # Small integers: equal products are exactly equal, the lower row comes first.
    add("ties", w.randint(-2, 3, 6, 3).double(), w.randint(-2, 3, 50, 3).double(), 30)
    add("transposed", w.randn(4, 6), w.randn(30, 6), 5, layout="transposed")
    rows = w.randn(8, 3)
    rows[5, 1] = float("nan")
    w.error("inner_product_topk", "error_nan", {"queries": w.randn(2, 3), "rows": rows}, {"k": 2}, "NaN")
    w.error("inner_product_topk", "error_k", {"queries": w.randn(2, 3), "rows": w.randn(8, 3)}, {"k": 9}, "k")
    w.error("inner_product_topk", "error_width", {"queries": w.randn(2, 3), "rows": w.randn(8, 4)}, {"k": 1}, "4")
