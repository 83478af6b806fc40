"""Random programs: modules x batch structures x Trainer flags x optimizers, each from a number.

A program of the fuzz need not learn anything, and may be sick. What is checked is us: that we do
not crash, do not change a bit of the run, and leave nothing behind.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from program import Program, fit, seed
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, IterableDataset

from lightning_nndebug import NNDebug
from lightning_nndebug.testing import _attachments

WIDTH, CLASSES = 12, 4


class Pair(NamedTuple):
    """A batch as a named tuple."""

    x: torch.Tensor
    y: torch.Tensor


@dataclasses.dataclass
class Batch:
    """A batch as a dataclass."""

    x: torch.Tensor
    y: torch.Tensor
    name: str = "batch"


class Opaque:
    """A batch that nobody can look into, except by its methods."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        self._content = (x, y)

    def open(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self._content


# How a batch is wrapped, and unwrapped.
WRAPPINGS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "tuple": (lambda x, y: (x, y), lambda b: b),
    "list": (lambda x, y: [x, y], lambda b: b),
    "dict": (lambda x, y: {"input": x, "label": y}, lambda b: (b["input"], b["label"])),
    "namedtuple": (Pair, lambda b: (b.x, b.y)),
    "dataclass": (Batch, lambda b: (b.x, b.y)),
    "opaque": (Opaque, lambda b: b.open()),
    "nested": (
        lambda x, y: {"in": [{"x": x}, ("meta", None, 3)], "out": {"y": y}},
        lambda b: (b["in"][0]["x"], b["out"]["y"]),
    ),
    "three": (lambda x, y: (x, y, torch.ones(len(y))), lambda b: b[:2]),
    "label first": (lambda x, y: (y, x), lambda b: (b[1], b[0])),
    "numpy": (
        lambda x, y: (x.numpy(), y.numpy()),
        lambda b: (torch.as_tensor(b[0]), torch.as_tensor(b[1])),
    ),
    "weights of zero size": (lambda x, y: (x, y, torch.empty(0)), lambda b: b[:2]),
}


class Twice(nn.Module):
    """Calls one layer two times."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.layer(self.layer(x).relu())


class Checkpointed(nn.Module):
    """Forgets its activations and computes them again."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Dropout(0.1), nn.ReLU())

    def forward(self, x):
        return checkpoint(self.layer, x, use_reentrant=False) if self.training else self.layer(x)


class Recurrent(nn.Module):
    """Reads the features one by one."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(1, WIDTH, batch_first=True)

    def forward(self, x):
        return self.rnn(x[..., None])[0][:, -1]


class Convolved(nn.Module):
    """Takes the features for a signal."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv1d(1, 4, 3, padding=1), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.conv(x[:, None])).relu().mean(1)


class Attended(nn.Module):
    """Attention over the features."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, 0.1, batch_first=True)

    def forward(self, x):
        return self.layer(self.embed(x[..., None])).mean(2)


class InPlace(nn.Module):
    """Changes its activations in place."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return self.layer(x).add_(x).relu_()


class Answers(nn.Module):
    """Returns more than a tensor, takes keywords, and works on a dict inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x):
        return self.inner(x=x, other=None)["hidden"][0]


class Inner(nn.Module):
    """Takes keywords, returns a dict of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(WIDTH, WIDTH), nn.Parameter(torch.tensor(1.0))

    def forward(self, *, x, other):
        return {"hidden": [self.scale * self.layer(x)], "nothing": other, "number": 3}


