"""The peer of the crate `encnet`: the same network and evaluation in PyTorch, as its users write them.

The Encoding layer is in the form of matrix products, which is the fastest that eager PyTorch has; the backbone is
torchvision's with its dilations and a deep stem.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Encoding(nn.Module):
    def __init__(self, channels, codes):
        super().__init__()
        bound = 1 / math.sqrt(channels * codes)
        self.codewords = nn.Parameter(torch.empty(codes, channels).uniform_(-bound, bound))
        self.scale = nn.Parameter(torch.empty(codes).uniform_(-1, 0))

    def forward(self, x):
        return encoding(x.flatten(2).transpose(1, 2), self.codewords, self.scale)


def encoding(x, codewords, scale):
    """Encoding of `(B, N, D)` by `(K, D)` and `(K,)`: `(B, K, D)`, without a tensor of `B N K D` numbers."""
    distance = (x * x).sum(2, keepdim=True) - 2 * x @ codewords.T + (codewords * codewords).sum(1)
    share = torch.softmax(distance * scale, 2)
    return share.transpose(1, 2) @ x - share.sum(1).unsqueeze(2) * codewords


def conv_norm(inputs, outputs, kernel):
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs),
                         nn.ReLU(inplace=True))


class Context(nn.Module):
    """The context encoding module: the map re-weighted by channel, and logits of the classes in the picture."""

    def __init__(self, channels, classes, codes=32, projection=True):
        super().__init__()
        self.projection = conv_norm(channels, channels, 1) if projection else nn.Identity()
        self.encoding, self.norm = Encoding(channels, codes), nn.BatchNorm1d(codes)
        self.fc, self.se = nn.Linear(channels, channels), nn.Linear(channels, classes)

    def forward(self, x):
        e = F.relu(self.norm(self.encoding(self.projection(x)))).mean(1)
        gate = torch.sigmoid(self.fc(e))[:, :, None, None]
        return F.relu(x + x * gate), self.se(e)


def fcn_head(inputs, classes, channels=None):
    channels = channels or inputs // 4
    return nn.Sequential(conv_norm(inputs, channels, 3), nn.Dropout2d(0.1), nn.Conv2d(channels, classes, 1))


class DilatedResNet50s(nn.Module):
    """Maps of the four stages; the last two keep the resolution of the second."""

    def __init__(self):
        import torchvision

        super().__init__()
        net = torchvision.models.resnet50(replace_stride_with_dilation=[False, True, True])
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True), conv_norm(64, 64, 3),
            conv_norm(64, 128, 3), nn.MaxPool2d(3, 2, 1))
        first = net.layer1[0]
        first.conv1 = nn.Conv2d(128, 64, 1, bias=False)
        first.downsample[0] = nn.Conv2d(128, 256, 1, bias=False)
        self.stages = nn.ModuleList([net.layer1, net.layer2, net.layer3, net.layer4])

    def forward(self, x):
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, first_dilation, dilation):
        super().__init__()
        conv = lambda i, s, d: nn.Conv2d(i, outputs, 3, s, d, d, bias=False)
        self.conv1, self.bn1 = conv(inputs, stride, first_dilation), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, 1, dilation), nn.BatchNorm2d(outputs)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)), inplace=True)


class DilatedResNet18s(nn.Module):
    """Basic blocks 2-2-2-2 with a deep stem of `width`, `width` and twice that many channels."""

    def __init__(self, width):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            conv_norm(width, width, 3), conv_norm(width, 2 * width, 3), nn.MaxPool2d(3, 2, 1))
        self.stages, inputs = nn.ModuleList(), 2 * width
        for planes, stride, before, dilation in [(1, 1, 1, 1), (2, 2, 1, 1), (4, 1, 1, 2), (8, 1, 2, 4)]:
            first = BasicBlock(inputs, planes * width, stride, before, dilation)
            second = BasicBlock(planes * width, planes * width, 1, dilation, dilation)
            self.stages.append(nn.Sequential(first, second))
            inputs = planes * width
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x, maps = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class EncNet(nn.Module):
    """EncNet, or with `context=False` the FCN that it is compared with."""

    def __init__(self, backbone, stages, classes, channels=512, lateral=True, context=True):
        super().__init__()
        second, third, last = stages
        self.backbone, self.lateral = backbone, None
        self.auxiliary = fcn_head(third, classes)
        if not context:
            self.head, self.context = fcn_head(last, classes), None
            return
        self.conv5 = conv_norm(last, channels, 3)
        if lateral:
            self.lateral = nn.ModuleList([conv_norm(second, channels, 1), conv_norm(third, channels, 1)])
            self.fusion = conv_norm(3 * channels, channels, 3)
        self.context = Context(channels, classes)
        self.conv6 = nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(channels, classes, 1))

    def forward(self, x):
        _, c2, c3, c4 = self.backbone(x)
        full = lambda z: F.interpolate(z, x.shape[2:], mode="bilinear", align_corners=True)
        se = None
        if self.context is None:
            main = self.head(c4)
        else:
            y = self.conv5(c4)
            if self.lateral is not None:
                y = self.fusion(torch.cat([y, self.lateral[0](c2), self.lateral[1](c3)], 1))
            y, se = self.context(y)
            main = self.conv6(y)
        return (full(main), se, full(self.auxiliary(c3))) if self.training else full(main)


def resnet50s(classes, lateral):
    """The network of the paper with a ResNet-50."""
    return EncNet(DilatedResNet50s(), (512, 1024, 2048), classes, lateral=lateral)


def targets(labels, classes):
    """Which classes occur in each map of labels; -1 is none."""
    return torch.stack([torch.histc(one.float(), classes, 0, classes - 1) > 0 for one in labels]).float()


def loss(outputs, labels, classes, weight=0.2):
    main, se, auxiliary = outputs
    ce = lambda logits: F.cross_entropy(logits, labels, ignore_index=-1)
    total = ce(main) + weight * ce(auxiliary)
    if se is None:
        return total
    return total + weight * F.binary_cross_entropy_with_logits(se, targets(labels, classes))


@torch.no_grad()
def evaluate(model, image, base=520, crop=480, scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75)):
    """Scores of a normalised picture `(1, 3, H, W)`: windows one at a time, each with its mirror image."""
    _, _, h, w = image.shape
    fill = [-m / s for m, s in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    resize = lambda x, size: F.interpolate(x, size, mode="bilinear", align_corners=True)

    def pad(x, height, width):
        missing = (0, max(width - x.shape[3], 0), 0, max(height - x.shape[2], 0))
        return torch.cat([F.pad(x[:, c : c + 1], missing, value=fill[c]) for c in range(3)], 1)

    def infer(x):
        return (model(x) + model(x.flip(3)).flip(3)).exp()

    scores = 0
    for scale in scales:
        long = math.ceil(base * scale)
        size = [long, int(w * long / h + 0.5)] if h > w else [int(h * long / w + 0.5), long]
        padded = pad(resize(image, size), crop, crop)
        ph, pw = padded.shape[2:]
        if long <= crop:
            out = infer(padded)
        else:
            stride, out, count = int(crop * 2 / 3), 0, torch.zeros(1, 1, ph, pw)
            starts = lambda side: [i * stride for i in range(math.ceil((side - crop) / stride) + 1)]
            for y in starts(ph):
                for x in starts(pw):
                    window = padded[:, :, y : y + crop, x : x + crop]
                    part = infer(pad(window, crop, crop))[:, :, : window.shape[2], : window.shape[3]]
                    if isinstance(out, int):
                        out = torch.zeros(1, part.shape[1], ph, pw)
                    out[:, :, y : y + crop, x : x + crop] += part
                    count[:, :, y : y + crop, x : x + crop] += 1
            out = out / count
        scores = scores + resize(out[:, :, : size[0], : size[1]], (h, w))
    return scores
