"""The long fuzz: random programs with and without the suite, and whatever they notice of us.

python benchmarks/fuzz.py                 # a thousand, about twenty minutes on a core
python benchmarks/fuzz.py 17 18           # these two, with their plans
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from fuzzing import complaints, plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("numbers", nargs="*", type=int, help="programs; by default a range")
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in ("lightning.pytorch", "pytorch_lightning", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    numbers = options.numbers or range(options.start, options.start + options.runs)
    begun, bad = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        for number in numbers:
            wrong = complaints(number)
            bad += bool(wrong)
            print(f"\r{number}", end="", file=sys.stderr, flush=True)
            if wrong or options.numbers:
                print(*wrong, plan(number), sep="\n  ", flush=True)
        os.chdir("/")
    seconds = time.perf_counter() - begun
    print(f"{len(numbers)} programs in {seconds:.0f} s, {bad} of them noticed us")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
