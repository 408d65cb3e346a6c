"""Cases of context encoding: our own statement of the formulas in PyTorch, checked against numbers that the authors'
code gave (`check_numbers_of_the_original`) before any case is written.

x: features (B, N, D); c: codewords (K, D); s: scales (K), the negative of the paper's smoothing factors.
"""

import torch
import torch.nn.functional as F

from caselib import TORCH

CODEWORDS_KEY, SCALE_KEY = "encoding.3.codewords", "encoding.3.scale"


def encoding(x, c, s, normalize_distance=False):
    """Residuals to every codeword, as they stand in the paper: (B, K, D), and the assignments (B, N, K)."""
    residuals = x.unsqueeze(2) - c
    distances = residuals.square().sum(3)
    if normalize_distance:
        distances = distances / x.shape[2]
    shares = torch.softmax(s * distances, 2)
    return (shares.unsqueeze(3) * residuals).sum(1), shares


def stream(number, shape, scale=1.0, shift=0.0):
    """Numbers in [-1, 1) that need no file: splitmix64 of a stream and an index."""
    mask, values, count = (1 << 64) - 1, [], 1
    for size in shape:
        count *= size
    for i in range(count):
        z = ((number << 32) + i + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        z ^= z >> 31
        values.append(2.0 * (z >> 40) * 2.0**-24 - 1.0)
    return torch.tensor(values, dtype=torch.float64).reshape(shape) * scale + shift


def numbers():
    x = stream(1001, (2, 6, 3, 5)).flatten(2).transpose(1, 2).contiguous()
    return x, stream(1002, (4, 6), 0.5), stream(1003, (4,), 0.4, -0.5), stream(1004, (2, 4, 6))


def check_numbers_of_the_original():
    *inputs, g = numbers()
    leaves = [tensor.requires_grad_() for tensor in inputs]
    e, _ = encoding(*leaves)
    gx, gc, gs = torch.autograd.grad((e * g).sum(), leaves)
    for got, want in (
        (e.sum(), 9.516058433868452), (e.square().sum(), 77.97806756524574),
        (gx.square().sum(), 18.94749718553922), (gc.square().sum(), 197.92065254837675),
        (gc[0, 0], 2.7304048), (gs[1], 7.3527622),
    ):
        if abs(float(got) - want) > 1e-7:
            raise AssertionError(f"got {float(got)!r}, the authors' code gave {want!r}")


def encnet_encoding(w):
    op = "encnet.encoding"

    def add(name, x, c, s, normalize_distance=False, layout=None, dtype="float32", rtol=None, atol=None, grads=None):
        w.start(op, f"{name} upstream")
        args = {"normalize_distance": True} if normalize_distance else {}
        exact = dtype == "float64"

        def run(i, _):
            e, shares = encoding(i["x"], i["codewords"], i["scale"], normalize_distance)
            return {"encoded": e, "assignments": shares.detach()}

        w.case(op, name, run, {"x": x, "codewords": c, "scale": s}, dtype=dtype, grads=grads,
               args=args | ({"layout": layout} if layout else {}),
               rtol=rtol or (1e-11 if exact else 1e-5), atol=atol or (1e-11 if exact else 2e-5))

    def problem(name, b, n, d, k, std=0.5, mean=0.0):
        w.start(op, name)
        return w.randn(b, n, d, std=std, mean=mean), w.randn(k, d, std=std), w.rand(k, low=-1.0, high=0.0)

    x, c, s, _ = numbers()
    add("original", x, c, s)
    add("original_f64", x, c, s, dtype="float64")
    add("plain", *problem("plain", 2, 30, 8, 5))
    add("plain_f64", *problem("plain_f64", 2, 30, 8, 5), dtype="float64")
    add("one_codeword", *problem("one_codeword", 2, 12, 6, 1))
    add("one_position", *problem("one_position", 3, 1, 7, 4))
    add("one_of_all", *problem("one_of_all", 1, 1, 1, 1))
    add("one_channel", *problem("one_channel", 2, 9, 1, 3))
    add("batch1_odd", *problem("batch1_odd", 1, 35, 13, 7))
    add("batch9", *problem("batch9", 9, 11, 5, 3))
    add("many_positions", *problem("many_positions", 2, 400, 5, 3), atol=1e-4)
    add("many_codewords", *problem("many_codewords", 1, 17, 9, 67))
    add("many_codewords_f64", *problem("many_codewords_f64", 2, 101, 3, 40), dtype="float64")
    add("wide", *problem("wide", 1, 20, 130, 32, std=0.1))
    add("normalize_distance", *problem("normalize_distance", 2, 30, 16, 5, std=1.0), normalize_distance=True)
    add("normalize_distance_f64", *problem("normalize_distance_f64", 1, 9, 5, 3), normalize_distance=True,
        dtype="float64")
    add("transposed", *problem("transposed", 2, 10, 6, 4), layout="transposed")
    add("sliced", *problem("sliced", 2, 10, 6, 4), layout="sliced")
    add("relu_features", *(lambda x, c, s: (x.relu(), c, s))(*problem("relu_features", 2, 40, 12, 6, std=1.0)))
    x, c, s = problem("scale_zero", 2, 20, 6, 4)
    add("scale_zero", x, c, torch.cat([s[:2], torch.zeros(1, dtype=s.dtype), s[3:]]))
    add("scales_all_zero", x, c, torch.zeros_like(s))
    add("scales_positive", x, c, -s)
    x, c, s = problem("equal_codewords", 1, 20, 6, 4)
    add("equal_codewords", x, c[:1].expand_as(c).contiguous(), s[:1].expand_as(s).contiguous())
    x, c, _ = problem("huge_logits", 2, 20, 6, 4, std=1.0)
    huge = torch.tensor([1e3, -1e3, 0.0, 500.0], dtype=torch.float64)
    # Logits of 1e4 have the last digits of their distances in front of the point: values only where they are apart.
    add("huge_logits", x, c, huge, rtol=1e-3, atol=1e-2, grads=[])
    add("huge_logits_f64", x, c, huge, dtype="float64", rtol=1e-8, atol=1e-8)
    x, c, s = problem("empty_batch", 0, 5, 3, 2)
    add("empty_batch", x, c, s)

    w.start(op, "errors")
    x, c, s = w.randn(2, 5, 3), w.randn(4, 3), w.rand(4)
    for name, inputs, message in (
        ("channels", (x, w.randn(4, 2), s), "encoding: codewords"),
        ("rank", (w.randn(5, 3), c, s), "encoding: input"),
        ("no_positions", (w.randn(2, 0, 3), c, s), "encoding: input"),
        ("no_codewords", (x, w.randn(0, 3), w.rand(0)), "encoding: codewords"),
        ("scales", (x, c, w.rand(3)), "encoding: scale"),
    ):
        w.error(op, f"error_{name}", dict(zip(("x", "codewords", "scale"), inputs)), {}, message)


def context(x, p, args):
    """The context encoding module on maps (B, C, H, W): its map, factors of channels, and logits of classes."""
    train = args["train"]

    def norm(y, name):
        stats = [p[f"{name}.running_mean"].clone(), p[f"{name}.running_var"].clone()]
        return F.batch_norm(y, *stats, p[f"{name}.weight"], p[f"{name}.bias"], training=train)

    y = x
    if args["projection"] == "norm":
        y = F.relu(norm(F.conv2d(y, p["encoding.0.weight"]), "encoding.1"))
    if args["codes"] == 0:
        vector = y.mean((2, 3))
    else:
        e, _ = encoding(y.flatten(2).transpose(1, 2), p[CODEWORDS_KEY], p[SCALE_KEY])
        e = F.relu(norm(e, "encoding.4"))
        vector = e.sum(1) if args["aggregate"] == "sum" else e.mean(1)
    gate = torch.sigmoid(F.linear(vector, p["fc.0.weight"], p["fc.0.bias"]))
    weighed = x * gate[:, :, None, None]
    if args["gate"] != "plain":
        weighed = x + weighed
    if args["gate"] == "residual-relu":
        weighed = F.relu(weighed)
    return {"map": weighed, "gate": gate, "classes": F.linear(vector, p["selayer.weight"], p["selayer.bias"])}


def encnet_context(w):
    op = "encnet.context"

    def add(name, shape, codes, classes, projection="norm", aggregate="mean", gate="residual-relu", train=False,
            dtype="float32"):
        w.start(op, name)
        channels = shape[1]
        args = {"codes": codes, "classes": classes, "projection": projection, "aggregate": aggregate, "gate": gate,
                "train": train}
        p = {"fc.0.weight": w.randn(channels, channels, std=channels**-0.5), "fc.0.bias": w.randn(channels, std=0.1),
             "selayer.weight": w.randn(classes, channels, std=channels**-0.5),
             "selayer.bias": w.randn(classes, std=0.1)}

        def norm(name, size):
            p[f"{name}.weight"], p[f"{name}.bias"] = w.rand(size, low=0.5, high=1.5), w.randn(size, std=0.1)
            p[f"{name}.running_mean"], p[f"{name}.running_var"] = w.randn(size, std=0.1), w.rand(size, low=0.5, high=2.0)

        if projection == "norm":
            p["encoding.0.weight"] = w.randn(channels, channels, 1, 1, std=channels**-0.5)
            norm("encoding.1", channels)
        if codes:
            p[CODEWORDS_KEY], p[SCALE_KEY] = w.randn(codes, channels, std=0.3), w.rand(codes, low=-1.0, high=0.0)
            norm("encoding.4", codes)
        grads = ["in.x"] + [f"param.{key}" for key in p if "running" not in key]
        exact = dtype == "float64"
        w.case(op, name, lambda i, q: context(i["x"], q, args), {"x": w.randn(*shape)}, params=p, args=args,
               grads=grads, dtype=dtype, rtol=1e-9 if exact else 2e-4, atol=1e-9 if exact else 1e-4)

    add("v1", (2, 8, 5, 7), 4, 3)
    add("v1_train", (2, 8, 5, 7), 4, 3, train=True)
    add("v1_train_f64", (2, 8, 5, 7), 4, 3, train=True, dtype="float64")
    add("v042", (2, 8, 5, 7), 4, 3, projection="none", aggregate="sum", gate="residual")
    add("v042_train_f64", (3, 6, 4, 3), 5, 4, projection="none", aggregate="sum", gate="residual", train=True,
        dtype="float64")
    add("paper_f64", (2, 6, 3, 4), 5, 4, projection="none", aggregate="sum", gate="plain", dtype="float64")
    add("mean_of_positions", (2, 8, 5, 7), 0, 3)
    add("mean_of_positions_train_f64", (2, 8, 5, 7), 0, 3, train=True, dtype="float64")
    add("batch1_one_pixel", (1, 5, 1, 1), 3, 2)
    add("batch5_one_class", (5, 4, 3, 2), 2, 1, dtype="float64")


def encnet_se_loss(w):
    op = "encnet.se_loss"

    def add(name, logits, labels, ignore_index=-1, dtype="float32"):
        w.start(op, f"{name} upstream")
        classes = logits.shape[1]

        def run(i, _):
            kept = [row[row != ignore_index] for row in labels.flatten(1)]
            target = torch.stack([torch.bincount(row, minlength=classes).clamp(max=1) for row in kept])
            loss = F.binary_cross_entropy_with_logits(i["logits"], target.to(i["logits"].dtype))
            return {"loss": loss, "target": target.to(torch.float64)}

        w.case(op, name, run, {"logits": logits, "labels": labels}, args={"ignore_index": ignore_index},
               grads=["in.logits"], dtype=dtype, rtol=2e-6, atol=1e-7)

    for classes in (2, 10, 19, 59, 150):
        w.start(op, f"classes{classes}")
        add(f"classes{classes}", w.randn(3, classes, std=2.0), w.randint(-1, classes, 3, 4, 5))
    w.start(op, "plain")
    add("all_ignored", w.randn(2, 5), torch.full((2, 3, 3), -1))
    add("last_class_alone", w.randn(1, 7), torch.full((1, 2, 2), 6))
    add("ignore_255", w.randn(2, 21), torch.where(w.rand(2, 6, 6) < 0.3, 255, w.randint(0, 21, 2, 6, 6)), 255)
    add("one_class", w.randn(2, 1), torch.zeros(2, 2, 2, dtype=torch.long))
    far = torch.tensor([[200.0, -200.0, 0.0], [-200.0, 200.0, 1e4]], dtype=torch.float64)
    add("far_logits", far, torch.tensor([[[0, 0]], [[0, 2]]]))
    add("f64", w.randn(2, 6, std=3.0), w.randint(-1, 6, 2, 3, 3), dtype="float64")

    logits = w.randn(1, 3)
    for name, label in (("beyond", 3), ("void", 255), ("negative", -2)):
        labels = torch.tensor([[[0, label]]])
        w.error(op, f"error_{name}", {"logits": logits, "labels": labels}, {"ignore_index": -1}, "labels")
