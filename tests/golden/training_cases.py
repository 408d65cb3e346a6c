"""Cases of optimisers, schedules, whole networks and picture operations."""

import math

import numpy as np
import PIL
import torch
import torchvision
import torchvision.transforms.functional as TF
from PIL import Image

from caselib import TORCHVISION


def sgd(w):
    def add(name, steps=4, grads=None, **args):
        w.start("optim.sgd", name)
        shapes = {"w": (3, 4), "b": (3,)}
        params = {k: w.randn(*s) for k, s in shapes.items()}
        inputs = {f"{t}.{k}": w.randn(*s) for t in range(steps) for k, s in shapes.items()}

        def run(i, p):
            leaves = {k: v.clone().requires_grad_(True) for k, v in p.items()}
            optimiser = torch.optim.SGD(leaves.values(), **args)
            for t in range(steps):
                for k, leaf in leaves.items():
                    leaf.grad = i[f"{t}.{k}"].clone()
                optimiser.step()
            return leaves

        w.case("optim.sgd", name, run, inputs, params=params, args=args | {"steps": steps}, grads=[],
               rtol=1e-5, atol=1e-6)

    add("plain", lr=0.1)
    add("momentum", lr=0.1, momentum=0.9)
    # The first step takes the gradient undamped.
    add("dampening", lr=0.05, momentum=0.9, dampening=0.5)
    add("nesterov", lr=0.1, momentum=0.9, nesterov=True)
    add("weight_decay", lr=0.1, weight_decay=0.05)
    add("momentum_weight_decay_100_steps", steps=100, lr=0.03, momentum=0.9, weight_decay=5e-4)
    add("nesterov_weight_decay", lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.01)


def adam(op, optimiser):
    """Adam or AdamW; `scale` multiplies the gradients, `missing` names those that steps do not have."""
    def family(w):
        def add(name, steps=4, scale=1.0, missing=(), dtype="float32", shapes=None, **args):
            w.start(op, name)
            shapes = shapes or {"w": (3, 4), "b": (3,)}
            params = {k: w.randn(*s) for k, s in shapes.items()}
            inputs = {f"{t}.{k}": w.randn(*s, std=scale) for t in range(steps) for k, s in shapes.items()
                      if f"{t}.{k}" not in missing}

            def run(i, p):
                leaves = {k: v.clone().requires_grad_(True) for k, v in p.items()}
                stepping = optimiser(leaves.values(), foreach=False, **args)
                for t in range(steps):
                    for k, leaf in leaves.items():
                        grad = i.get(f"{t}.{k}")
                        leaf.grad = None if grad is None else grad.clone()
                    stepping.step()
                return leaves

            tolerance = 1e-5 if dtype == "float32" else 1e-12
            w.case(op, name, run, inputs, params=params, args=args | {"steps": steps}, grads=[], dtype=dtype,
                   rtol=tolerance, atol=tolerance / 10)

        add("defaults")
        add("defaults_f64", dtype="float64")
        add("lr", lr=0.1)
        add("weight_decay", lr=0.05, weight_decay=0.1)
        add("no_weight_decay", lr=0.05, weight_decay=0.0)
        add("betas", lr=0.05, betas=[0.5, 0.9], weight_decay=0.02)
        add("betas_zero", lr=0.05, betas=[0.0, 0.0])
        add("amsgrad", lr=0.05, amsgrad=True, betas=[0.6, 0.3])
        add("amsgrad_weight_decay_f64", dtype="float64", steps=8, lr=0.05, amsgrad=True, betas=[0.6, 0.3],
            weight_decay=0.1)
        add("100_steps", steps=100, lr=0.01, weight_decay=5e-3)
        add("eps_large", lr=0.5, eps=10.0)
        add("eps_zero", lr=0.05, eps=0.0)
        # The root and eps are of one size.
        add("eps_like_gradients", lr=0.05, scale=1e-6, eps=1e-6)
        add("eps_above_tiny_gradients_f64", lr=0.05, scale=1e-20, dtype="float64")
        add("large_gradients", lr=0.05, scale=1e10)
        add("zero_gradients", lr=0.05, scale=0.0, weight_decay=0.1)
        # 0 / 0.
        add("zero_gradients_eps_zero", lr=0.05, scale=0.0, eps=0.0, weight_decay=0.0)
        # Each parameter counts its own steps.
        add("missing_gradients", steps=5, lr=0.05, weight_decay=0.1,
            missing=("0.b", "2.w", "2.b", "3.w"))
        add("missing_gradients_amsgrad", steps=5, lr=0.05, amsgrad=True, betas=[0.6, 0.3], missing=("0.w", "1.w", "4.b"))
        add("never_a_gradient", lr=0.05, weight_decay=0.1, missing=tuple(f"{t}.b" for t in range(4)))
        add("shapes", lr=0.05, weight_decay=0.1, shapes={"scalar": (), "one": (1,), "empty": (0, 3), "conv": (5, 2, 3, 3)})
    return family


