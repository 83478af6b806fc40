"""Mutation operators: each makes an ordinary program of the healthy zoo ill in one way.

A mutant is an operator and a program that it fits. Which of all the pairs are run follows from a
hash of their name, some 500 of them. Most operators do harm by construction; where it depends on
the program, `certain` is False, and the mutant counts only if it ends with a worse loss than the
program it came from (`is_worse`).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from healthy import all_programs
from healthy._parts import Classifier, Learner
from program import Program, fit, seed
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

SHARE = 5  # one pair in so many is run

RUNAWAY = ("LRN101", "LOS108", "GRD101", "UPD103", "UPD105", "NAN102", "NAN103", "NAN104")
STUCK = ("LOS104", "OUT101", "GRD104", "GEN102")


@dataclass(frozen=True)
class Operator:
    """One way to spoil a program.

    Args:
        name: The name of its function.
        expected: Codes that may lead the findings of a mutant, the best one first.
        certain: Whether what it does is wrong in every program that it fits.
        spoil: Returns the program, spoiled, or None if it does not fit.
    """

    name: str
    expected: tuple[str, ...]
    certain: bool
    spoil: Callable[[Program], Program | None]


@dataclass(frozen=True)
class Mutant:
    """An operator and the program that it was applied to."""

    name: str
    operator: Operator
    program: str

    @property
    def expected(self) -> tuple[str, ...]:
        """Codes that may lead the findings."""
        return self.operator.expected

    def make(self) -> Program:
        """Builds the spoiled program."""
        spoiled = self.operator.spoil(all_programs()[self.program]())
        if spoiled is None:
            raise ValueError(f"{self.operator.name} does not fit {self.program}.")
        return spoiled


OPERATORS: dict[str, Operator] = {}


def operator(*expected: str, certain: bool = True) -> Callable[..., Any]:
    """Registers an operator under the name of its function."""

    def register(spoil: Callable[[Program], Program | None]) -> Callable[..., Any]:
        OPERATORS[spoil.__name__] = Operator(spoil.__name__, expected, certain, spoil)
        return spoil

    return register


@functools.cache
def all_mutants() -> dict[str, Mutant]:
    """Returns, by name, the mutants that are run. Builds every healthy program: half a minute."""
    mutants = {}
    for name, make in all_programs().items():
        wanted = [one for one in OPERATORS.values() if _drawn(f"{one.name}.{name}")]
        seed(0)
        for one in wanted if _ordinary(make()) else ():
            if one.spoil(make()) is not None:
                mutants[f"{one.name}.{name}"] = mutant(f"{one.name}.{name}")
    return mutants


def mutant(name: str) -> Mutant:
    """Returns the mutant of that name, without a look at the others."""
    kind, _, program = name.partition(".")
    return Mutant(name, OPERATORS[kind], program)


def final_loss(program: Program) -> float:
    """Trains without us and returns the mean loss over the last tenth of the steps."""
    losses: list[float] = []

    class Record(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, *args):
            losses.append(float(outputs["loss"]))

    fit(program, Record())
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def is_worse(one: Mutant) -> bool:
    """Whether a mutant ends with a clearly worse loss than the program it was made from."""
    if one.operator.certain:
        return True
    seed(0)
    sick = final_loss(one.make())
    seed(0)
    healthy = final_loss(all_programs()[one.program]())
    return not sick < healthy + 0.1 * abs(healthy)  # NaN is worse than anything


def _drawn(name: str) -> bool:
    return hashlib.sha256(name.encode()).digest()[1] % SHARE == 0


def _ordinary(program: Program) -> bool:
    """Whether a net is trained on a table of inputs and targets, by the zoo's plain module."""
    kind = type(program.module)
    plain = all(
        getattr(kind, name) in {getattr(Learner, name), getattr(Classifier, name)}
        for name in ("forward", "training_step", "validation_step")
    )
    return (
        plain
        and _data(program.train) is not None
        and "overfit" not in str(program.trainer)
        and len(_data(program.train)) == 2
    )


def _data(loader: Any) -> tuple[torch.Tensor, ...] | None:
    dataset = getattr(loader, "dataset", None)
    return dataset.tensors if isinstance(dataset, TensorDataset) else None


def _with_data(loader: DataLoader, x: torch.Tensor, y: torch.Tensor, **options: Any) -> DataLoader:
    shuffle = isinstance(loader.sampler, RandomSampler)
    size = loader.batch_size
    return DataLoader(TensorDataset(x, y), size, **{"shuffle": shuffle, **options})


def _mixed(program: Program, mixin: type) -> Program:
    """Puts a class before the module's own."""
    kind = type(program.module)
    program.module.__class__ = type(kind.__name__, (mixin, kind), {})
    return program


def _set_loss(program: Program, loss: Callable[..., torch.Tensor]) -> None:
    program.module._modules.pop("loss", None)
    program.module.loss = loss


