#!/usr/bin/env python3
"""ONNX Runtime's side of `cargo xtask bench --vs onnxruntime`: measures the forward pass of one network of `cases.json`.

    python3 benches/onnxruntime_peer.py CASE --threads N --seconds S

The network is exported by a process of its own, so that PyTorch's memory is not counted.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
import onnxruntime

import measuring


def main():
    args = measuring.parser(__doc__.split("\n")[0]).parse_args()
    case = measuring.find(args.case)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.onnx")
        exporter = Path(__file__).parent / "torch_peer.py"
        subprocess.run([sys.executable, exporter, args.case, "--export", path], check=True, stdout=subprocess.DEVNULL)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = args.threads, 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    x = numpy.random.default_rng(0).standard_normal(case["input"], "float32")
    feed = {session.get_inputs()[0].name: x}
    measuring.report(lambda: session.run(None, feed), args.seconds, onnxruntime.__version__)


if __name__ == "__main__":
    main()
