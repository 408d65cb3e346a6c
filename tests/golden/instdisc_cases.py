"""Cases of instance discrimination: our own statement of the formulas in PyTorch, checked against numbers that
the authors' released code printed (`check_golden_a`, `check_golden_b`) before any case is written.

f: features (B, D), unit rows; V: bank (n, D); y: row of each sample; tau: temperature; m noise rows per sample.
"""

import math

import torch
import torch.nn.functional as F
import torchvision

from caselib import TORCH, TORCHVISION
from training_cases import sine_init, sine_input

EPSILON = 1e-7  # inside both logarithms of the released NCE


def scores(f, bank, index, tau):
    """(B, K): inner products of each feature with its own rows, over tau."""
    return torch.einsum("bd,bkd->bk", f, bank[index]) / tau


def first_batch_z(s, n):
    return n * s.exp().mean()


def nce(s, n, z, form="epsilon"):
    """Noise-contrastive loss; column 0 is the positive. `log_space` drops epsilon and cannot overflow."""
    m = s.shape[1] - 1
    c = m / n
    if form == "log_space":
        odds = s - math.log(z) - math.log(c)
        return (F.softplus(-odds[:, :1]).sum() + F.softplus(odds[:, 1:]).sum()) / s.shape[0]
    p = s.exp() / z
    positive = (p[:, 0] / (p[:, 0] + c + EPSILON)).log().sum()
    negative = (c / (p[:, 1:] + c + EPSILON)).log().sum()
    return -(positive + negative) / s.shape[0]


def info_nce(s):
    return F.cross_entropy(s, torch.zeros(s.shape[0], dtype=torch.long))


def full_softmax(f, bank, target, tau):
    return F.cross_entropy(f @ bank.T / tau, target)


def proximal(f, previous, weight):
    return weight * (f - previous).pow(2).sum(1).mean()


def bank_update(bank, index, f, momentum):
    """Rows in batch order, so that a row met twice moves twice."""
    bank = bank.clone()
    for row, feature in zip(index.tolist(), f):
        bank[row] = F.normalize(momentum * bank[row] + (1 - momentum) * feature, dim=0)
    return bank


def knn(queries, bank, labels, k, sigma):
    """Neighbours (lower row first among equals) and, per query, classes by weight (lower label first) with shares."""
    similar, rows = torch.sort(queries @ bank.T, dim=1, descending=True, stable=True)
    similar, rows = similar[:, :k], rows[:, :k]
    classes = int(labels.max()) + 1
    votes = torch.zeros(len(queries), classes, dtype=queries.dtype)
    votes.scatter_add_(1, labels[rows], ((similar - similar[:, :1]) / sigma).exp())
    votes, order = torch.sort(votes, dim=1, descending=True, stable=True)
    return rows, order, votes / votes.sum(1, keepdim=True), similar


class CifarResNet18(torch.nn.Module):
    """ResNet18 with a 3x3 stem and no pooling before the stages, a linear layer and unit outputs."""

    def __init__(self, features=128):
        super().__init__()
        net = torchvision.models.resnet18(num_classes=features)
        net.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
        net.maxpool = torch.nn.Identity()
        self.net = net

    def forward(self, x):
        return F.normalize(self.net(x), dim=1)


def _golden_a():
    n, d, m, b = 64, 16, 7, 4
    i, j = torch.meshgrid(torch.arange(n).double(), torch.arange(d).double(), indexing="ij")
    bank = F.normalize(torch.sin(0.7 * i + 0.31 * j * (1 + 0.05 * i)), dim=1)
    i, j = torch.meshgrid(torch.arange(b).double(), torch.arange(d).double(), indexing="ij")
    raw = torch.cos(0.9 * i + 0.53 * j + 0.2 * i * j)
    target = torch.tensor([5, 17, 40, 63])
    columns = [[(11 * r + 7 * k + 3 * k * r) % n for k in range(1, m + 1)] for r in range(b)]
    index = torch.cat([target[:, None], torch.tensor(columns)], 1)
    return raw, bank, target, index


def _near(got, want, rel=0.0, tol=0.0):
    got = torch.as_tensor(got).detach()
    if not abs(float(got) - want) <= tol + rel * abs(want):
        raise AssertionError(f"got {float(got)!r}, the released code printed {want!r}")