def schedule(w):
    def add(case, steps, make, **args):
        w.start("schedule", case)
        rates = [args["lr"] * factor for factor in make(steps)]
        w.case("schedule", case, lambda i, p: {"lr": torch.tensor(rates, dtype=torch.float64)}, {},
               args=args | {"steps": steps}, dtype="float64", grads=[], rtol=1e-12, atol=1e-15)

    def torch_factors(build):
        def run(steps):
            optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
            scheduler, rates = build(optimiser), []
            for _ in range(steps):
                rates.append(optimiser.param_groups[0]["lr"])
                optimiser.step()
                scheduler.step()
            return rates
        return run

    lr = torch.optim.lr_scheduler
    add("constant", 5, lambda n: [1.0] * n, name="constant", lr=0.03)
    add("step", 200, torch_factors(lambda o: lr.MultiStepLR(o, [120, 160], 0.1)), name="step", lr=0.03,
        milestones=[120, 160], gamma=0.1)
    add("step_three", 12, torch_factors(lambda o: lr.MultiStepLR(o, [2, 5, 9], 0.2)), name="step", lr=1.0,
        milestones=[2, 5, 9], gamma=0.2)
    add("cosine", 20, torch_factors(lambda o: lr.CosineAnnealingLR(o, 20)), name="cosine", lr=0.1)
    add("cosine_one_step", 1, torch_factors(lambda o: lr.CosineAnnealingLR(o, 1)), name="cosine", lr=0.1)

    add("cosine_eta_min", 12, torch_factors(lambda o: lr.CosineAnnealingLR(o, 12, eta_min=0.25)), name="cosine",
        lr=1.0, eta_min=0.25)
    add("cosine_t_max", 10, torch_factors(lambda o: lr.CosineAnnealingLR(o, 30)), name="cosine", lr=0.1, T_max=30)
    add("poly", 20, torch_factors(lambda o: lr.PolynomialLR(o, 20, power=0.9)), name="poly", lr=0.01, power=0.9)
    add("poly_line", 9, torch_factors(lambda o: lr.PolynomialLR(o, 9)), name="poly", lr=0.3)
    add("poly_square", 15, torch_factors(lambda o: lr.PolynomialLR(o, 15, power=2.0)), name="poly", lr=0.3, power=2.0)
    add("poly_before_its_end", 10, torch_factors(lambda o: lr.PolynomialLR(o, 25, power=0.9)), name="poly", lr=0.01,
        power=0.9, total_iters=25)
    # The rate stays 0.
    add("poly_beyond_its_end", 12, torch_factors(lambda o: lr.PolynomialLR(o, 7, power=0.9)), name="poly", lr=0.01,
        power=0.9, total_iters=7)
    add("poly_one_step", 3, torch_factors(lambda o: lr.PolynomialLR(o, 1, power=0.9)), name="poly", lr=0.01, power=0.9,
        total_iters=1)
    add("exponential", 30, torch_factors(lambda o: lr.ExponentialLR(o, 0.9)), name="exponential", lr=0.1, gamma=0.9)
    add("exponential_grows", 8, torch_factors(lambda o: lr.ExponentialLR(o, 1.5)), name="exponential", lr=1e-3, gamma=1.5)
    add("exponential_every", 20, torch_factors(lambda o: lr.StepLR(o, 6, 0.3)), name="exponential", lr=0.1, gamma=0.3,
        step_size=6)
    add("multistep", 30, torch_factors(lambda o: lr.MultiStepLR(o, [3, 10, 11], 0.5)), name="multistep", lr=0.2,
        milestones=[3, 10, 11], gamma=0.5)
    add("multistep_none", 4, torch_factors(lambda o: lr.MultiStepLR(o, [], 0.5)), name="multistep", lr=0.2,
        milestones=[], gamma=0.5)
    add("multistep_early", 6, torch_factors(lambda o: lr.MultiStepLR(o, [1, 4], 0.1)), name="multistep", lr=0.2,
        milestones=[1, 4], gamma=0.1)
    add("linear", 8, torch_factors(lambda o: lr.LinearLR(o)), name="linear", lr=0.1, total_iters=5)
    add("linear_down", 8, torch_factors(lambda o: lr.LinearLR(o, 1.0, 0.1, 6)), name="linear", lr=0.1, start_factor=1.0,
        end_factor=0.1, total_iters=6)

    def chained(warm, start, after):
        """The product of a warm-up and of what `after` makes, both counted from the start."""
        return torch_factors(lambda o: lr.ChainedScheduler([lr.LinearLR(o, start, 1.0, warm), after(o)]))

    add("warmup_poly", 25, chained(6, 0.1, lambda o: lr.PolynomialLR(o, 25, 0.9)), name="poly", lr=0.01, power=0.9,
        warmup_steps=6, warmup_start=0.1)
    add("warmup_multistep", 25, chained(8, 1 / 3, lambda o: lr.MultiStepLR(o, [5, 15], 0.1)), name="multistep", lr=0.02,
        milestones=[5, 15], gamma=0.1, warmup_steps=8, warmup_start=1 / 3)
    add("warmup_exponential", 15, chained(4, 0.01, lambda o: lr.ExponentialLR(o, 0.95)), name="exponential", lr=0.02,
        gamma=0.95, warmup_steps=4, warmup_start=0.01)

    def warmup(after, warm, start):
        """Linear from `start` to one over `warm` steps, times the factor of the schedule it precedes."""
        return lambda n: [f * (1.0 if t >= warm else start + (1.0 - start) * t / warm)
                          for t, f in enumerate(after(n))]

    add("warmup_step", 40, warmup(torch_factors(lambda o: lr.MultiStepLR(o, [20, 30], 0.1)), 5, 0.001),
        name="step", lr=0.03, milestones=[20, 30], gamma=0.1, warmup_steps=5, warmup_start=0.001)
    add("warmup_cosine", 30, warmup(torch_factors(lambda o: lr.CosineAnnealingLR(o, 30)), 4, 0.1),
        name="cosine", lr=0.2, warmup_steps=4, warmup_start=0.1)


