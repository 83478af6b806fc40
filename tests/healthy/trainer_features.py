"""What the Trainer and the hooks of a LightningModule offer."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

import lightning.pytorch as pl
import torch
import torchmetrics
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import CombinedLoader
from program import Program, digits
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from healthy import healthy
from healthy._parts import Classifier, Learner, cnn, digit_loaders, loaders, mlp, moons, split


@healthy
def early_stopping() -> Program:
    """The run is stopped and checkpoints are written by callbacks that come first."""
    callbacks = [
        EarlyStopping("val_loss", patience=2, min_delta=0.02),
        ModelCheckpoint(tempfile.mkdtemp(), monitor="val_acc", mode="max", save_top_k=1),
        Timer(),
    ]
    return Program(
        Classifier(mlp(64, 64, 10)),
        **digit_loaders(image=False),
        trainer={"max_epochs": 12, "callbacks": callbacks, "enable_checkpointing": True},
    )


@healthy
def csv_logger() -> Program:
    """A logger, step and epoch metrics, and the progress bar's keys."""

    class Module(Classifier):
        def training_step(self, batch, batch_idx):
            x, y = batch
            loss = self.loss(self(x), y)
            self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True)
            return loss

    trainer = {"max_epochs": 5, "logger": CSVLogger(tempfile.mkdtemp()), "log_every_n_steps": 10}
    return Program(Module(mlp(64, 64, 10)), **digit_loaders(image=False), trainer=trainer)


class Cautious(Classifier):
    """Skips what it cannot use."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        usable = x.amin(1) >= -1
        if usable.float().mean() < 0.9:
            return None
        return super().training_step((x[usable], y[usable]), batch_idx)


@healthy
def skipped_batches() -> Program:
    """`training_step` returns None for about one batch in six, those with broken images."""
    train, val = split(*digits())
    broken = torch.rand(24) < 0.17
    batches = [
        (x - 5 if bad else x, y)
        for x, y, bad in zip(*(t.split(32) for t in train.tensors), broken.tolist(), strict=True)
    ]
    return Program(
        Cautious(mlp(64, 64, 10)),
        DataLoader(batches, batch_size=None, shuffle=True),
        DataLoader(val, batch_size=64),
        trainer={"max_epochs": 6},
    )


class Stream(IterableDataset):
    """Endless fresh samples."""

    def __iter__(self):
        while True:
            x = torch.randn(6)
            yield x, (x[0] * x[1] + x[2].abs() - 0.8).unsqueeze(0)


@healthy
def endless_stream() -> Program:
    """A data set without a length: there are no epochs, and validation comes every 60 steps."""
    train, val = DataLoader(Stream(), batch_size=32), DataLoader(Stream(), batch_size=128)
    trainer = {"max_steps": 240, "val_check_interval": 60, "limit_val_batches": 8}
    return Program(Learner(mlp(6, 64, 64, 1), lr=5e-3), train, val, trainer=trainer)


@healthy
def overfit_one_batch() -> Program:
    """`overfit_batches=1`: the same batch at every step, to see whether the net is able to learn it."""
    trainer = {"max_epochs": 80, "overfit_batches": 1}
    return Program(Classifier(cnn()), digit_loaders()["train"], trainer=trainer)


@healthy
def limited_batches() -> Program:
    """Epochs are cut to twelve batches."""
    trainer = {"max_epochs": 12, "limit_train_batches": 12, "limit_val_batches": 0.5}
    return Program(Classifier(cnn()), **digit_loaders(), trainer=trainer)


class SeveralValidations(Classifier):
    """Validates on clean, noisy and pale digits."""

    names = ("clean", "noisy", "pale")

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        x, y = batch
        logits = self(x)
        name = self.names[dataloader_idx]
        self.log(f"val_loss_{name}", F.cross_entropy(logits, y), add_dataloader_idx=False)
        self.log(
            f"val_acc_{name}", (logits.argmax(1) == y).float().mean(), add_dataloader_idx=False
        )


@healthy
def several_validation_loaders() -> Program:
    """Two of the three validation sets are harder than training on purpose."""
    train, val = split(*digits(image=True))
    x, y = val.tensors
    noisy = TensorDataset(x + 0.5 * torch.randn_like(x), y)
    pale = TensorDataset((x + 1) * 0.8 - 1, y)
    return Program(
        SeveralValidations(cnn()),
        DataLoader(train, batch_size=32, shuffle=True),
        [DataLoader(d, batch_size=128) for d in (val, noisy, pale)],
        trainer={"max_epochs": 5},
    )


class SemiSupervised(pl.LightningModule):
    """Cross entropy on the few labelled images, reconstruction on all the others."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(mlp(64, 64), nn.ReLU())
        self.classifier, self.decoder = nn.Linear(64, 10), nn.Linear(64, 64)

    def training_step(self, batch, batch_idx):
        x, y = batch["labelled"]
        (other,) = batch["unlabelled"]
        supervised = F.cross_entropy(self.classifier(self.encoder(x)), y)
        reconstruction = F.mse_loss(self.decoder(self.encoder(other)), other)
        self.log_dict(
            {"supervised": supervised, "reconstruction": reconstruction}, batch_size=len(x)
        )
        return supervised + reconstruction

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.classifier(self.encoder(x))
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", (logits.argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