def check_golden_a():
    raw, bank, target, index = _golden_a()
    n = len(bank)
    table = {0.07: (778527.4, 10.8804321, 5.1088264e-4, 5.4326167e-5, -3.4635248, 40.5380936, 0.4444179,
                    -0.4263560, 3.6751127, 13.1997652, -1.8291473, 88.0430832, 1.4581947),
             0.1: (22422.33, 7.7283802, 2.9446639e-3, 6.1336264e-4, -2.5812662, 20.2587891, 0.3212375,
                   -0.3114316, 1.7803676, 9.6387224, -1.2972312, 41.7652893, 0.9992334)}
    for tau, t in table.items():
        x = raw.clone().requires_grad_(True)
        f = F.normalize(x, dim=1)
        f.retain_grad()
        s = scores(f, bank, index, tau)
        z = float(first_batch_z(s.detach(), n))
        loss = nce(s, n, z)
        loss.backward()
        p = s.detach().exp() / z
        _near(z, t[0], rel=1e-6)
        _near(loss, t[1], rel=2e-6)
        _near(p[0, 0], t[2], rel=2e-6)
        _near(p[3, 7], t[3], rel=2e-6)
        _near(p.sum(), 0.5, tol=1e-9)
        for got, want in zip((f.grad.sum(), f.grad.pow(2).sum(), f.grad[0, 0], x.grad.sum(), x.grad.pow(2).sum()),
                             t[4:9]):
            _near(got, want, rel=2e-6, tol=1e-5)
        f = f.detach().requires_grad_(True)
        loss = full_softmax(f, bank, target, tau)
        loss.backward()
        _near(loss, t[9], rel=2e-6)
        for got, want in zip((f.grad.sum(), f.grad.pow(2).sum(), f.grad[0, 0]), t[10:]):
            _near(got, want, rel=2e-6, tol=1e-5)
    f = F.normalize(raw, dim=1)
    moved = bank_update(bank, target, f, 0.5)
    _near(moved[5, 0], 0.1377514, tol=1e-6)
    _near(moved[63, 15], 0.5868183, tol=1e-6)
    _near(moved.sum(), -0.7039950, tol=1e-5)
    labels = (5 * torch.arange(n) + 2) % 6
    for k, sigma, best in [(1, 0.07, None), (10, 0.07, 731881.76), (10, 0.1, 12857.989), (64, 0.1, 12874.377)]:
        rows, classes, shares, similar = knn(f, bank, labels, k, sigma)
        assert classes[:, 0].tolist() == [2, 2, 3, 5], classes[:, 0]
        assert rows[0, :5].tolist() == [12, 19, 11, 20, 4][: rows.shape[1]], rows[0]
        if best:
            _near(shares[0, 0] * (similar[0] / sigma).exp().sum(), best, rel=2e-6)


def check_golden_b():
    def check(net, x, head, last, total, tol):
        with torch.no_grad():
            z = F.normalize(sine_init(net.eval()).double()(x), dim=1)
        for got, want in zip(z[0, :4], head):
            _near(got, want, tol=tol)
        _near(z[-1, 127], last, tol=tol)
        _near(z.sum(), total, tol=100 * tol)

    check(CifarResNet18(), sine_input(2, 32), (0.0948409, 0.1210707, 0.0471014, -0.0658493), 0.123744, 0.343760, 5e-6)
    check(torchvision.models.resnet18(num_classes=128), sine_input(1, 224),
          (0.1109395, 0.1107107, 0.0188567, -0.0886031), 0.123904, 0.183960, 5e-6)
    check(torchvision.models.resnet50(num_classes=128), sine_input(1, 224),
          (0.1081492, -0.0495143, -0.0284929, 0.0953522), -0.117189, -0.00139, 2e-5)


def _problem(w, n, d, b, m):
    """Unit features and bank rows, targets and noise rows."""
    bank, f = F.normalize(w.randn(n, d), dim=1), F.normalize(w.randn(b, d), dim=1)
    target = w.randint(0, n, b)
    return f, bank, target, torch.cat([target[:, None], w.randint(0, n, b, m)], 1)


