#!/usr/bin/env python3
"""PyTorch's side of `cargo xtask bench --vs torch`: measures one case of `cases.json`.

    python3 benches/torch_peer.py CASE --threads N --seconds S
    python3 benches/torch_peer.py CASE --export FILE      # writes the case's network as ONNX instead

Inputs are NCHW, PyTorch's default; gradients are taken of everything that has one, except in cases of mode `forward`.
"""

import torch
import torch.nn.functional as F
from torch import nn

import measuring


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)), inplace=True)


class CifarResNet18(nn.Module):
    def __init__(self):
        super().__init__()
        layers, inputs = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True)], 64
        for outputs, stride in [(64, 1), (128, 2), (256, 2), (512, 2)]:
            layers += [BasicBlock(inputs, outputs, stride), BasicBlock(outputs, outputs, 1)]
            inputs = outputs
        self.body, self.fc = nn.Sequential(*layers), nn.Linear(512, 10)

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))


class UNet(nn.Module):
    """Seven 4x4 convolutions of stride 2 down to one pixel and seven transposed ones back, with skips."""

    WIDTHS = [64, 128, 256, 512, 512, 512, 512]

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        inputs = 3
        for level, width in enumerate(self.WIDTHS):
            norm = nn.BatchNorm2d(width) if 0 < level < len(self.WIDTHS) - 1 else nn.Identity()
            self.down.append(nn.Sequential(nn.Conv2d(inputs, width, 4, 2, 1), norm, nn.ReLU(inplace=True)))
            inputs = width
        for width in self.WIDTHS[-2::-1]:
            self.up.append(nn.Sequential(nn.ConvTranspose2d(inputs, width, 4, 2, 1), nn.BatchNorm2d(width),
                                         nn.ReLU(inplace=True)))
            inputs = 2 * width
        self.last = nn.ConvTranspose2d(inputs, 2, 4, 2, 1)

    def forward(self, x):
        kept = []
        for block in self.down:
            x = block(x)
            kept.append(x)
        kept.pop()
        for block in self.up:
            x = torch.cat([kept.pop(), block(x)], 1)
        return self.last(x)


def model_step(case):
    import torchvision

    name = case["op"].removeprefix("model.")
    if name == "cifar_resnet18":
        model = CifarResNet18()
    elif name == "unet":
        model = UNet()
    elif name == "encnet":
        return encnet_step(case)
    else:
        model = getattr(torchvision.models, name)()
    x = torch.randn(case["input"])
    if case["mode"] == "forward":
        model.eval()

        def step():
            with torch.no_grad():
                model(x)

        return step
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    target = torch.arange(x.shape[0]) % 10

    def step():
        optimiser.zero_grad()
        y = model(x)
        loss = F.cross_entropy(y, target) if y.dim() == 2 else (y * y).mean()
        loss.backward()
        optimiser.step()

    return step


def encnet_step(case):
    import encnet_model

    classes, x = case["classes"], torch.randn(case["input"])
    model = encnet_model.resnet50s(classes, lateral=True)
    if case["mode"] == "train":
        optimiser = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
        n, _, h, w = x.shape
        labels = torch.arange(n * h * w).reshape(n, h, w) // 997 % classes

        def step():
            optimiser.zero_grad()
            encnet_model.loss(model(x), labels, classes).backward()
            optimiser.step()

        return step
    model.eval()

    def step():
        with torch.no_grad():
            return model(x) if case["mode"] == "forward" else encnet_model.evaluate(model, x)

    return step


def export(case, path):
    """Writes the case's network, parameters drawn from the seed, as an ONNX file."""
    if case["op"] == "model.encnet":
        import encnet_model

        model = encnet_model.resnet50s(case["classes"], lateral=True)
    else:
        import torchvision

        model = getattr(torchvision.models, case["op"].removeprefix("model."))()
    torch.onnx.export(model.eval(), (torch.randn(case["input"]),), path, dynamo=True, external_data=False, verbose=False)


def boxes_of(case):
    """Boxes `(K, 5)` spread over the picture, the same on both sides: sides 16 to 200 pixels."""
    count, (batch, _, height, width) = case["boxes"], case["input"]
    scale = case["spatial_scale"]
    k = torch.arange(count, dtype=torch.float64)
    w, h = 16 + (k * 37) % 185, 16 + (k * 53) % 185
    x = (k * 71) % (width / scale - 16)
    y = (k * 29) % (height / scale - 16)
    return torch.stack([k % batch, x, y, x + w, y + h], 1).float()