@healthy
def combined_loader() -> Program:
    """Two loaders of different length and batch size; the shorter one starts over."""
    train, val = split(*digits(1797))
    x, y = train.tensors
    loader = CombinedLoader(
        {
            "labelled": DataLoader(TensorDataset(x[:384], y[:384]), batch_size=16, shuffle=True),
            "unlabelled": DataLoader(TensorDataset(x[384:]), batch_size=32, shuffle=True),
        },
        mode="max_size_cycle",
    )
    return Program(
        SemiSupervised(), loader, DataLoader(val, batch_size=128), trainer={"max_epochs": 5}
    )


@dataclass
class Sample:
    """One image, or a batch of them."""

    image: torch.Tensor
    label: torch.Tensor
    name: list[str]


def collate(samples: list[Sample]) -> Sample:
    """Stacks samples field by field."""
    return Sample(
        torch.stack([s.image for s in samples]),
        torch.stack([s.label for s in samples]),
        [s.name[0] for s in samples],
    )


class DataclassClassifier(pl.LightningModule):
    """Lightning's tutorial, with torchmetrics and a dataclass for a batch."""

    def __init__(self, width: int = 64, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.l1 = nn.Linear(64, self.hparams.width)
        self.l2 = nn.Linear(self.hparams.width, 10)
        self.metrics = nn.ModuleDict(
            {
                stage: torchmetrics.MetricCollection(
                    [
                        torchmetrics.Accuracy("multiclass", num_classes=10),
                        torchmetrics.F1Score("multiclass", num_classes=10),
                    ],
                    prefix=f"{stage}_acc_",
                )
                for stage in ("fit", "val")
            }
        )

    def forward(self, x):
        return self.l2(torch.relu(self.l1(x.view(x.size(0), -1))))

    def training_step(self, batch, batch_idx):
        logits = self(batch.image)
        self.metrics["fit"](logits, batch.label)
        self.log_dict(self.metrics["fit"], on_epoch=True, on_step=False, batch_size=len(batch.name))
        return {"loss": F.cross_entropy(logits, batch.label), "logits": logits.detach()}

    def validation_step(self, batch, batch_idx):
        logits = self(batch.image)
        self.metrics["val"].update(logits, batch.label)
        self.log("val_loss", F.cross_entropy(logits, batch.label), batch_size=len(batch.name))

    def on_validation_epoch_end(self):
        self.log_dict(self.metrics["val"].compute())
        self.metrics["val"].reset()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.hparams.lr)


@healthy
def dataclass_batches() -> Program:
    """Batches are dataclasses with strings; the step returns a dictionary; metrics are modules."""
    x, y = digits(image=True)
    order = torch.randperm(len(x)).tolist()
    samples = [Sample(x[i], y[i], [f"digit{i}"]) for i in order]
    return Program(
        DataclassClassifier(),
        DataLoader(samples[:768], batch_size=32, shuffle=True, collate_fn=collate),
        DataLoader(samples[768:], batch_size=64, collate_fn=collate),
        trainer={"max_epochs": 5},
    )


class Digits(pl.LightningDataModule):
    """Handwritten digits, standardized with the statistics of the training part."""

    def __init__(self, batch_size: int = 32) -> None:
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage):
        self.train, self.val = split(*digits())
        mean, std = self.train.tensors[0].mean(), self.train.tensors[0].std()
        for part in (self.train, self.val):
            x, y = part.tensors
            part.tensors = ((x - mean) / std, y)

    def train_dataloader(self):
        return DataLoader(self.train, self.hparams.batch_size, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, self.hparams.batch_size)


