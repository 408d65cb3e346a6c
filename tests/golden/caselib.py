"""Writing of golden cases: seeded inputs, reference outputs and gradients, one safetensors file each.

References are evaluated in float64 on inputs already rounded to the stored type, and rounded once at the end,
so a tolerance speaks about the code under test and not about the reference. `native=True` evaluates in the
stored type instead, for cases about overflow.
"""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import torch
import torchvision

TORCH = f"torch {torch.__version__.split('+')[0]}"
TORCHVISION = f"torchvision {torchvision.__version__.split('+')[0]}"

_NAMES = {"float64": "F64", "float32": "F32", "int64": "I64", "uint8": "U8"}


def to_bytes(tensors, metadata):
    """A safetensors file with sorted names, so that the same case is always the same bytes."""
    header, body = {"__metadata__": dict(sorted(metadata.items()))}, b""
    # Wider types first keeps every tensor aligned.
    for name in sorted(tensors, key=lambda n: (-tensors[n].dtype.itemsize, n)):
        array = tensors[name]
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": _NAMES[array.dtype.name],
            "shape": list(array.shape),
            "data_offsets": [len(body), len(body) + len(raw)],
        }
        body += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


class Writer:
    """Collects the cases of one run under a folder."""

    def __init__(self, folder, seed=0):
        self.folder, self.seed, self.count, self.bytes = Path(folder), seed, 0, 0
        self.generator = None
        self.written = set()

    def start(self, op, name):
        """Seeds the inputs of case `op/name`: a new case never changes another one."""
        digest = hashlib.sha256(f"{self.seed}/{op}/{name}".encode()).digest()
        self.generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))

    def randn(self, *shape, std=1.0, mean=0.0):
        return torch.randn(shape, generator=self.generator, dtype=torch.float64) * std + mean

    def rand(self, *shape, low=0.0, high=1.0):
        return torch.rand(shape, generator=self.generator, dtype=torch.float64) * (high - low) + low

    def randint(self, low, high, *shape):
        return torch.randint(low, high, shape, generator=self.generator)

    def put(self, op, name, tensors, args, ref, rtol, atol, expect_error=None):
        metadata = {
            "op": op,
            "args": json.dumps(args, sort_keys=True),
            "rtol": repr(rtol),
            "atol": repr(atol),
            "ref": ref,
        }
        if expect_error is not None:
            metadata["expect_error"] = expect_error
        path = self.folder / op / f"{name}.safetensors"
        if path in self.written:
            raise ValueError(f"two cases write {path}")
        path.parent.mkdir(parents=True, exist_ok=True)
        data = to_bytes(tensors, metadata)
        path.write_bytes(data)
        self.written.add(path)
        self.count += 1
        self.bytes += len(data)

    def case(self, op, name, function, inputs, *, params=None, args=None, grads=None, dtype="float32",
             ref=TORCH, rtol=1e-5, atol=1e-5, native=False, hidden=None):
        """Runs `function(inputs, params) -> {name: tensor}` and writes the case.

        `grads` names what gets a gradient (`in.x`, `param.w`); None means every floating input and parameter,
        an empty list means no backward. `hidden` are a network's parameters by name: their gradients are stored,
        they are not, because both sides make them from a formula.
        """
        stored = getattr(torch, dtype)
        work = stored if native else torch.float64

        def leaf(value):
            if not torch.is_floating_point(value):
                return value
            return value.detach().to(stored).to(work)

        values = {f"in.{k}": leaf(v) for k, v in inputs.items()}
        values |= {f"param.{k}": leaf(v) for k, v in (params or {}).items()}
        if grads is None:
            grads = [k for k, v in values.items() if torch.is_floating_point(v)]
        for key in grads:
            values[key].requires_grad_(True)
        # Taken before the run: an op may write its running statistics in place.
        tensors = {k: _array(v, stored) for k, v in values.items()}
        outputs = function(
            {k[3:]: v for k, v in values.items() if k.startswith("in.")},
            {k[6:]: v for k, v in values.items() if k.startswith("param.")},
        )
        total = 0.0
        for key, value in outputs.items():
            tensors[f"out.{key}"] = _array(value, stored)
            if grads and value.requires_grad:
                upstream = leaf(self.randn(*value.shape))
                tensors[f"gradout.{key}"] = _array(upstream, stored)
                total = total + (value * upstream).sum()
        leaves = {k: values[k] for k in grads} | {f"param.{k}": v for k, v in (hidden or {}).items()}
        if leaves:
            got = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
            for key, grad in zip(leaves, got):
                grad = torch.zeros_like(leaves[key]) if grad is None else grad
                tensors[f"grad.{key}"] = _array(grad, stored)
        self.put(op, name, tensors, args or {}, ref, rtol, atol)

    def error(self, op, name, inputs, args, message, ref=TORCH, dtype="float32"):
        """A case whose run must return an error that contains `message`."""
        stored = getattr(torch, dtype)
        tensors = {f"in.{k}": _array(v, stored) for k, v in inputs.items()}
        self.put(op, name, tensors, args, ref, 0.0, 0.0, expect_error=message)


def _array(value, stored):
    value = value.detach()
    if torch.is_floating_point(value):
        value = value.to(stored)
    # A copy: the tensor behind it may be written later.
    return value.contiguous().numpy().copy()