class Odd(nn.Module):
    """Holds buffers, frozen, complex, unused and empty parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(WIDTH, WIDTH)
        self.unused = nn.Parameter(torch.zeros(3))
        self.empty = nn.Parameter(torch.empty(0))
        self.frozen = nn.Parameter(torch.ones(WIDTH), requires_grad=False)
        self.phase = nn.Parameter(torch.ones(WIDTH, dtype=torch.cfloat))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        if self.training:
            self.count += 1
        return self.layer(x) * self.frozen * (self.phase * self.phase.conj()).real


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(WIDTH, WIDTH),
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "dropout": lambda: nn.Dropout(0.2),
    "batch norm": lambda: nn.BatchNorm1d(WIDTH),
    "layer norm": lambda: nn.LayerNorm(WIDTH),
    "group norm": lambda: nn.GroupNorm(3, WIDTH),
    "twice": Twice,
    "checkpointed": Checkpointed,
    "gru": lambda: Recurrent("GRU"),
    "lstm": lambda: Recurrent("LSTM"),
    "conv": Convolved,
    "attention": Attended,
    "in place": InPlace,
    "answers": Answers,
    "odd": Odd,
    "identity": nn.Identity,
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, WIDTH)),
    "frozen": lambda: nn.Linear(WIDTH, WIDTH).requires_grad_(False),
    "lazy": lambda: nn.Sequential(nn.LazyLinear(WIDTH)),
    "nan at times": lambda: Sometimes(float("nan")),
    "huge at times": lambda: Sometimes(1e30),
}
LAYERS.pop("lazy")  # Lightning's own summary and optimizers want parameters that exist


class Sometimes(nn.Module):
    """Multiplies by a bad number, in one step of twenty."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor, self.calls = factor, 0

    def forward(self, x):
        self.calls += 1
        return x * self.factor if self.calls % 20 == 19 else x


# What the loss is, from the outputs (N, CLASSES) and the labels.
LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cross entropy": F.cross_entropy,
    "softmax twice": lambda out, y: F.cross_entropy(out.softmax(1), y),
    "one-hot": lambda out, y: F.cross_entropy(out, F.one_hot(y, CLASSES).float()),
    "square": lambda out, y: F.mse_loss(out, F.one_hot(y, CLASSES).float()),
    "broadcast": lambda out, y: ((out[:, :1] - y.float()) ** 2).mean(),
    "binary": lambda out, y: F.binary_cross_entropy_with_logits(out[:, 0], (y > 1).float()),
    "sum": lambda out, y: F.cross_entropy(out, y, reduction="sum"),
    "by hand": lambda out, y: -out.log_softmax(1)[torch.arange(len(y)), y].mean(),
    "of two terms": lambda out, y: F.cross_entropy(out, y) + 1e-3 * out.pow(2).mean(),
    "ignores labels": lambda out, y: out.pow(2).mean(),
    "entropy of nothing": lambda out, y: F.cross_entropy(out, y) * 0,
}