def sine_init(module):
    """The parameter-free initialisation of the model cases: a formula both sides can evaluate.

    Tensors of rank two and more get `sin(0.37 i + 0.5) sqrt(2 / fan_in)` over their flat index; biases and means
    are zero, scales and variances one.
    """
    for name, value in module.state_dict().items():
        if value.dim() >= 2:
            fan_in = value[0].numel()
            index = torch.arange(value.numel(), dtype=torch.float64)
            filled = torch.sin(0.37 * index + 0.5) * math.sqrt(2.0 / fan_in)
            value.copy_(filled.to(torch.float32).reshape(value.shape))
        elif name.endswith(("running_var", "weight")):
            value.fill_(1)
        else:
            value.fill_(0)
    return module


def sine_input(n, size):
    """`sin(.13 n + .37 c + .11 y + .23 x)`, of shape (n, 3, size, size)."""
    axes = [torch.arange(k, dtype=torch.float64) for k in (n, 3, size, size)]
    b, c, y, x = torch.meshgrid(*axes, indexing="ij")
    return torch.sin(0.13 * b + 0.37 * c + 0.11 * y + 0.23 * x)


def run_resnet(net, outputs):
    """Runs `net` on `input` and returns the named ones of: stem, layer1..4, pooled, output."""
    def run(i, _):
        seen = {}
        x = net.relu(net.bn1(net.conv1(i["input"])))
        seen["stem"] = x
        x = net.maxpool(x)
        for k in range(1, 5):
            x = getattr(net, f"layer{k}")(x)
            seen[f"layer{k}"] = x
        seen["pooled"] = torch.flatten(net.avgpool(x), 1)
        seen["output"] = net.fc(seen["pooled"])
        return {k: seen[k] for k in outputs}
    return run


