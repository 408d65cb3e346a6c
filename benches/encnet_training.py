#!/usr/bin/env python3
"""The training of `encnet train --config camvid` in PyTorch, for comparison of time and result.

    python3 benches/encnet_training.py FOLDER [--fcn] [--epochs 30] [--eval-every 3] [--seed 0] [--threads 2]

FOLDER holds `train`, `trainannot`, `val`, `valannot`, `test` and `testannot` with pictures and masks of numbers, of which
11 is no class. Same network, initial distributions, augmentation, objective, optimiser and schedule; other random numbers.
"""

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from encnet_model import DilatedResNet18s, EncNet, loss

CLASSES, CROP, BATCH, RATE = 11, 176, 8, 0.05
MEAN, STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def read(folder, part):
    mask = lambda path: folder / f"{part}annot" / f"{path.stem}.png"
    return [(Image.open(path).convert("RGB"), Image.open(mask(path))) for path in sorted((folder / part).iterdir())]


def numbers(image, mask):
    x = (np.asarray(image, np.float32) / 255 - MEAN) / STD
    y = np.asarray(mask).astype(np.int64)
    return torch.from_numpy(x).permute(2, 0, 1), torch.from_numpy(np.where(y >= CLASSES, -1, y))


def augment(image, mask):
    if random.random() < 0.5:
        image, mask = (x.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for x in (image, mask))
    w, h = image.size
    long = random.randint(180, 360)
    size = (int(w * long / h + 0.5), long) if h > w else (long, int(h * long / w + 0.5))
    image, mask = image.resize(size, Image.BILINEAR), mask.resize(size, Image.NEAREST)
    w, h = max(size[0], CROP), max(size[1], CROP)
    canvas, labels = Image.new("RGB", (w, h)), Image.new("L", (w, h), 255)
    canvas.paste(image, (0, 0))
    labels.paste(mask, (0, 0))
    x, y = random.randint(0, w - CROP), random.randint(0, h - CROP)
    box = (x, y, x + CROP, y + CROP)
    return numbers(canvas.crop(box), labels.crop(box))


@torch.no_grad()
def measure(model, pictures):
    model.eval()
    counts = np.zeros((CLASSES, CLASSES), np.int64)
    for image, mask in pictures:
        x, y = numbers(image, mask)
        found = model(x[None]).argmax(1)[0].numpy()
        known = y.numpy() >= 0
        counts += np.bincount(y.numpy()[known] * CLASSES + found[known], minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    model.train()
    hits = counts.diagonal()
    return hits.sum() / counts.sum(), (hits / np.maximum(counts.sum(0) + counts.sum(1) - hits, 1)).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fcn", action="store_true")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--eval-every", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-steps", type=int, help="stop early, to measure time")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    random.seed(args.seed)
    model = EncNet(DilatedResNet18s(16), (32, 64, 128), CLASSES, channels=64, lateral=True, context=not args.fcn)
    optimiser = torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=1e-4)
    pictures = read(args.folder, "train")
    per_epoch = len(pictures) // BATCH
    total, step, start = args.epochs * per_epoch, 0, time.perf_counter()
    for epoch in range(args.epochs):
        random.shuffle(pictures)
        for batch in range(per_epoch):
            for group in optimiser.param_groups:
                group["lr"] = RATE * (1 - step / total) ** 0.9
            pairs = [augment(*pair) for pair in pictures[batch * BATCH : (batch + 1) * BATCH]]
            x, y = (torch.stack(parts) for parts in zip(*pairs))
            value = loss(model(x), y, CLASSES)
            optimiser.zero_grad()
            value.backward()
            optimiser.step()
            step += 1
            if step == args.max_steps:
                print(f"{step} steps, {step * BATCH / (time.perf_counter() - start):.1f} pictures a second")
                return
        if (epoch + 1) % args.eval_every == 0 or epoch + 1 == args.epochs:
            seconds = time.perf_counter() - start
            accuracy, miou = measure(model, read(args.folder, "val"))
            print(f"epoch {epoch + 1}  {seconds:.0f} s  loss {value.item():.3f}  val pix_acc {accuracy:.4f} miou {miou:.4f}",
                  flush=True)
    accuracy, miou = measure(model, read(args.folder, "test"))
    print(f"test pix_acc {accuracy:.4f} miou {miou:.4f}")


if __name__ == "__main__":
    main()