OPTIMIZERS: dict[str, Callable[[Any], Any]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    "adamw at once": lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
    "rprop": lambda p: torch.optim.Rprop(p, lr=1e-3),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2),
    "too high": lambda p: torch.optim.SGD(p, lr=30.0),
    "too low": lambda p: torch.optim.Adam(p, lr=1e-9),
    "zero": lambda p: torch.optim.SGD(p, lr=0.0),
}
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "step": lambda o: torch.optim.lr_scheduler.StepLR(o, 3),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(
        o, 0.1, total_steps=400, cycle_momentum=False
    ),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 10),
    "plateau": lambda o: {
        "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(o),
        "monitor": "train_loss",
    },
    "chained": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [
            torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=5),
            torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
        ],
        milestones=[5],
    ),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a program is made of; its ``repr`` is all one needs to build it again."""

    number: int
    layers: tuple[str, ...]
    wrapping: str
    loss: str
    optimizer: str
    scheduler: str | None
    returns: str
    step: str
    validation: str
    data: str
    flags: tuple[tuple[str, Any], ...]


def plan(number: int) -> Plan:
    """Returns the plan of that number."""
    draw = random.Random(number)
    step = draw.choices(["automatic", "manual", "two", "skips", "eval inside"], [6, 2, 2, 1, 1])[0]
    optimizer = draw.choice([*OPTIMIZERS])
    if step in {"manual", "two"} and optimizer == "lbfgs":
        optimizer = "sgd"
    flags: dict[str, Any] = {}
    if step not in {"manual", "two"}:
        flags["accumulate_grad_batches"] = draw.choice([1, 1, 2, 3])
        if optimizer != "lbfgs":
            clip = draw.choice([None, None, ("norm", 0.5), ("value", 0.1)])
            if clip:
                flags["gradient_clip_algorithm"], flags["gradient_clip_val"] = clip
    precisions = ["32-true"] * 4 + ["bf16-mixed", "64-true"]
    if optimizer != "lbfgs":
        precisions.append("16-mixed")
    flags["precision"] = draw.choice(precisions)
    flags["check_val_every_n_epoch"] = draw.choice([1, 1, 2])
    flags["num_sanity_val_steps"] = draw.choice([0, 2])
    if draw.random() < 0.05:
        flags["detect_anomaly"] = True
    if draw.random() < 0.1:
        flags["overfit_batches"] = 2
    if draw.random() < 0.1:
        flags["inference_mode"] = False
    if draw.random() < 0.1:
        flags["limit_train_batches"] = 0.5
    flags["max_epochs"] = draw.choice([2, 2, 3])
    return Plan(
        number=number,
        layers=tuple(draw.choices([*LAYERS], k=draw.randint(1, 5))),
        wrapping=draw.choice([*WRAPPINGS]),
        loss=draw.choice([*LOSSES]),
        optimizer=optimizer,
        scheduler=draw.choice([None, None, *SCHEDULERS]) if step == "automatic" else None,
        returns=draw.choice(["loss", "dict", "dict with more"]),
        step=step,
        validation=draw.choice(["none", "same", "same", "two loaders", "train mode"]),
        data=draw.choice(["map", "map", "stream", "batches", "ragged", "ones"]),
        flags=tuple(sorted(flags.items())),
    )


class Fuzzed(pl.LightningModule):
    """Trains what its plan says."""

    def __init__(self, made: Plan) -> None:
        super().__init__()
        self.plan = made
        self.automatic_optimization = made.step not in {"manual", "two"}
        self.net = nn.Sequential(*[LAYERS[name]() for name in made.layers])
        self.out = nn.Linear(WIDTH, CLASSES)
        self.unwrap = WRAPPINGS[made.wrapping][1]

    def forward(self, x):
        return self.out(self.net(x.to(self.out.weight.dtype)))

    def compute(self, batch):
        x, y = self.unwrap(batch)
        return LOSSES[self.plan.loss](self(x), y)

    def training_step(self, batch, batch_idx):
        if self.plan.step == "skips" and batch_idx % 5 == 3:
            return None
        if self.plan.step == "eval inside" and batch_idx % 4 == 2:
            self.eval()
            with torch.no_grad():
                self.compute(batch)
            self.train()
        if self.plan.step == "two":
            for optimizer in self.optimizers():
                self.toggle_optimizer(optimizer)
                loss = self.compute(batch)
                optimizer.zero_grad()
                self.manual_backward(loss)
                optimizer.step()
                self.untoggle_optimizer(optimizer)
            return None
        loss = self.compute(batch)
        self.log("train_loss", loss, batch_size=8, on_step=True, on_epoch=True)
        if self.plan.step == "manual":
            optimizer = self.optimizers()
            self.manual_backward(loss)
            if batch_idx % 2:
                optimizer.step()
                optimizer.zero_grad()
            return None
        more = {"loss": loss, "log": {"x": 1}, "outputs": [loss.detach(), None, "text"]}
        return {"loss": loss, "dict": {"loss": loss}, "dict with more": more}[self.plan.returns]

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        if self.plan.validation == "train mode":
            self.net.train()
        self.log("val_loss", self.compute(batch), batch_size=8, add_dataloader_idx=True)

    def configure_optimizers(self):
        make = OPTIMIZERS[self.plan.optimizer]
        if self.plan.step == "two":
            parts = [list(self.net.parameters()) or [self.out.bias], [self.out.weight]]
            return [make(part) for part in parts]
        optimizer = make([p for p in self.parameters() if p.requires_grad])
        if self.plan.scheduler:
            return [optimizer], [SCHEDULERS[self.plan.scheduler](optimizer)]
        return optimizer


class Batches:
    """Batches as somebody's own iterable, without a DataLoader."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