def model_resnet(depth):
    op = f"model.resnet{depth}"

    def family(w):
        def add(name, x, classes, outputs, train=False, dtype="float32", keep=(), atol=2e-5, grads=("in.input",), wanted=()):
            w.start(op, name)
            net = sine_init(getattr(torchvision.models, f"resnet{depth}")(num_classes=classes)).double()
            net.train(train)
            forward = run_resnet(net, outputs)

            def run(i, p):
                out = forward(i, p)
                state = net.state_dict()
                return out | {k: state[k].clone() for k in keep}

            w.case(op, name, run, {"input": x}, dtype=dtype, ref=TORCHVISION, grads=list(grads),
                   args={"init": "sine", "num_classes": classes, "train": train}, atol=atol, rtol=atol,
                   hidden={k: v for k, v in net.named_parameters() if k in wanted})

        heads = ["pooled", "output"]
        add("eval_64", sine_input(1, 64), 7, ["layer4", *heads],
            wanted=("conv1.weight", "layer1.0.bn1.weight", "layer4.1.bn2.bias", "fc.bias"))
        if depth != 50:
            w.start(op, "eval_odd")
            add("eval_odd", w.randn(2, 3, 37, 45), 5, ["stem", *heads] if depth == 18 else heads)
        if depth == 18:
            w.start(op, "train_f64")
            # Batch statistics of few values are ill-conditioned: outputs need f64, and the gradient moves by
            # 1e-5 when the input moves by 1e-15, so it is left out.
            add("train_f64", w.randn(3, 3, 40, 32), 4, heads, train=True, dtype="float64", atol=1e-7, grads=(),
                keep=("bn1.running_mean", "bn1.running_var", "layer4.1.bn2.running_var"))
            add("empty_batch", torch.zeros(0, 3, 64, 64), 7, heads, grads=())
            w.error(op, "error_channels", {"input": torch.zeros(1, 4, 64, 64)},
                    {"init": "sine", "num_classes": 7, "train": False}, "4", ref=TORCHVISION)
    return family


def whole_models(w):
    """Networks at full size with every parameter stored: large files, for `--models` only.

    Gradients are asked for in f64 only: in f32 a few activations fall on the other side of zero, and PyTorch's own
    gradient is as far from the f64 one as ours.
    """
    def add(name, depth, size, dtype, grads, tolerance):
        op = f"model.resnet{depth}"
        w.start(op, name)
        torch.manual_seed(depth)
        net = getattr(torchvision.models, f"resnet{depth}")().eval()
        for key, value in net.state_dict().items():
            if key.endswith("running_mean"):
                value.copy_(w.randn(*value.shape, std=0.1))
            elif key.endswith("running_var"):
                value.copy_(w.rand(*value.shape, low=0.5, high=1.5))
            elif key.endswith("bn2.weight" if depth < 50 else "bn3.weight"):
                # Otherwise these made-up statistics let activations grow from block to block.
                value.fill_(0.2)
        state = {k: v for k, v in net.state_dict().items() if v.dim() > 0}
        forward = run_resnet(net.double(), ["pooled", "output"])
        w.case(op, name, forward, {"input": w.randn(2, 3, size, size)}, params=state, ref=TORCHVISION, dtype=dtype,
               grads=grads, args={"num_classes": 1000, "train": False}, rtol=tolerance, atol=tolerance)

    for depth in (18, 34, 50, 101, 152):
        add("full_224", depth, 224, "float32", [], 1e-4)
    for depth in (18, 50):
        add("gradient_f64", depth, 160, "float64", ["in.input"], 1e-8)


