"""Optimizers, schedules, precision and other ways to take a step."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import (
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    StochasticWeightAveraging,
)
from program import Program, digits
from sklearn.datasets import load_breast_cancer
from torch import nn
from torch.nn import functional as F
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

from healthy import healthy
from healthy._parts import (
    Block,
    Classifier,
    Learner,
    cnn,
    conv,
    digit_loaders,
    loaders,
    mlp,
    moons,
    split,
    standardized,
    table,
)


class Momentum(Classifier):
    """SGD with Nesterov momentum."""

    def configure_optimizers(self):
        return torch.optim.SGD(
            self.parameters(), lr=self.lr, momentum=0.9, nesterov=True, weight_decay=5e-4
        )


@healthy
def gradient_accumulation() -> Program:
    """Four batches to a step; an epoch ends in the middle of four."""
    trainer = {"max_epochs": 8, "accumulate_grad_batches": 4}
    return Program(Momentum(cnn(), lr=0.05), **digit_loaders(1000, batch_size=16), trainer=trainer)


@healthy
def accumulation_schedule() -> Program:
    """Accumulates ever more batches from epoch to epoch."""
    callback = GradientAccumulationScheduler({0: 1, 2: 2, 4: 4})
    trainer = {"max_epochs": 7, "callbacks": [callback]}
    return Program(Classifier(cnn()), **digit_loaders(batch_size=32), trainer=trainer)


@healthy
def batch_size_one() -> Program:
    """One sample at a time: every batch has a single class, and the loss jumps from step to step."""
    x, y = table(load_breast_cancer)
    net = nn.Sequential(nn.Linear(30, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 2))
    return Program(
        Momentum(net, lr=3e-3), **loaders(*split(x, y), batch_size=1), trainer={"max_steps": 300}
    )


@healthy
def always_clipped_norm() -> Program:
    """The norm of the gradient is above the limit of 0.5 at nearly every step, by a stable factor."""
    module = Momentum(mlp(64, 128, 10), lr=0.05)
    return Program(
        module,
        **digit_loaders(image=False, batch_size=16),
        trainer={"max_epochs": 4, "gradient_clip_val": 0.5},
    )


@healthy
def clipped_transformer() -> Program:
    """Clipping at 1.0 by value, together with a warm-up and a cosine down to 0."""

    class Module(Learner):
        def __init__(self):
            net = nn.Sequential(
                nn.Linear(8, 32), Block(), Block(), nn.LayerNorm(32), nn.Linear(32, 1)
            )
            super().__init__(net, lr=3e-3)

        def forward(self, x):
            return self.net(x).mean(1)

        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr, betas=(0.9, 0.98))
            warm_up = lr_scheduler.LinearLR(optimizer, 1e-3, total_iters=20)
            cosine = lr_scheduler.CosineAnnealingLR(optimizer, 130)
            schedule = lr_scheduler.SequentialLR(optimizer, [warm_up, cosine], milestones=[20])
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    x = torch.randn(768, 6, 8)
    y = standardized(x[..., 0].amax(1, keepdim=True) - x[..., 1].amin(1, keepdim=True))
    trainer = {"max_steps": 150, "gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}
    return Program(Module(), **loaders(*split(x, y)), trainer=trainer)


class OneCycle(Classifier):
    """One cycle over the whole run, step by step."""

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@healthy
def one_cycle() -> Program:
    """Learning rate and momentum move at every step, from a 25th of the peak to almost 0."""
    return Program(OneCycle(cnn()), **digit_loaders(), trainer={"max_epochs": 6})


class WarmUpCosine(Classifier):
    """Rises from exactly 0, falls to exactly 0."""

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        total = int(self.trainer.estimated_stepping_batches)

        def factor(step):
            return min(step / 15, max(0.0, (total - step) / (total - 15)))

        return [optimizer], [
            {"scheduler": lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"}
        ]


@healthy
def warm_up_from_zero() -> Program:
    """The first update is exactly 0, and the last ones nearly so."""
    return Program(WarmUpCosine(cnn(), lr=5e-3), **digit_loaders(), trainer={"max_epochs": 6})


class Stepwise(Momentum):
    """Divides the learning rate by ten after five and after eight epochs."""

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [lr_scheduler.MultiStepLR(optimizer, [5, 8], gamma=0.1)]


@healthy
def step_decay() -> Program:
    """The learning rate falls to a tenth and to a hundredth, and the loss levels off."""
    return Program(
        Stepwise(cnn(), lr=0.1), **digit_loaders(batch_size=64), trainer={"max_epochs": 10}
    )


class Plateau(Classifier):
    """Lowers the learning rate when validation accuracy no longer rises."""

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        schedule = lr_scheduler.ReduceLROnPlateau(optimizer, mode="max", factor=0.3, patience=1)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "monitor": "val_acc"},
        }


@healthy
def reduce_on_plateau() -> Program:
    """The schedule waits for a metric to rise, and finds it at its best for ever."""
    return Program(
        Plateau(mlp(2, 64, 64, 2), lr=3e-3), **loaders(*split(*moons())), trainer={"max_epochs": 10}
    )


class Restarts(Classifier):
    """Cosine with warm restarts."""

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        schedule = lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=24, T_mult=2)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@healthy
def warm_restarts() -> Program:
    """The learning rate jumps from 0 to its peak again and again, and the loss follows a bit."""
    return Program(Restarts(cnn(), lr=4e-3), **digit_loaders(), trainer={"max_epochs": 7})


class CyclicMomentum(Classifier):
    """A triangular learning rate, and an optimizer that is not Adam."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)
        schedule = lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=24)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