def _has_modes(module: nn.Module) -> bool:
    return any(
        isinstance(one, (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd))
        and (getattr(one, "p", 1) or 0) > 0
        for one in module.modules()
    )


def _layers(module: nn.Module) -> list[nn.Module]:
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    return [one for one in module.modules() if isinstance(one, kinds)]


def _classifies(program: Program) -> bool:
    y = _data(program.train)[1]
    return program.module.loss is F.cross_entropy and y.ndim == 1 and not y.is_floating_point()


# The loss


@operator("LOS102")
def softmax_before_cross_entropy(program: Program) -> Program | None:
    """A softmax at the end of a net that is trained with cross_entropy."""
    if not _classifies(program) or not isinstance(program.module.net, nn.Sequential):
        return None
    program.module.net.append(nn.Softmax(dim=1))
    return program


@operator("LOS109", "LOS102", "LOS104", "CLS105", certain=True)
def square_error_of_class_numbers(program: Program) -> Program | None:
    """The class is regressed as a number, with a single output."""
    if not _classifies(program) or not isinstance(program.module.net, nn.Sequential):
        return None
    if not isinstance(last := program.module.net[-1], nn.Linear):
        return None
    program.module.net[-1] = nn.Linear(last.in_features, 1)
    x, y = _data(program.train)
    train = _with_data(program.train, x, y.float()[:, None])
    _set_loss(program, F.mse_loss)
    return replace(program, train=train, val=None)


@operator("LOS109", *RUNAWAY)
def loss_negated(program: Program) -> Program | None:
    """The loss is maximized."""
    loss = program.module.loss
    _set_loss(program, lambda out, y: -loss(out, y))
    return program


@operator("LOS107", "MOD104", "GRD103", "UPD102")
def loss_rebuilt_from_its_number(program: Program) -> Program | None:
    """torch.tensor(loss.item(), requires_grad=True)."""
    loss = program.module.loss
    _set_loss(
        program,
        lambda out, y: torch.tensor(loss(out, y).item(), requires_grad=out.requires_grad),
    )
    return program


@operator("LOS103")
def column_against_row(program: Program) -> Program | None:
    """Targets (N,) for predictions (N, 1)."""
    x, y = _data(program.train)
    if program.module.loss is not F.mse_loss or y.ndim != 2 or y.shape[1] != 1:
        return None
    return replace(program, train=_with_data(program.train, x, y.squeeze(1)), val=None)


# The rate


def _rate(program: Program, factor: float) -> Program | None:
    if type(program.module).configure_optimizers is not Learner.configure_optimizers:
        return None
    program.module.lr = program.module.lr * factor
    return program


@operator(*RUNAWAY, "ACT101", "ACT102", *STUCK, certain=False)
def rate_times_a_thousand(program: Program) -> Program | None:
    """The learning rate is a thousand times higher."""
    return _rate(program, 1000.0)


@operator("LRN102", "UPD103")
def rate_over_ten_thousand(program: Program) -> Program | None:
    """The learning rate is ten thousand times lower."""
    return _rate(program, 1e-4)


@operator("LRN103", "UPD102")
def rate_of_zero(program: Program) -> Program | None:
    """The learning rate is zero."""
    return _rate(program, 0.0)


# The optimizer


class _NeverZeroed:
    def optimizer_zero_grad(self, *args):
        """Somebody meant to accumulate."""


@operator("GRD106", *RUNAWAY)
def gradients_never_zeroed(program: Program) -> Program | None:
    """Gradients of all steps add up."""
    return _mixed(program, _NeverZeroed)


class _LastLayerOnly:
    def configure_optimizers(self):
        last = list(self.parameters())[-2:]
        return torch.optim.AdamW(last, lr=self.lr)


@operator("UPD101")
def optimizer_of_the_last_layer(program: Program) -> Program | None:
    """The optimizer gets two parameters of all."""
    return _mixed(program, _LastLayerOnly) if len(list(program.module.parameters())) > 3 else None


class _Detach(nn.Module):
    def forward(self, x):
        return x.detach()


@operator("GRD103", "UPD102")
def detached_in_the_middle(program: Program) -> Program | None:
    """The graph is cut in the middle of the net."""
    net = program.module.net
    if not isinstance(net, nn.Sequential) or len(net) < 3:
        return None
    middle = len(net) // 2
    if not any(p.requires_grad for p in net[:middle].parameters()):
        return None
    net.insert(middle, _Detach())
    return program


class _Untracked:
    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            loss = super().training_step(batch, batch_idx)
        return loss.requires_grad_()


@operator("MOD104", "LOS107", "GRD103")
def step_without_gradients(program: Program) -> Program | None:
    """The step runs under no_grad, and its loss is told to require a gradient."""
    return _mixed(program, _Untracked)


# The modes