class Stream(IterableDataset):
    """Batches that come without an index."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        yield from self.batches


def build(made: Plan) -> Program:
    """Builds the program of a plan, from the seed of its number."""
    seed(made.number)
    y = torch.randint(CLASSES, (8 * 12 + (3 if made.data == "ragged" else 0),))
    x = torch.randn(len(y), WIDTH) + F.one_hot(y, WIDTH)
    wrap = WRAPPINGS[made.wrapping][0]
    size = 1 if made.data == "ones" and not needs_batches(made) else 8
    if size == 1:
        x, y = x[:24], y[:24]
    batches = [wrap(*part) for part in zip(x.split(size), y.split(size), strict=True)]
    train: Any = {
        "map": lambda: DataLoader(batches, batch_size=None, shuffle=True),
        "stream": lambda: DataLoader(Stream(batches), batch_size=None),
        "batches": lambda: Batches(batches),
    }.get(made.data, lambda: DataLoader(batches, batch_size=None))()
    val: Any = None
    if made.validation != "none":
        val = DataLoader(batches[:3], batch_size=None)
        if made.validation == "two loaders":
            val = [val, DataLoader(batches[3:5], batch_size=None)]
    flags = dict(made.flags)
    if flags["precision"] == "16-mixed":
        del flags["precision"]
        scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
        flags["plugins"] = [MixedPrecision("16-mixed", "cpu", scaler)]
    return Program(Fuzzed(made), train, val, flags)


def needs_batches(made: Plan) -> bool:
    """Whether a layer cannot do with a single sample."""
    return bool({"batch norm", "conv"} & set(made.layers))


def trace(made: Plan, *callbacks: pl.Callback) -> tuple[dict[str, Any], dict[str, int]]:
    """Runs a plan; returns what an observer could have changed, and what hangs on the module."""
    program = build(made)
    error = None
    trainer = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            options = {"log_every_n_steps": 1}
            trainer = fit(program, *callbacks, **options)
    except Exception as exception:  # the program's own fault, if it comes without us as well
        error = f"{type(exception).__name__}: {str(exception)[:200]}"
    module = program.module
    state: dict[str, Any] = {
        "error": error,
        "weights": {k: v.detach().clone() for k, v in module.state_dict().items()},
        "gradients": [p.grad is None for p in module.parameters()],
        "modes": [one.training for one in module.modules()],
        "random": torch.get_rng_state(),
        "python random": random.getstate(),
    }
    if trainer is not None:
        state["optimizers"] = [one.state_dict() for one in trainer.optimizers]
        state["steps"] = trainer.global_step
        state["metrics"] = {k: v for k, v in trainer.callback_metrics.items() if "nndebug" not in k}
    torch.set_grad_enabled(True)
    return state, _attachments(module)


def complaints(number: int, **options: Any) -> list[str]:
    """Runs program of that number without and with the suite; returns what is wrong with us."""
    made = plan(number)
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(  # type: ignore[method-assign]
        record.getMessage() + (f" [{record.exc_info[1]!r}]" if record.exc_info else "")
    )
    log = logging.getLogger("lightning_nndebug")
    log.addHandler(handler)
    propagated, log.propagate = log.propagate, False
    try:
        without, clean = trace(made)
        with_us, left = trace(made, NNDebug(**options))
    finally:
        log.removeHandler(handler)
        log.propagate = propagated
    wrong = [f"{key} differs" for key in without if not _equal(without[key], with_us.get(key))]
    if "error differs" in wrong:
        wrong.append(f"without us: {without['error']}; with us: {with_us['error']}")
    wrong += [text for text in messages if "off from here" in text]
    if left != clean:
        wrong.append(f"left behind: {clean} -> {left}")
    return [f"#{number}: {text}" for text in wrong]


def _equal(one: Any, other: Any) -> bool:
    """Bit for bit, where NaN equals NaN."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return torch.equal(one, other) or bool(
            ((one == other) | (one.isnan() & other.isnan())).all()
        )
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return type(one) is type(other) and bool(one == other)
