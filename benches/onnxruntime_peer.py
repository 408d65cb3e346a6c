#!/usr/bin/env python3
"""ONNX Runtime's side of `cargo xtask bench --vs onnxruntime`: measures the forward pass of one network of `cases.json`.

    python3 benches/onnxruntime_peer.py CASE --threads N --seconds S

The network is exported by a process of its own, so that PyTorch's memory is not counted, once: it stays under
`target/bench`.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy
import onnxruntime

import measuring


def main():
    args = measuring.parser(__doc__.split("\n")[0]).parse_args()
    case = measuring.find(args.case)
    folder = Path(__file__).parent.parent / "target" / "bench"
    path = folder / (args.case.replace(" ", "-") + ".onnx")
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        exporter, part = Path(__file__).parent / "torch_peer.py", path.with_suffix(".part")
        subprocess.run([sys.executable, exporter, args.case, "--export", part], check=True, stdout=subprocess.DEVNULL)
        os.replace(part, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = args.threads, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    x = numpy.random.default_rng(0).standard_normal(case["input"], "float32")
    feed = {session.get_inputs()[0].name: x}
    measuring.report(lambda: session.run(None, feed), args.seconds, onnxruntime.__version__)


if __name__ == "__main__":
    main()