def _picture(w, width, height, channels=3):
    """A smooth picture with noise and saturated patches, as (height, width, channels) bytes."""
    y, x = torch.meshgrid(torch.arange(height) / height, torch.arange(width) / width, indexing="ij")
    planes = []
    for _ in range(channels):
        a, b, c = w.rand(3, low=1.0, high=9.0)
        planes.append(torch.sin(a * x + b * y + c))
    image = torch.stack(planes, -1).double() * 110 + 128 + w.randn(height, width, channels, std=14.0)
    image[: height // 4, : width // 4] = 255.0
    image[-(height // 5):, -(width // 5):] = 0.0
    return image.round().clamp(0, 255).to(torch.uint8).numpy()


def _pillow(array):
    return Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array)


def _put(w, op, name, array, out, args, atol):
    result = np.asarray(out)
    result = result[..., None] if result.ndim == 2 else result
    # A tolerance in grey levels needs a floating type; equal bytes are compared as integers.
    result = result.astype(np.float32) if atol else result
    w.put(op, name, {"in.image": array, "out.image": result}, args, f"Pillow {PIL.__version__}", 0.0, atol)


def image_resize(w):
    filters = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC,
               "lanczos": Image.LANCZOS}

    def add(name, size_in, size_out, filter, channels=3, box=None, atol=0.0):
        w.start("image.resize", name)
        array = _picture(w, *size_in, channels)
        out = _pillow(array).resize(tuple(size_out), filters[filter], box=box)
        args = {"size": list(size_out), "filter": filter} | ({"box": list(box)} if box else {})
        _put(w, "image.resize", name, array, out, args, atol)

    for f in filters:
        add(f"{f}_shrink", (37, 23), (16, 16), f)
        add(f"{f}_enlarge", (13, 9), (32, 32), f)
    add("bilinear_shrink_much", (96, 64), (5, 7), "bilinear")
    add("bilinear_grey", (31, 17), (12, 20), "bilinear", channels=1)
    add("bicubic_same_width", (20, 30), (20, 11), "bicubic")
    add("bilinear_to_1x1", (9, 11), (1, 1), "bilinear")
    add("bilinear_from_1x1", (1, 1), (6, 5), "bilinear")
    add("bilinear_box", (40, 30), (16, 16), "bilinear", box=(3.0, 4.0, 29.0, 21.0))
    add("bilinear_box_fraction", (40, 30), (16, 16), "bilinear", box=(3.25, 4.5, 28.75, 20.125))
    w.error("image.resize", "error_zero", {"image": torch.from_numpy(_picture(w, 8, 8))},
            {"size": [0, 4], "filter": "bilinear"}, "0", ref=f"Pillow {PIL.__version__}")


def image_adjust(w):
    def add(op, name, function, args, size=(24, 18), atol=0.0):
        w.start(op, name)
        array = _picture(w, *size)
        _put(w, op, name, array, function(_pillow(array)), args, atol)

    for kind, function in [("brightness", TF.adjust_brightness), ("contrast", TF.adjust_contrast),
                           ("saturation", TF.adjust_saturation)]:
        for factor in (0.0, 0.6, 1.0, 1.4, 2.5):
            add(f"image.adjust_{kind}", f"factor_{factor}", lambda i, f=factor, g=function: g(i, f),
                {f"{kind}_factor": factor})
    for factor in (-0.5, -0.25, -0.1, 0.0, 0.07, 0.4, 0.5):
        add("image.adjust_hue", f"factor_{factor}", lambda i, f=factor: TF.adjust_hue(i, f), {"hue_factor": factor})
    add("image.to_gray", "plain", lambda i: i.convert("L"), {}, size=(64, 48))
    w.error("image.adjust_hue", "error_range", {"image": torch.from_numpy(_picture(w, 4, 4))}, {"hue_factor": 0.6},
            "0.6", ref=TORCHVISION)
