"""What the peers of `cargo xtask bench` share: their arguments, the loop that takes times, the line they print."""

import argparse
import json
import resource
import time
from pathlib import Path


def parser(description):
    made = argparse.ArgumentParser(description=description)
    made.add_argument("case")
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--seconds", type=float, default=1.0)
    return made


def find(name):
    """The case of that name in `cases.json`."""
    cases = json.loads((Path(__file__).parent / "cases.json").read_text())
    return next(case for case in cases if case["name"] == name)


def report(step, seconds, version, slow=False):
    """Repeats `step` for so long, three times at least, after one that does not count, and prints what it took; a slow
    one is taken once."""
    if not slow:
        step()
    times, start = [], time.perf_counter()
    while len(times) < (1 if slow else 3) or (not slow and time.perf_counter() - start < seconds):
        before = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - before))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"ms": times, "peak_mib": peak, "version": version}))
