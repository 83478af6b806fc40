"""What the notebooks share: handwritten digits, a small net, a run, and a picture of two runs."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("TQDM_DISABLE", "1")
warnings.simplefilter("ignore")

import lightning.pytorch as pl  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import torch  # noqa: E402
from sklearn.datasets import load_digits  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from lightning_nndebug import NNDebug, TrainingHalted  # noqa: E402
from lightning_nndebug.report import Story  # noqa: E402

for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)
torch.set_num_threads(1)
RUNS = Path(tempfile.mkdtemp())


def images() -> tuple[torch.Tensor, torch.Tensor]:
    """1,797 digits of 8 x 8 pixels in [-1, 1], and what they show."""
    data = load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1, torch.tensor(
        data.target
    )


def loaders(x=None, y=None, *, shuffle=True, batch=32):
    """1,440 digits to train on, the others to validate."""
    if x is None:
        x, y = images()
    train, val = TensorDataset(x[:1440], y[:1440]), TensorDataset(x[1440:], y[1440:])
    return DataLoader(train, batch, shuffle=shuffle), DataLoader(val, 128)


def backbone() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


class Digits(pl.LightningModule):
    """Classifies digits."""

    def __init__(self, net: nn.Module | None = None, lr: float = 3e-3) -> None:
        super().__init__()
        self.net, self.lr = net or backbone(), lr

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("accuracy", (self(x).argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def run(name, module, data=None, epochs=3, trainer=None, **options):
    """Trains under the name, with the suite, and returns the record of the run, read."""
    shutil.rmtree(RUNS / name, ignore_errors=True)
    pl.seed_everything(0, verbose=False)
    with contextlib.suppress(TrainingHalted):
        pl.Trainer(
            accelerator="cpu", max_epochs=epochs, callbacks=[NNDebug(**options)], logger=False,
            default_root_dir=RUNS / name, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=5,
            **(trainer or {}),
        ).fit(module, *(data or loaders()))  # fmt: skip
    return Story.read(RUNS / name)


def compare(sick, healthy, *, log=False):
    """Draws the loss of both runs, and marks where the findings began."""
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    for story, label, colour in ((sick, "sick", "#c62839"), (healthy, "healthy", "#1d7a46")):
        curve = story.curves["loss"]
        axes.plot(curve.steps, curve.means, color=colour, label=label, linewidth=1.2)
    for one in sick.alarms[:3]:
        axes.axvline(one["step"], color="#c62839", linestyle=":")
        axes.annotate(
            one["code"], (one["step"], 1.02), xycoords=("data", "axes fraction"), fontsize=9
        )
    if log:
        axes.set_yscale("log")
    axes.set(xlabel="optimizer step", ylabel="loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    plt.show()