def detections(count):
    """Boxes and scores of a crowded picture, the same on both sides: sides 16 to 200 pixels."""
    k = torch.arange(count)
    x, y, w, h = k * 7919 % 1000, k * 104729 % 600, 16 + k * 37 % 185, 16 + k * 53 % 185
    return torch.stack([x, y, x + w, y + h], 1).float(), (k * 48271 % 65537).float() / 65537


def soft_nms(boxes, scores, sigma=0.5, min_score=0.001):
    """Gaussian soft suppression in whole-tensor steps: torchvision has none."""
    rows, kept = torch.arange(len(scores)), []
    while len(rows):
        best = scores.argmax()
        kept.append(rows[best])
        corner, rest = boxes[best], torch.arange(len(rows)) != best
        boxes, scores, rows = boxes[rest], scores[rest], rows[rest]
        sides = (torch.min(corner[2:], boxes[:, 2:]) - torch.max(corner[:2], boxes[:, :2])).clamp(min=0)
        inter = sides.prod(1)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        overlap = inter / ((corner[2:] - corner[:2]).prod() + areas - inter)
        scores = scores * torch.exp(-overlap**2 / sigma)
        left = (scores >= min_score) | (inter == 0)
        boxes, scores, rows = boxes[left], scores[left], rows[left]
    return torch.stack(kept)


def box_step(case):
    import torchvision.ops as ops

    boxes, scores = detections(case["input"][0])
    op = case["op"]
    if op.endswith("box_iou"):
        others = detections(case["input"][0] + case["others"])[0][-case["others"]:].requires_grad_()
        boxes.requires_grad_()

        def step():
            boxes.grad = others.grad = None
            getattr(ops, op)(boxes, others).sum().backward()

        return step
    if op == "nms":
        return lambda: ops.nms(boxes, scores, case["iou_threshold"])
    if op == "batched_nms":
        classes = torch.arange(len(boxes)) * 31 % case["classes"]
        return lambda: ops.batched_nms(boxes, scores, classes, case["iou_threshold"])
    return lambda: soft_nms(boxes, scores)


BOX_OPS = ("box_iou", "generalized_box_iou", "nms", "batched_nms", "soft_nms")


