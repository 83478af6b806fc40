"""Other tools that watch a training run, each as a Lightning callback that says what it found.

    pip install torchmortem torch-audit trainpulse neural-observatory wandb transformers

Versions that these lines were written for: torchmortem 0.1.1, torch-audit 0.3.0, trainpulse 0.4.0,
neural-observatory 0.5.1, wandb 0.31.0, transformers 5.23.0. Each is used as its documentation does,
with its defaults; one that looks every 1000 steps by default is made to look at every step. What is
not installed is left out.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import tempfile
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn

_GRAVE = 0.3  # the severity, from 0 to 1, from which neural-observatory's report lists a result


class Peer(pl.Callback):
    """Base of the others.

    Attributes:
        said: The kinds of what was found, in the tool's own names.
    """

    def __init__(self) -> None:
        self.said: set[str] = set()
        self.loss = 0.0

    def on_before_backward(
        self, trainer: pl.Trainer, module: pl.LightningModule, loss: Any
    ) -> None:
        self.loss = float(loss.detach().mean())


class Torchmortem(Peer):
    """Gradients, activations and ranks of all layers, and a report."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        from torchmortem import Autopsy

        optimizer = trainer.optimizers[0]
        self.autopsy = Autopsy(_net(module), optimizer=optimizer, sampling="balanced")
        self.autopsy.attach()

    def on_train_batch_end(self, *args: Any) -> None:
        self.autopsy.step(loss=self.loss)

    def on_train_end(self, *args: Any) -> None:
        self.autopsy.detach()
        found = self.autopsy.get_report().findings
        self.said = {one.title for one in found if one.severity.name in ("WARNING", "CRITICAL")}


class TorchAudit(Peer):
    """Rules on modules, gradients, data and optimizers, at every step."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        from torch_audit import autopatch

        optimizer = trainer.optimizers[0]
        self.auditor = autopatch(_net(module), optimizer=optimizer, every_n_steps=1, reporters=[])

    def on_train_end(self, *args: Any) -> None:
        found = self.auditor.finish().findings
        self.said = {one.rule_id for one in found if one.severity.name not in ("INFO", "HINT")}
        self.auditor.unpatch()


class Trainpulse(Peer):
    """Statistics of the loss and of the norm of the gradient."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        from trainpulse import Monitor

        self.monitor = Monitor()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, optimizer: Any
    ) -> None:
        norms = [one.grad.norm() for one in module.parameters() if one.grad is not None]
        if norms:
            size = float(torch.stack(norms).norm())
            self.monitor.log("loss", trainer.global_step, self.loss)
            self.monitor.log("grad_norm", trainer.global_step, size)

    def on_train_end(self, *args: Any) -> None:
        self.said = {one.detector for one in self.monitor.report().alerts}


class NeuralObservatory(Peer):
    """Hooks on all layers and eight analyzers."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        from neural_observatory import Observatory

        self.observatory = Observatory(_net(module))
        self.observatory.watch()

    def on_train_batch_end(self, *args: Any) -> None:
        self.observatory.step()

    def on_train_end(self, *args: Any) -> None:
        found = self.observatory.report().results
        self.said = {one.analyzer_name for one in found if one.severity >= _GRAVE}
        self.observatory.stop()


class DebugUnderflowOverflow(Peer):
    """Hugging Face's: the range of every module's weights, inputs and outputs at every step."""

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        from transformers.debug_utils import DebugUnderflowOverflow as Debug

        self.debug = Debug(_net(module))

    def on_exception(self, trainer: pl.Trainer, module: pl.LightningModule, error: Any) -> None:
        self.said = {"inf or nan"}


class WandbWatch(Peer):
    """``wandb.watch(log="all")`` offline: histograms of weights and gradients, by default of every 1000th step."""

    def __init__(self, log_freq: int = 1000) -> None:
        super().__init__()
        self.log_freq = log_freq

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        import wandb

        os.environ["WANDB_SILENT"] = "true"
        self.run = wandb.init(mode="offline", dir=tempfile.gettempdir(), project="overhead")
        self.run.watch(_net(module), log="all", log_freq=self.log_freq)

    def on_train_batch_end(self, *args: Any) -> None:
        self.run.log({})

    def on_train_end(self, *args: Any) -> None:
        self.run.finish()


_PACKAGES: dict[str, tuple[str, Callable[[], Peer]]] = {
    "torchmortem": ("torchmortem", Torchmortem),
    "torch-audit": ("torch_audit", TorchAudit),
    "trainpulse": ("trainpulse", Trainpulse),
    "neural-observatory": ("neural_observatory", NeuralObservatory),
    "DebugUnderflowOverflow": ("transformers", DebugUnderflowOverflow),
    "wandb.watch": ("wandb", WandbWatch),
    "wandb.watch, every 10th step": ("wandb", lambda: WandbWatch(10)),
}


def peers() -> dict[str, Callable[[], Peer]]:
    """Returns those that are installed, by name."""
    return {
        name: make
        for name, (package, make) in _PACKAGES.items()
        if importlib.util.find_spec(package)
    }


@contextlib.contextmanager
def hush():
    """Keeps the others' own output off the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _net(module: pl.LightningModule) -> nn.Module:
    """Returns the largest child: some hook what is called, which a LightningModule is not."""
    children = list(module.children())
    if not children:
        return module
    return max(children, key=lambda one: sum(p.numel() for p in one.parameters()))
