#!/usr/bin/env python3
"""The training of `encnet-classify train --config digits` and `--config cifar10` in PyTorch, for comparison of time and result.

    python3 benches/encnet_cifar.py digits [--seed 0] [--threads 2] [--epochs 8] [--plain]
    python3 benches/encnet_cifar.py cifar10 FOLDER [--wide] [--widen 4] [--codes 16] [--epochs 600]

`digits` reads the digits of this repository, FOLDER holds CIFAR-10's `data_batch_1.bin` to `test_batch.bin`. Same network,
initial distributions, augmentation, objective, optimiser and schedule; other random numbers.
"""

import argparse
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from encnet_model import encoding

SIDE = 32
SAMPLES = Path(__file__).resolve().parent.parent / "datasets/samples"


class EncLayer(nn.Module):
    """Factors of the channels of a map by the encoding of a quarter of them."""

    def __init__(self, channels, codes):
        super().__init__()
        quarter = channels // 4
        bound = 1 / math.sqrt(quarter * codes)
        self.project, self.norm = nn.Conv2d(channels, quarter, 1), nn.BatchNorm2d(quarter)
        self.codewords = nn.Parameter(torch.empty(codes, quarter).uniform_(-bound, bound))
        self.linear = nn.Linear(codes * quarter, channels)

    def forward(self, x):
        y = F.relu(self.norm(self.project(x)))
        codes = len(self.codewords)
        scale = torch.empty(codes).uniform_(-1, 0) if self.training else torch.full((codes,), -0.5)
        e = encoding(y.flatten(2).transpose(1, 2), self.codewords, scale).flatten(1)
        return x * torch.sigmoid(self.linear(F.normalize(e, eps=1e-8)))[:, :, None, None]


def conv3(inputs, outputs, stride=1):
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride, codes):
        super().__init__()
        self.codes = codes
        self.conv1, self.conv2 = conv3(inputs, outputs, stride), conv3(outputs, outputs)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs if codes else inputs), nn.BatchNorm2d(outputs)
        self.enc = EncLayer(outputs, codes) if codes else None
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x):
        if self.codes:
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            return F.relu(self.enc(y) + self.shortcut(x))
        y = self.conv1(F.relu(self.bn1(x)))
        return self.conv2(F.relu(self.bn2(y))) + self.shortcut(x)


class CifarNet(nn.Module):
    def __init__(self, widen, codes, classes=10):
        super().__init__()
        width = 16 * widen
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU())
        blocks, inputs = [], width
        for stage in range(3):
            for index in range(2):
                stride = 2 if stage and not index else 1
                blocks.append(Block(inputs, width << stage, stride, codes))
                inputs = width << stage
        self.blocks, self.norm, self.fc = nn.Sequential(*blocks), nn.BatchNorm2d(inputs), nn.Linear(inputs, classes)

    def forward(self, x):
        return self.fc(F.relu(self.norm(self.blocks(self.stem(x)))).mean((2, 3)))


def digits():
    read = lambda name, head: np.frombuffer((SAMPLES / "digits" / name).read_bytes()[head:], np.uint8)
    images = read("images-idx3-ubyte", 16).reshape(-1, 8, 8)
    labels = read("labels-idx1-ubyte", 8).astype(np.int64)
    grow = lambda x: np.asarray(Image.fromarray(x).resize((SIDE, SIDE), Image.BILINEAR))
    images = np.stack([grow(image) for image in images])[..., None].repeat(3, 3)
    return (images[:1437], labels[:1437]), (images[1437:], labels[1437:])


def cifar10(folder):
    def part(names):
        rows = np.concatenate([np.fromfile(folder / name, np.uint8).reshape(-1, 3073) for name in names])
        return rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), rows[:, 0].astype(np.int64)

    return part([f"data_batch_{n}.bin" for n in range(1, 6)]), part(["test_batch.bin"])


def batch(images, mean, std):
    x = (images.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()


def augment(image, pad, flip):
    x, y = random.randint(0, 2 * pad), random.randint(0, 2 * pad)
    image = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))[y : y + SIDE, x : x + SIDE]
    return image[:, ::-1] if flip and random.random() < 0.5 else image


@torch.no_grad()
def measure(model, images, labels, constants):
    model.eval()
    right = 0
    for at in range(0, len(labels), 256):
        found = model(batch(images[at : at + 256], *constants)).argmax(1).numpy()
        right += int((found == labels[at : at + 256]).sum())
    model.train()
    return right / len(labels)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("set", choices=["digits", "cifar10"])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--wide", action="store_true", help="cifar10-wide")
    parser.add_argument("--widen", type=int, help="channels of the first stage, in sixteens")
    parser.add_argument("--codes", type=int, help="codewords of each layer")
    parser.add_argument("--plain", action="store_true", help="the network without encoding")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-steps", type=int, help="stop early, to measure time")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    if args.set == "digits":
        (images, labels), test = digits()
        widen, codes, epochs, size, rate, pad, flip = 1, 8, 8, 32, 0.1, 2, False
        constants = [0.3] * 3, [0.32] * 3
    else:
        (images, labels), test = cifar10(args.folder)
        widen, codes = (8, 32) if args.wide else (4, 16)
        epochs, size, rate, pad, flip = 600, 128, 0.1, 4, True
        constants = [0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]
    epochs, widen, codes = args.epochs or epochs, args.widen or widen, args.codes or codes
    model = CifarNet(widen, 0 if args.plain else codes)
    # The scales of the encoding are drawn, so they are no parameters here.
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters")
    optimiser = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=5e-4)
    per_epoch = -(-len(labels) // size)
    total, step, start, best = epochs * per_epoch, 0, time.perf_counter(), 0.0
    for epoch in range(epochs):
        order = torch.randperm(len(labels)).numpy()
        for at in range(0, len(labels), size):
            for group in optimiser.param_groups:
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / total))
            chosen = order[at : at + size]
            x = batch(np.stack([augment(images[i], pad, flip) for i in chosen]), *constants)
            loss = F.cross_entropy(model(x), torch.from_numpy(labels[chosen]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            step += 1
            if step == args.max_steps:
                seconds = time.perf_counter() - start
                print(f"{step} steps, {step * size / seconds:.1f} pictures a second")
                return
        top1 = measure(model, *test, constants)
        best = max(best, top1)
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1}  {seconds:.0f} s  loss {loss.item():.4f}  top1 {top1:.4f}", flush=True)
    print(f"seed {args.seed}: top1 {top1:.4f}, best {best:.4f}, {seconds:.0f} s")


if __name__ == "__main__":
    main()