def op_step(case):
    import torchvision.ops as ops

    if case["op"] in BOX_OPS:
        return box_step(case)

    op, rest = case["op"], case
    x = torch.randn(case["input"], requires_grad=True)
    weight = torch.randn(case["weight"], requires_grad=True) if "weight" in case else None
    moved = {k: case[k] for k in ("stride", "padding", "groups") if k in case}
    if op in ("conv2d", "conv_transpose2d"):
        run = lambda: getattr(F, op)(x, weight, **moved)
    elif op == "max_pool2d":
        run = lambda: F.max_pool2d(x, rest["kernel"], **moved)
    elif op in ("adaptive_avg_pool2d", "adaptive_max_pool2d"):
        run = lambda: getattr(F, op)(x, rest["output"])
    elif op == "batch_norm":
        c = x.shape[1]
        mean, var = torch.zeros(c), torch.ones(c)
        scale, bias = torch.ones(c, requires_grad=True), torch.zeros(c, requires_grad=True)
        run = lambda: F.batch_norm(x, mean, var, scale, bias, True)
    elif op == "relu":
        run = lambda: F.relu(x)
    elif op == "linear":
        run = lambda: F.linear(x, weight)
    elif op == "cross_entropy":
        target = torch.arange(x.shape[0]) % x.shape[1]
        run = lambda: F.cross_entropy(x, target)
    elif op == "avg_pool2d":
        run = lambda: F.avg_pool2d(x, rest["kernel"], **moved)
    elif op == "interpolate":
        run = lambda: F.interpolate(x, size=rest["output"], mode="bilinear")
    elif op == "grid_sample":
        n, _, h, w = x.shape
        grid = (torch.rand(n, h, w, 2) * 2 - 1).requires_grad_()
        run = lambda: F.grid_sample(x, grid, align_corners=False)
    elif op == "deform_conv2d":
        g, (_, _, kh, kw) = rest["offset_groups"], weight.shape
        n, _, h, w = x.shape
        offset = (0.5 * torch.randn(n, 2 * g * kh * kw, h, w)).requires_grad_()
        mask = torch.rand(n, g * kh * kw, h, w).requires_grad_() if rest["mask"] else None
        run = lambda: ops.deform_conv2d(x, offset, weight, mask=mask, padding=rest["padding"], dilation=rest["dilation"])
    elif op in ("roi_align", "ps_roi_align"):
        boxes, extra = boxes_of(case), {"aligned": True} if op == "roi_align" else {}
        run = lambda: getattr(ops, op)(x, boxes, rest["output"], rest["spatial_scale"], rest["ratio"], **extra)
    elif op in ("roi_pool", "ps_roi_pool"):
        boxes = boxes_of(case)
        run = lambda: getattr(ops, op)(x, boxes, rest["output"], rest["spatial_scale"])
    elif op == "deform_ps_roi_pool":
        # What torchvision has that comes closest: the same samples at places that stay.
        boxes = boxes_of(case)
        run = lambda: ops.ps_roi_align(x, boxes, rest["output"], rest["spatial_scale"], 4)
    elif op == "crop_and_resize":
        # One sample per cell, read the same way.
        boxes = boxes_of(case)
        run = lambda: ops.roi_align(x, boxes, rest["output"], rest["spatial_scale"], 1)
    elif op in ("sgd_step", "adam_step"):
        if op == "sgd_step":
            optimiser = torch.optim.SGD([x], lr=1e-3, momentum=0.9, weight_decay=5e-4)
        else:
            optimiser = torch.optim.AdamW([x], lr=1e-3, weight_decay=1e-2)
        gradient = torch.randn_like(x)

        def run():
            x.grad = gradient
            optimiser.step()
            return x.detach()[:1]
    elif op in ("binary_cross_entropy_with_logits", "smooth_l1_loss"):
        target = torch.rand(case["input"])
        run = lambda: getattr(F, op)(x, target)
    elif op == "dropout":
        run = lambda: F.dropout(x, 0.5, training=True)
    elif op in ("index_add", "scatter_add"):
        added = torch.randn(rest["added"], x.shape[1], requires_grad=True)
        index = torch.arange(rest["added"]) * 7919 % x.shape[0]
        if op == "scatter_add":
            index = index[:, None].expand(-1, x.shape[1]).contiguous()

        def run():
            added.grad = None
            return getattr(torch, op)(x, 0, index, added)
    elif op == "softplus":
        run = lambda: F.softplus(x)
    elif op == "topk":
        run = lambda: x.detach().topk(rest["k"])[0]
    elif op == "l2_normalize":
        run = lambda: F.normalize(x)
    elif op == "encoding":
        codes, channels = rest["codes"], x.shape[2]
        codewords = (torch.rand(codes, channels) / (codes * channels) ** 0.5).requires_grad_()
        scale = (-torch.rand(codes)).requires_grad_()

        def run():
            codewords.grad = scale.grad = None
            # As matrix products; the form with residuals, as most code has it, takes twenty times as long.
            distance = x.square().sum(2, keepdim=True) - 2 * (x @ codewords.T) + codewords.square().sum(1)
            share = torch.softmax(scale * distance, 2)
            return share.transpose(1, 2) @ x - share.sum(1).unsqueeze(2) * codewords
    elif "rows" in rest:
        bank = F.normalize(torch.randn(rest["rows"], x.shape[1]))
        index = torch.arange(x.shape[0]) * 7 % rest["rows"]
        if op == "inner_product_topk":
            run = lambda: (x.detach() @ bank.T).topk(rest["k"])[0]
        elif op == "gather_scores":
            drawn = torch.arange(x.shape[0] * rest["k"]).reshape(x.shape[0], -1) * 31 % rest["rows"]
            run = lambda: torch.bmm(bank[drawn], x.unsqueeze(2)).squeeze(2) / 0.07
        elif op == "bank_cross_entropy":
            run = lambda: F.cross_entropy(x @ bank.T / 0.07, index, reduction="none")
        else:
            def run():
                bank[index] = F.normalize(0.5 * bank[index] + 0.5 * x.detach())
                return bank[:1]
    else:
        raise SystemExit(f"no reference for {op}")

    def step():
        for leaf in (x, weight):
            if leaf is not None:
                leaf.grad = None
        y = run()
        if y.requires_grad:
            y.sum().backward()

    return step


def main():
    parser = measuring.parser(__doc__.split("\n")[0])
    parser.add_argument("--export", metavar="FILE")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    case = measuring.find(args.case)
    if args.export:
        return export(case, args.export)
    step = model_step(case) if case["op"].startswith("model.") else op_step(case)
    return measuring.report(step, args.seconds, torch.__version__, case.get("slow", False))


if __name__ == "__main__":
    main()