@healthy
def cyclic_learning_rate() -> Program:
    """The learning rate swings between 0.01 and 0.1."""
    return Program(CyclicMomentum(cnn()), **digit_loaders(), trainer={"max_epochs": 6})


@healthy
def plateau_at_the_optimum() -> Program:
    """Goes on for long after the loss has reached the noise level of the targets: nothing is wrong."""
    x = torch.randn(512, 8)
    y = standardized(x @ torch.randn(8, 1) + 0.5 * torch.randn(512, 1))
    return Program(
        Learner(nn.Linear(8, 1), lr=3e-2), **loaders(*split(x, y)), trainer={"max_epochs": 25}
    )


class PlainSGD(Learner):
    """Gradient descent without anything."""

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


@healthy
def exact_fit() -> Program:
    """Noiseless linear data: loss, gradients and updates all shrink to 1e-13 and less."""
    x = torch.randn(512, 8)
    y = standardized(x @ torch.randn(8, 1))
    return Program(
        PlainSGD(nn.Linear(8, 1), lr=0.1), **loaders(*split(x, y)), trainer={"max_epochs": 20}
    )


@healthy
def interpolation() -> Program:
    """A wide net fits separable classes until the loss is 1e-3 and accuracy is 1, then goes on."""
    net = mlp(64, 512, 10)
    return Program(Classifier(net), **digit_loaders(image=False), trainer={"max_epochs": 12})


class SecondOrder(Classifier):
    """Logistic regression by L-BFGS, with weight decay in the loss."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y) + 1e-2 * self.net.weight.square().sum()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.LBFGS(
            self.parameters(), lr=1.0, max_iter=4, history_size=5, line_search_fn="strong_wolfe"
        )


@healthy
def lbfgs() -> Program:
    """The training step runs several times within one optimizer step, on the same full batch."""
    x, y = table(load_breast_cancer)
    train, val = split(x, y)
    return Program(
        SecondOrder(nn.Linear(30, 2)),
        **loaders(train, val, batch_size=len(train)),
        trainer={"max_epochs": 60},
    )


@healthy
def stochastic_weight_averaging() -> Program:
    """The callback swaps weights, changes the schedule, and adds an epoch to refresh batch norm."""
    swa = StochasticWeightAveraging(swa_lrs=2e-3, swa_epoch_start=5, annealing_epochs=1)
    return Program(
        Classifier(cnn()), **digit_loaders(), trainer={"max_epochs": 8, "callbacks": [swa]}
    )


@healthy
def ema_weights() -> Program:
    """Validation runs with other weights than training."""
    ema = EMAWeightAveraging(decay=0.95)
    return Program(
        Classifier(mlp(64, 128, 10)),
        **digit_loaders(image=False),
        trainer={"max_epochs": 6, "callbacks": [ema]},
    )


class Muon(Classifier):
    """Muon for the matrices, AdamW for the rest, stepped by hand."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 96, 96, 10))
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer, schedule in zip(self.optimizers(), self.lr_schedulers(), strict=True):
            optimizer.step()
            schedule.step()

    def configure_optimizers(self):
        matrices = [layer.weight for layer in (self.net[0], self.net[2])]
        others = [p for p in self.parameters() if not any(p is m for m in matrices)]
        optimizers = [
            torch.optim.Muon(matrices, lr=0.02, weight_decay=0.01),
            torch.optim.AdamW(others, lr=5e-3),
        ]
        return optimizers, [lr_scheduler.CosineAnnealingLR(o, 150) for o in optimizers]


@healthy
def two_optimizers() -> Program:
    """Two optimizers share one backward pass; updates of Muon have the same size at every step."""
    return Program(Muon(), **digit_loaders(image=False, batch_size=40), trainer={"max_epochs": 7})