class _Evaluating:
    def on_train_batch_start(self, *args):
        self.eval()


@operator("MOD101")
def eval_left_on(program: Program) -> Program | None:
    """The module trains in eval mode."""
    return _mixed(program, _Evaluating) if _has_modes(program.module) else None


class _Training:
    def validation_step(self, batch, batch_idx):
        self.train()
        super().validation_step(batch, batch_idx)


@operator("MOD102")
def train_left_on(program: Program) -> Program | None:
    """The module is validated in train mode."""
    fits = program.val is not None and _has_modes(program.module)
    return _mixed(program, _Training) if fits else None


# The net


@operator("STR103", "GEN102", certain=False)
def activations_removed(program: Program) -> Program | None:
    """Every activation is gone."""
    kinds = (nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.ELU, nn.LeakyReLU, nn.SELU)
    found = [
        (parent, name)
        for parent in program.module.modules()
        for name, child in parent.named_children()
        if isinstance(child, kinds)
    ]
    for parent, name in found:
        setattr(parent, name, nn.Identity())
    return program if len(found) > 1 else None


@operator("UPD104", "GRD103", *STUCK, "UPD102", certain=False)
def weights_of_zero(program: Program) -> Program | None:
    """All weight matrices start at zero."""
    for layer in _layers(program.module):
        nn.init.zeros_(layer.weight)
    return program if len(_layers(program.module)) > 1 else None


@operator("UPD104", "ACT103", "LOS101", "ACT102", *RUNAWAY, certain=False)
def weights_of_fifty(program: Program) -> Program | None:
    """All weight matrices start fifty times larger."""
    for layer in _layers(program.module):
        layer.weight.data *= 50
    return program if _layers(program.module) else None


# The data


@operator("INP204", "LOS104", certain=False)
def labels_shuffled(program: Program) -> Program | None:
    """The targets of all training samples are permuted."""
    x, y = _data(program.train)
    return replace(program, train=_with_data(program.train, x, y[torch.randperm(len(y))]))


@operator("CLS103", "INP201", "CLS102")
def sorted_by_class(program: Program) -> Program | None:
    """Training samples come class by class, unshuffled."""
    if not _classifies(program):
        return None
    x, y = _data(program.train)
    order = y.argsort()
    return replace(program, train=_with_data(program.train, x[order], y[order], shuffle=False))


@operator("INP103", "ACT102", *RUNAWAY, "LOS101", "INP202", certain=False)
def inputs_unscaled(program: Program) -> Program | None:
    """Inputs are a thousand times larger, around five thousand, in training and validation."""
    x, y = _data(program.train)
    if not x.is_floating_point() or (program.val is not None and not _data(program.val)):
        return None
    val = program.val and _with_data(
        program.val, _data(program.val)[0] * 1e3 + 5e3, *_data(program.val)[1:]
    )
    return replace(program, train=_with_data(program.train, x * 1e3 + 5e3, y), val=val)


@operator("INP101", *STUCK, "INP202", "OUT103")
def inputs_constant(program: Program) -> Program | None:
    """All inputs are zero."""
    x, y = _data(program.train)
    if not x.is_floating_point():
        return None
    return replace(program, train=_with_data(program.train, torch.zeros_like(x), y))


@operator("NAN101")
def inputs_with_a_hole(program: Program) -> Program | None:
    """One value in a thousand is NaN."""
    x, y = _data(program.train)
    if not x.is_floating_point():
        return None
    holes = torch.rand(x.shape) < max(1e-3, 5 / x.numel())
    return replace(program, train=_with_data(program.train, x.masked_fill(holes, torch.nan), y))


class _FirstBatch:
    def __init__(self, loader: DataLoader) -> None:
        self.batch, self.length = next(iter(loader)), len(loader)

    def __len__(self) -> int:
        return self.length

    def __iter__(self):
        for _ in range(self.length):
            yield tuple(part.clone() for part in self.batch)


@operator("INP102", "GEN101", "INP106")
def first_batch_repeated(program: Program) -> Program | None:
    """Every batch is the first one."""
    return replace(program, train=_FirstBatch(program.train)) if len(program.train) > 3 else None


@operator("INP203", "GEN107")
def validation_from_training(program: Program) -> Program | None:
    """The validation set is a part of the training set."""
    if not isinstance(program.val, DataLoader):
        return None
    x, y = _data(program.train)
    part = slice(None, max(32, len(x) // 3))
    return replace(program, val=DataLoader(TensorDataset(x[part], y[part]), batch_size=32))


@operator("INP202", "GEN105")
def validation_unscaled(program: Program) -> Program | None:
    """Validation inputs are in other units."""
    if not isinstance(program.val, DataLoader) or not _data(program.val):
        return None
    x, y = _data(program.val)
    if not x.is_floating_point():
        return None
    return replace(program, val=_with_data(program.val, x * 100 + 300, y))