def instdisc_nce(w):
    op = "instdisc.nce"

    def add(name, problem, tau, form="epsilon", z=None, rtol=2e-5, layout=None):
        f, bank, _, index = problem
        n = len(bank)

        def run(i, _):
            s = scores(i["features"], i["bank"], index, tau)
            used = float(first_batch_z(s.detach(), n)) if z is None else z
            return {"loss": nce(s, n, used, form), "z": torch.tensor(used), "scores": s.detach()}

        args = {"tau": tau, "form": form} | ({} if z is None else {"z": z}) | ({"layout": layout} if layout else {})
        w.case(op, name, run, {"features": f, "bank": bank, "index": index}, args=args, grads=["in.features"],
               rtol=rtol, atol=1e-5)

    raw, bank, target, index = _golden_a()
    golden = (F.normalize(raw, dim=1), bank, target, index)
    for tau in (0.07, 0.1):
        add(f"golden_a_{tau}", golden, tau)
        add(f"golden_a_{tau}_log_space", golden, tau, form="log_space")
    w.start(op, "plain")
    add("frozen_z", _problem(w, 50, 8, 6, 5), 0.1, z=73.5)
    add("frozen_z_log_space", _problem(w, 50, 8, 6, 5), 0.1, form="log_space", z=73.5)
    add("batch1_noise1", _problem(w, 9, 4, 1, 1), 0.2)
    add("many_noise", _problem(w, 100, 16, 8, 400), 0.1)
    add("odd_sizes", _problem(w, 37, 13, 5, 11), 0.07)
    add("transposed", _problem(w, 30, 6, 4, 5), 0.1, layout="transposed")
    # exp(1 / tau) is beyond f32; the log-space form does not care.
    add("cold_log_space", _problem(w, 40, 8, 4, 6), 0.005, form="log_space", z=40.0, rtol=1e-4)
    f, bank, _, index = _problem(w, 10, 4, 2, 3)
    bad = index.clone()
    bad[1, 2] = 10
    w.error(op, "error_row", {"features": f, "bank": bank, "index": bad}, {"tau": 0.1, "form": "epsilon"}, "10")
    w.error(op, "error_z", {"features": f, "bank": bank, "index": index}, {"tau": 0.1, "form": "epsilon", "z": 0.0},
            "z")


def instdisc_full_softmax(w):
    op = "instdisc.full_softmax"

    def add(name, problem, tau, rtol=2e-5, atol=1e-5, layout=None, dtype="float32"):
        f, bank, target, _ = problem
        w.case(op, name, lambda i, _: {"loss": full_softmax(i["features"], i["bank"], target, tau)},
               {"features": f, "bank": bank, "target": target}, grads=["in.features"], rtol=rtol, atol=atol,
               args={"tau": tau} | ({"layout": layout} if layout else {}), dtype=dtype)

    raw, bank, target, index = _golden_a()
    for tau in (0.07, 0.1):
        add(f"golden_a_{tau}", (F.normalize(raw, dim=1), bank, target, index), tau)
    w.start(op, "plain")
    add("one_row", _problem(w, 1, 5, 3, 1), 0.1)
    add("seven_rows_batch1", _problem(w, 7, 6, 1, 1), 0.07)
    add("odd_127", _problem(w, 127, 9, 3, 1), 0.1)
    add("several_tiles", _problem(w, 5000, 8, 5, 1), 0.07)
    add("cold", _problem(w, 64, 8, 4, 1), 0.005, rtol=1e-4, atol=1e-4)
    add("transposed", _problem(w, 33, 8, 4, 1), 0.1, layout="transposed")
    add("f64", _problem(w, 33, 8, 4, 1), 0.1, dtype="float64", rtol=1e-10, atol=1e-10)
    f, bank, target, _ = _problem(w, 10, 4, 2, 1)
    w.error(op, "error_target", {"features": f, "bank": bank, "target": torch.tensor([3, 10])}, {"tau": 0.1}, "10")
    w.error(op, "error_width", {"features": f[:, :3], "bank": bank, "target": target}, {"tau": 0.1}, "3")


def instdisc_infonce(w):
    def add(name, problem, tau):
        f, bank, _, index = problem
        w.case("instdisc.infonce", name,
               lambda i, _: {"loss": info_nce(scores(i["features"], i["bank"], index, tau))},
               {"features": f, "bank": bank, "index": index}, grads=["in.features"], rtol=2e-5, atol=1e-5,
               args={"tau": tau})

    raw, bank, target, index = _golden_a()
    w.start("instdisc.infonce", "all")
    add("golden_a_inputs", (F.normalize(raw, dim=1), bank, target, index), 0.07)
    add("odd_sizes", _problem(w, 37, 13, 5, 11), 0.1)
    add("batch1_noise1", _problem(w, 9, 4, 1, 1), 0.2)
    add("cold", _problem(w, 40, 8, 4, 6), 0.005)


def instdisc_bank_update(w):
    op = "instdisc.bank_update"

    def add(name, f, bank, index, momentum, layout=None):
        w.case(op, name, lambda i, _: {"bank": bank_update(i["bank"], index, i["features"], momentum)},
               {"features": f, "bank": bank, "index": index}, grads=[], rtol=0.0, atol=1e-6,
               args={"momentum": momentum} | ({"layout": layout} if layout else {}))

    raw, bank, target, _ = _golden_a()
    add("golden_a", F.normalize(raw, dim=1), bank, target, 0.5)
    w.start(op, "all")
    f, bank, target, _ = _problem(w, 20, 7, 5, 1)
    add("momentum_0.9", f, bank, target, 0.9)
    add("momentum_0", f, bank, target, 0.0)
    add("momentum_1", f, bank * 0.7, target, 1.0)
    add("duplicates_in_batch_order", f, bank, torch.tensor([3, 3, 8, 3, 8]), 0.5)
    add("empty_batch", f[:0], bank, target[:0], 0.5)
    add("transposed_features", f, bank, target, 0.5, layout="transposed")
    w.error(op, "error_row", {"features": f, "bank": bank, "index": torch.tensor([0, 1, 2, 3, 20])},
            {"momentum": 0.5}, "20")


