"""Slurm and other schedulers: a run that is certainly lost ends with exit code 86.

    #SBATCH --requeue
    python examples/slurm.py --lr 1e4
    code=$?
    [ $code -eq 86 ] && scancel "$SLURM_JOB_ID"   # it would be lost again: do not requeue
    exit $code

Any other error has the usual 1, and a run that finished has 0.
"""

from __future__ import annotations

import argparse
import sys

from _program import Classifier, batches, trainer

from lightning_nndebug import NNDebug, TrainingHalted

HALTED = 86


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=float, default=0.1)
    try:
        trainer(NNDebug(halt_on="error")).fit(Classifier(parser.parse_args().lr), batches())
    except TrainingHalted as halted:
        print(halted, file=sys.stderr)
        return HALTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
