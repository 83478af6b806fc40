"""One batch, learned by heart: healthy modules pass and buggy ones do not.

    python benchmarks/preflight.py

Writes ``benchmarks/results/preflight.md``.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from cases._parts import Classifier
from program import digits, seed
from sklearn.datasets import load_diabetes
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import Detector, Evidence, PreflightDetector, Severity, rule
from lightning_nndebug.core.measurements.rehearsal import Rehearsal
from lightning_nndebug.core.trainer import trainer_class

RESULTS = Path(__file__).parent / "results" / "preflight.md"
MEASURED: list[Rehearsal] = []


class Table(Detector):
    """Notes what was measured."""

    steps: int = 100

    @rule("BEN191", severity=Severity.INFO)
    def notes(self, rehearsal: Rehearsal) -> list[Evidence]:
        """Notes it."""
        MEASURED.append(rehearsal)
        return []


class Act(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable) -> None:
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Learner(Classifier):
    def __init__(self, net, loss=F.cross_entropy, optimizer=torch.optim.Adam, lr=1e-3) -> None:
        super().__init__(net, lr)
        self.function, self.optimizer = loss, optimizer

    def loss(self, x, y):
        return self.function(self(x), y)

    def configure_optimizers(self):
        return self.optimizer([p for p in self.parameters() if p.requires_grad], lr=self.lr)


def mlp(
    *between: nn.Module, out: int = 10, inputs: int = 64, act=nn.ReLU, depth: int = 2
) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(inputs, 64), act()]
    for _ in range(depth - 2):
        layers += [nn.Linear(64, 64), act()]
    return nn.Sequential(*layers, *between, nn.Linear(64, out))


def cnn(*first: nn.Module) -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 16, 3, padding=1), *first, nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10),
    )  # fmt: skip


class Rows(nn.Module):
    """Reads an image row by row."""

    def __init__(self, kind) -> None:
        super().__init__()
        self.rnn, self.head = kind(8, 32, batch_first=True), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.rnn(x.view(-1, 8, 8))[0][:, -1])


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 10)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)

    def forward(self, x):
        return self.head(self.layer(self.embed(x.view(-1, 8, 8))).mean(1))


class Residual(nn.Module):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.LayerNorm(64), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)
        )
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x):
        return x + self.scale * self.inner(x)


def regressor(*last: nn.Module) -> nn.Sequential:
    return nn.Sequential(*mlp(out=1, inputs=10), *last)


def frozen(net: nn.Module, keep: int) -> nn.Module:
    for one in list(net.parameters())[:-keep]:
        one.requires_grad_(False)
    return net


def filled(net: nn.Module, std: float) -> nn.Module:
    for one in net.parameters():
        nn.init.normal_(one, std=std) if one.dim() > 1 else nn.init.zeros_(one)
    return net


def one_hot(function: Callable, **options) -> Callable:
    return lambda z, y: function(z, F.one_hot(y, 10).float(), **options)


def focal(z, y):
    loss = F.cross_entropy(z, y, reduction="none")
    return ((1 - (-loss).exp()) ** 2 * loss).mean()


def image_data():
    return digits(64)


def random_labels():
    return digits(64)[0], torch.randint(10, (64,))


def no_input():
    x, y = digits(64)
    return torch.zeros_like(x), y


def two_samples_alike():
    x, y = digits(64)
    return x[:1].expand_as(x).clone(), y


def diabetes(*, normalized: bool = True):
    x, y = (torch.tensor(one, dtype=torch.float32) for one in load_diabetes(return_X_y=True))
    x, y = x[:64] / x.std(), y[:64, None]
    return x, (y - y.mean()) / y.std() if normalized else y


def L(net, *args, data=image_data, **options):  # noqa: N802
    return lambda: (Learner(net(), *args, **options), data)


HEALTHY = {
    "logistic regression": L(lambda: nn.Linear(64, 10), lr=1e-2),
    "mlp": L(mlp),
    "deep mlp": L(lambda: mlp(depth=6)),
    "mlp, tanh": L(lambda: mlp(act=nn.Tanh)),
    "mlp, dropout 0.5": L(lambda: mlp(nn.Dropout(0.5))),
    "mlp, batch norm": L(lambda: mlp(nn.BatchNorm1d(64))),
    "mlp, layer norm": L(lambda: mlp(nn.LayerNorm(64))),
    "cnn": L(cnn),
    "cnn, batch norm": L(lambda: cnn(nn.BatchNorm2d(16))),
    "cnn, group norm": L(lambda: cnn(nn.GroupNorm(4, 16))),
    "gru": L(lambda: Rows(nn.GRU)),
    "lstm": L(lambda: Rows(nn.LSTM)),
    "tanh rnn": L(lambda: Rows(nn.RNN)),
    "transformer": L(Transformer),
    "residual": L(lambda: mlp(Residual(), Residual())),
    "zero-init residual": L(lambda: mlp(Residual(0.0), Residual(0.0))),
    "random labels": L(mlp, data=random_labels),
    "label smoothing 0.1": L(mlp, lambda z, y: F.cross_entropy(z, y, label_smoothing=0.1)),
    "label smoothing 0.3": L(mlp, lambda z, y: F.cross_entropy(z, y, label_smoothing=0.3)),
    "focal loss": L(mlp, focal),
    "summed loss": L(mlp, lambda z, y: F.cross_entropy(z, y, reduction="sum"), lr=1e-4),
    "binary cross entropy": L(mlp, one_hot(F.binary_cross_entropy_with_logits)),
    "nll of log softmax": L(mlp, lambda z, y: F.nll_loss(z.log_softmax(1), y)),
    "regression": L(regressor, F.mse_loss, data=diabetes),
    "regression, huber": L(regressor, F.huber_loss, data=diabetes),
    "sgd 0.1": L(mlp, optimizer=torch.optim.SGD, lr=0.1),
    "adamw 1e-3": L(mlp, optimizer=torch.optim.AdamW),
    "last two layers of three": L(lambda: frozen(mlp(depth=3), 4)),
}
BUGGY = {
    "softmax into cross entropy": L(lambda: nn.Sequential(mlp(), nn.Softmax(1))),
    "sigmoid into cross entropy": L(lambda: nn.Sequential(mlp(), nn.Sigmoid())),
    "relu into cross entropy": L(lambda: nn.Sequential(mlp(), nn.ReLU())),
    "tanh into cross entropy": L(lambda: nn.Sequential(mlp(), nn.Tanh())),
    "softmax over the batch": L(lambda: nn.Sequential(mlp(), nn.LogSoftmax(0)), F.nll_loss),
    "inputs are zero": L(mlp, data=no_input),
    "all inputs alike": L(mlp, data=two_samples_alike),
    "mean over the batch": L(lambda: mlp(Act(lambda x: x.mean(0, keepdim=True).expand_as(x)))),
    "view for transpose": L(lambda: nn.Sequential(mlp(), Act(lambda z: z.reshape(10, -1).T))),
    "output detached but for its bias": L(lambda: frozen(mlp(), 1)),
    "frozen but for norms": L(lambda: frozen(nn.Sequential(mlp(), nn.LayerNorm(10)), 2)),
    "all weights zero": L(lambda: filled(mlp(), 0.0)),
    "ten sigmoid layers": L(lambda: mlp(act=nn.Sigmoid, depth=10)),
    "twelve layers of N(0, 0.01)": L(lambda: filled(mlp(depth=12), 0.01)),
    "dead units": L(lambda: mlp(Act(lambda x: F.relu(x - 100)))),
    "one unit in between": L(lambda: nn.Sequential(nn.Linear(64, 1), nn.ReLU(), nn.Linear(1, 10))),
    "new dropout each time": L(lambda: mlp(Act(lambda x: x * (os.urandom(1)[0] < 26)))),
    "relu before a regression": L(lambda: regressor(nn.ReLU()), F.mse_loss, data=diabetes),
    "sigmoid before a regression": L(lambda: regressor(nn.Sigmoid()), F.mse_loss, data=diabetes),
    "raw targets": L(regressor, F.mse_loss, data=lambda: diabetes(normalized=False)),
    "broadcast loss": L(regressor, lambda z, y: (z - y.squeeze(1)).square().mean(), data=diabetes),
    "mse broadcast": L(regressor, lambda z, y: F.mse_loss(z, y.squeeze(1)), data=diabetes),
    "sign of the loss": L(mlp, lambda z, y: F.cross_entropy(-z.detach() + 0 * z, y)),
    "argmax, and a gradient of zero": L(mlp, lambda z, y: F.cross_entropy(z * 0, y)),
    "rounded in between": L(lambda: nn.Sequential(mlp(), Act(torch.round))),
    "lr 1e-6": L(mlp, lr=1e-6),
    "lr 1000": L(mlp, lr=1e3),
}


def main() -> None:
    for name in ("lightning.pytorch", "lightning_nndebug"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    os.chdir(tempfile.mkdtemp())
    lines = [
        "# Preflight: one batch, learned by heart",
        "",
        "`python benchmarks/preflight.py` writes this page: the share of the loss above its floor",
        "that is left after 100 steps (200, if it is not clear) with Adam(lr=0.003), and with the",
        "optimizer of the module; what is found; and the time it takes on one core.",
        "",
        "| module | Adam(lr=0.003) | its own | found | s |",
        "| --- | --- | --- | --- | --- |",
    ]
    for group, members in (("healthy", HEALTHY), ("buggy", BUGGY)):
        right = 0
        for name, make in members.items():
            seed(0)
            MEASURED.clear()
            module, data = make()
            detector = PreflightDetector()
            began = time.perf_counter()
            trainer = trainer_class(module)(
                max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu",
                enable_progress_bar=False, enable_model_summary=False, callbacks=[detector, Table()],
            )  # fmt: skip
            trainer.fit(module, DataLoader(TensorDataset(*data()), batch_size=64))
            took = time.perf_counter() - began
            one = MEASURED[0] if MEASURED else None
            found = [f"{one.code} {one.where}" for one in detector.findings]
            right += bool(found) == (group == "buggy")
            shown = (f"{one.own:.3f}", f"{one.users:.3f}") if one else ("-", "-")
            row = [f"{group}: {name}", *shown, ", ".join(found) or "-", f"{took:.1f}"]
            lines.append("| " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
        lines.append(f"| **{group}** | | | **{right} of {len(members)} right** | |")
        print(lines[-1], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