def instdisc_knn(w):
    def add(name, f, bank, labels, k, sigma):
        def run(i, _):
            rows, classes, shares, _ = knn(i["features"], i["bank"], labels, k, sigma)
            return {"neighbours": rows, "classes": classes, "shares": shares}

        w.case("instdisc.knn", name, run, {"features": f, "bank": bank, "labels": labels}, grads=[], rtol=1e-4,
               atol=1e-6, args={"k": k, "sigma": sigma})

    raw, bank, _, _ = _golden_a()
    f, labels = F.normalize(raw, dim=1), (5 * torch.arange(64) + 2) % 6
    for k, sigma in [(1, 0.07), (10, 0.07), (10, 0.1), (64, 0.1)]:
        add(f"golden_a_k{k}_{sigma}", f, bank, labels, k, sigma)
    w.start("instdisc.knn", "all")
    f, bank, _, _ = _problem(w, 40, 8, 6, 1)
    add("one_class", f, bank, torch.zeros(40, dtype=torch.long), 5, 0.1)
    # Axis-aligned rows: similarities and votes tie exactly.
    eye = torch.eye(4).double()
    bank = eye.repeat(3, 1)
    add("ties", torch.cat([eye, -eye[:2]]), bank, torch.tensor([2, 1, 0, 3, 0, 2, 1, 3, 1, 0, 2, 3]), 4, 0.1)
    f, bank, _, _ = _problem(w, 10, 4, 2, 1)
    w.error("instdisc.knn", "error_k", {"features": f, "bank": bank, "labels": torch.zeros(10, dtype=torch.long)},
            {"k": 11, "sigma": 0.1}, "k")


def instdisc_proximal(w):
    def add(name, f, previous, weight):
        w.case("instdisc.proximal", name, lambda i, _: {"loss": proximal(i["features"], i["previous"], weight)},
               {"features": f, "previous": previous}, grads=["in.features"], args={"lambda": weight}, rtol=1e-5,
               atol=1e-6)

    w.start("instdisc.proximal", "all")
    f, bank, _, _ = _problem(w, 6, 8, 6, 1)
    add("lambda_10", f, bank, 10.0)
    add("lambda_50", f, bank, 50.0)
    add("lambda_0", f, bank, 0.0)
    add("at_rest", f, f, 30.0)


def instdisc_model(w):
    op = "instdisc.model"

    def add(name, net, x, args, keep=(), train=False, dtype="float32", atol=5e-6, grads=("in.input",)):
        w.start(op, name)
        net = sine_init(net).double().train(train)
        inner = getattr(net, "net", net)

        def run(i, _):
            z = net(i["input"]) if inner is not net else F.normalize(net(i["input"]), dim=1)
            state = inner.state_dict()
            return {"embedding": z} | {k: state[k].clone() for k in keep}

        w.case(op, name, run, {"input": x}, args={"init": "sine", "dim": 128, "train": train} | args, rtol=1e-4,
               atol=atol, dtype=dtype, grads=list(grads), ref=TORCHVISION if inner is net else TORCH)

    cifar = {"depth": 18, "stem": "cifar"}
    add("cifar_resnet18", CifarResNet18(), sine_input(2, 32), cifar)
    add("cifar_resnet18_batch1_24px", CifarResNet18(), sine_input(1, 24), cifar)
    add("cifar_resnet18_train_f64", CifarResNet18(), sine_input(4, 32), cifar, train=True, dtype="float64",
        atol=1e-8, keep=("bn1.running_mean", "bn1.running_var"), grads=())
    add("imagenet_resnet18_64px", torchvision.models.resnet18(num_classes=128), sine_input(1, 64),
        {"depth": 18, "stem": "imagenet"})


def whole_models(w):
    """Golden B at 224 pixels: too slow for every test run."""
    for depth, atol in ((18, 5e-6), (50, 2e-5)):
        name = f"imagenet_resnet{depth}_224"
        w.start("instdisc.model", name)
        net = sine_init(getattr(torchvision.models, f"resnet{depth}")(num_classes=128)).double().eval()
        w.case("instdisc.model", name, lambda i, _, net=net: {"embedding": F.normalize(net(i["input"]), dim=1)},
               {"input": sine_input(1, 224)}, grads=[], rtol=1e-4, atol=atol, ref=TORCHVISION,
               args={"init": "sine", "dim": 128, "train": False, "depth": depth, "stem": "imagenet"})
