"""What torch says of an exception, and what we say, side by side.

    python benchmarks/crashes.py

Writes ``benchmarks/results/crashes.md``: the sick cases of all rules of the CrashDetector, and
further exceptions that forums are full of.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from cases import CASES
from cases._parts import Classifier, loader
from program import Program, digits, fit, seed
from torch import nn
from torch.nn import functional as F

from lightning_nndebug import CrashDetector

RESULTS = Path(__file__).parent / "results" / "crashes.md"


def net(
    first: nn.Module, *others: nn.Module, image: bool = False, **options
) -> Callable[[], Program]:
    def program() -> Program:
        x, y = digits(256, image=image)
        x = x.permute(0, 2, 3, 1) if options.get("last") else x
        return Program(Classifier(nn.Sequential(first, *others)), loader(x, y))

    return program


def with_loss(
    function: Callable, targets: Callable | None = None, outputs: int = 10
) -> Callable[[], Program]:
    class Custom(Classifier):
        def loss(self, x, y):
            return function(self(x), y)

    def program() -> Program:
        x, y = digits(256)
        return Program(Custom(nn.Linear(64, outputs)), loader(x, targets(y) if targets else y))

    return program


class Added(nn.Module):
    """Adds a table of positions that is too short."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.zeros(32))

    def forward(self, x):
        return x + self.positions


class Viewed(nn.Module):
    def forward(self, x):
        return x.view(32, 100)


class Concatenated(nn.Module):
    def forward(self, x):
        noise = torch.zeros(16, 8)
        return torch.cat([x, noise], 1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(8, 16, batch_first=True), nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.rnn(x.view(-1, 8, 8)))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


MORE: dict[str, Callable[[], Program]] = {
    "an image into a linear layer": net(nn.Linear(64, 10), image=True),
    "three channels expected": net(
        nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 10), image=True
    ),
    "channels last": net(
        nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(288, 10), image=True, last=True
    ),
    "flattened to another size": net(
        nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(512, 10), image=True
    ),
    "positions that do not fit": net(Added(), nn.Linear(64, 10)),
    "a view of another size": net(Viewed(), nn.Linear(100, 10)),
    "concatenation of unequal batches": net(Concatenated(), nn.Linear(72, 10)),
    "batch norm of another width": net(nn.Linear(64, 32), nn.BatchNorm1d(64), nn.Linear(32, 10)),
    "output of an LSTM": net(Recurrent()),
    "labels from 1 to 10": with_loss(F.cross_entropy, lambda y: y + 1),
    "labels of -1": with_loss(F.cross_entropy, lambda y: y - 1),
    "floats as class numbers": with_loss(F.cross_entropy, lambda y: y.float()),
    "(N, 1) against (N)": with_loss(
        F.binary_cross_entropy_with_logits, lambda y: (y > 4).float(), outputs=1
    ),
    "integers into BCE": with_loss(F.binary_cross_entropy_with_logits, lambda y: F.one_hot(y, 10)),
    "logits into BCE": with_loss(lambda z, y: F.binary_cross_entropy(z, F.one_hot(y, 10).float())),
    "half of the labels": with_loss(lambda z, y: F.cross_entropy(z, y[: len(y) // 2])),
}


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    log = logging.getLogger("lightning_nndebug")
    log.addHandler(logging.NullHandler())
    log.propagate = False
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.chdir(tempfile.mkdtemp())
    programs = {
        (module.__doc__ or "").strip().rstrip("."): module.sick
        for name, module in CASES.items()
        if name.startswith("err")
    }
    lines = [
        "# Crashes: what torch says, and what we say",
        "",
        "`python benchmarks/crashes.py` writes this page. The exception itself is never changed; the",
        "finding is printed before it.",
        "",
        "| what happened | what torch says | what nndebug says |",
        "| --- | --- | --- |",
    ]
    for name, program in {**programs, **MORE}.items():
        seed(0)
        detector = CrashDetector()
        try:
            fit(program(), detector)
            said = "(no exception)"
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
        ours = "<br>".join(
            f"**{one.code} {one.name}** at {one.where}: {one.message}<br>"
            f"*likely* {one.causes[0]}<br>*try* {one.fixes[0]}"
            for one in detector.findings
        )
        row = [name, " ".join(said.split())[:240], ours or "nothing"]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(RESULTS.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