class HandAccumulated(Classifier):
    """Steps and zeroes every third batch only."""

    def __init__(self) -> None:
        super().__init__(cnn())
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss / 3)
        if (batch_idx + 1) % 3 == 0:
            self.clip_gradients(optimizer, gradient_clip_val=1.0, gradient_clip_algorithm="norm")
            optimizer.step()
            optimizer.zero_grad()


@healthy
def manual_accumulation() -> Program:
    """Gradients pile up over batches on purpose, and the loss is divided by hand."""
    return Program(HandAccumulated(), **digit_loaders(batch_size=16), trainer={"max_epochs": 5})


@healthy
def brain_float() -> Program:
    """bf16-mixed: activations have three digits only."""
    return Program(
        Classifier(mlp(64, 96, 96, 10)),
        **digit_loaders(image=False),
        trainer={"max_epochs": 6, "precision": "bf16-mixed"},
    )


class OwnAutocast(Classifier):
    """Runs the body of the net in float16 and the head in float32, by itself."""

    def forward(self, x):
        with torch.autocast(x.device.type, dtype=torch.float16):
            features = self.net[:-1](x)
        return self.net[-1](features.float())


@healthy
def own_float16_autocast() -> Program:
    """Half precision inside of the module without a gradient scaler; gradients are large enough."""
    return Program(
        OwnAutocast(mlp(64, 96, 10)), **digit_loaders(image=False), trainer={"max_epochs": 5}
    )


class HalfInputs(Classifier):
    """Widens what the loader delivers."""

    def forward(self, x):
        return self.net(x.float())


@healthy
def float16_inputs() -> Program:
    """The data set is stored in float16 to save memory; the net is in float32."""
    x, y = digits()
    return Program(
        HalfInputs(mlp(64, 96, 10)), **loaders(*split(x.half(), y)), trainer={"max_epochs": 5}
    )


@healthy
def double_precision() -> Program:
    """Parameters, inputs and loss are float64."""
    x = torch.randn(640, 3)
    y = standardized((x[:, :1] * x[:, 1:2]).sin() + x[:, 2:]).double()
    net = mlp(3, 48, 48, 1, activation=nn.SiLU).double()
    return Program(
        Learner(net, lr=5e-3), **loaders(*split(x.double(), y)), trainer={"max_epochs": 12}
    )


@healthy
def high_learning_rate_with_norm() -> Program:
    """Plain SGD at 0.5: batch norm makes it the right size, though loss is bumpy at first."""
    net = cnn()

    class Module(Classifier):
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.5, weight_decay=1e-4)

    return Program(Module(net), **digit_loaders(batch_size=64), trainer={"max_epochs": 8})


class ReliesOnParts(pl.LightningModule):
    """A penalty with a learned weight, which starts to matter after 15 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), mlp(64, 96), nn.ReLU())
        self.head = nn.Linear(96, 10)
        self.refine = mlp(10, 32, 10)
        nn.init.zeros_(self.refine[-1].weight)
        nn.init.zeros_(self.refine[-1].bias)

    def forward(self, x):
        logits = self.head(self.body(x))
        if self.global_step < 15:
            return logits
        return logits + self.refine(logits)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_loss", F.cross_entropy(self(x), y))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


@healthy
def joins_after_warm_up() -> Program:
    """One part of the net is not used at all during the first 15 steps."""
    return Program(ReliesOnParts(), **digit_loaders(), trainer={"max_epochs": 6})


@healthy
def layerwise_decay() -> Program:
    """Each parameter is a group of its own, with its own learning rate."""

    class Module(Classifier):
        def configure_optimizers(self):
            layers = [
                m
                for m in self.net.modules()
                if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear)
            ]
            groups = [
                {
                    "params": [p],
                    "lr": 8e-3 * 0.8 ** (len(layers) - i),
                    "weight_decay": 0.05 * (p.ndim > 1),
                }
                for i, layer in enumerate(layers)
                for p in layer.parameters()
            ]
            return torch.optim.AdamW(groups)

    net = nn.Sequential(
        conv(1, 16), conv(16, 16), conv(16, 32, 2), nn.Flatten(), nn.Linear(512, 10)
    )
    return Program(Module(net), **digit_loaders(), trainer={"max_epochs": 5})


@healthy
def full_batch_descent() -> Program:
    """The same batch of all samples at every step, in a small world where that is the way."""
    x, y = moons(400, noise=0.3)
    data = DataLoader(TensorDataset(x, y), batch_size=400)

    class Module(Classifier):
        def configure_optimizers(self):
            return torch.optim.Rprop(self.parameters(), lr=1e-2)

    return Program(Module(mlp(2, 32, 32, 2, activation=nn.Tanh)), data, trainer={"max_epochs": 60})
