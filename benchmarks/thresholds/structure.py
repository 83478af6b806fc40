"""How much of a signal gets through a batch norm, by the number of values behind its statistics.

    python benchmarks/thresholds/structure.py

Prints, for normal and for ReLU features, the correlation between what the norm gives in training
and what the same norm would give with the true statistics; 1 is lossless. Draws it, too, into
``benchmarks/results/structure.png``.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import torch
from torch import Tensor

from lightning_nndebug import StructureDetector

VALUES = (2, 3, 4, 5, 6, 8, 12, 16, 32, 64)
KINDS = {"normal": lambda x: x, "ReLU": torch.relu}


def kept(x: Tensor) -> float:
    """Returns the correlation for batches (number, values)."""
    normed = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    pair = torch.stack([x.flatten(), normed.flatten()])
    return float(torch.corrcoef(pair)[0, 1])


def main() -> None:
    torch.manual_seed(0)
    print(f"{'values':<10}" + "".join(f"{n:>8}" for n in VALUES))
    rows = {}
    for name, function in KINDS.items():
        rows[name] = [kept(function(torch.randn(200_000 // n, n))) for n in VALUES]
        print(f"{name:<10}" + "".join(f"{one:>8.3f}" for one in rows[name]))
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(4.5, 2.8), layout="constrained")
    for name, row in rows.items():
        axis.plot(VALUES, row, marker="o", ms=3, label=name)
    axis.axvline(StructureDetector().smallest_norm_batch - 0.5, color="black", lw=1)
    axis.set(xscale="log", xlabel="values of each channel", ylabel="correlation with the truth")
    axis.legend()
    path = Path(__file__).parents[1] / "results" / "structure.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