@healthy
def data_module() -> Program:
    """Data come from a LightningDataModule, so that there are no loaders before `fit`."""
    return Program(Classifier(mlp(64, 64, 10)), Digits(), trainer={"max_epochs": 5})


class MonteCarloDropout(Classifier):
    """Leaves dropout on in validation and averages eight answers, to know how sure they are."""

    def validation_step(self, batch, batch_idx):
        x, y = batch
        for module in self.net:
            if isinstance(module, nn.Dropout):
                module.train()
        answers = torch.stack([self(x).softmax(1) for _ in range(8)])
        mean = answers.mean(0)
        self.log("val_loss", F.nll_loss(mean.log(), y))
        self.log("val_acc", (mean.argmax(1) == y).float().mean())
        self.log("val_doubt", answers.std(0).mean())


@healthy
def monte_carlo_dropout() -> Program:
    """Dropout is in training mode while validating, on purpose."""
    net = nn.Sequential(
        nn.Linear(64, 128),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Linear(64, 10),
    )
    return Program(MonteCarloDropout(net), **digit_loaders(image=False), trainer={"max_epochs": 5})


class OwnBackward(Classifier):
    """Disturbs weights on the way up and steps from where it was (sharpness-aware minimization)."""

    def __init__(self, net, lr=0.05, radius=0.05):
        super().__init__(net, lr=lr)
        self.automatic_optimization = False
        self.radius = radius

    def training_step(self, batch, batch_idx):
        x, y = batch
        optimizer = self.optimizers()
        loss = self.loss(self(x), y)
        self.manual_backward(loss)
        weights = [p for p in self.parameters() if p.grad is not None]
        norm = torch.stack([p.grad.norm() for p in weights]).norm()
        moves = [self.radius / (norm + 1e-12) * p.grad for p in weights]
        with torch.no_grad():
            torch._foreach_add_(weights, moves)
        optimizer.zero_grad()
        self.manual_backward(self.loss(self(x), y))
        with torch.no_grad():
            torch._foreach_sub_(weights, moves)
        optimizer.step()
        optimizer.zero_grad()
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


@healthy
def sharpness_aware() -> Program:
    """Two backward passes to a step, with weights that are moved and moved back in between."""
    return Program(
        OwnBackward(mlp(64, 96, 10)), **digit_loaders(image=False), trainer={"max_epochs": 5}
    )


class GradientHooks(Learner):
    """Uses the hooks around backward and step."""

    def on_before_backward(self, loss):
        self.log("loss_before_backward", loss)

    def on_after_backward(self):
        for p in self.parameters():
            p.grad.add_(0.01 * p.grad.std() * torch.randn_like(p))

    def configure_gradient_clipping(
        self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None
    ):
        self.clip_gradients(optimizer, gradient_clip_val=0.5, gradient_clip_algorithm="norm")

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        for group in optimizer.param_groups:
            group["lr"] = self.lr * min(1.0, (self.global_step + 1) / 20)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def optimizer_zero_grad(self, epoch, batch_idx, optimizer):
        optimizer.zero_grad(set_to_none=False)


@healthy
def gradient_hooks() -> Program:
    """Gradient noise, clipping and warm-up by overridden hooks; gradients are zeroed, not dropped."""
    x, y = moons(noise=0.15)
    module = GradientHooks(mlp(2, 32, 32, 2), F.cross_entropy, lr=5e-3)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 6})


class Progressive(Classifier):
    """Asks for a new loader at each epoch, of ever larger images."""

    def __init__(self) -> None:
        super().__init__(cnn(), lr=5e-3)
        self.data = split(*digits(image=True))

    def train_dataloader(self):
        x, y = self.data[0].tensors
        size = (4, 6, 8)[min(2, self.current_epoch // 2)]
        return DataLoader(
            TensorDataset(F.interpolate(x, size=size, mode="area"), y), batch_size=32, shuffle=True
        )

    def val_dataloader(self):
        return DataLoader(self.data[1], batch_size=64)


@healthy
def progressive_resizing() -> Program:
    """The shape of the inputs changes twice in the run; validation always has the full size."""
    trainer = {"max_epochs": 8, "reload_dataloaders_every_n_epochs": 2}
    return Program(Progressive(), None, trainer=trainer)
