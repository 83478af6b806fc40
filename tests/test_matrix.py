"""Strategy x precision x compilation x optimization: the planted fault is found, its healthy twin is silent.

Any two values of any two axes meet in at least one cell (all pairs, not the whole product); what
cannot run is listed as skipped, with the reason.
"""

from __future__ import annotations

import functools
import json
from itertools import combinations, product
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as pl
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.plugins.precision import MixedPrecision
from program import Program, digits, fit, seed
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import NNDebug


class Cell(NamedTuple):
    """One way to run a Trainer, and what is wrong with the program."""

    strategy: str
    precision: str
    compiled: str
    optimization: str
    fault: str

    def __str__(self) -> str:
        return "-".join(self)


AXES = Cell(
    strategy=("single", "ddp"),
    precision=("fp32", "bf16_mixed", "bf16_true", "fp16_scaler", "double"),
    compiled=("eager", "submodule", "whole"),
    optimization=("automatic", "accumulation", "manual", "raw", "two", "lbfgs"),
    fault=("nan", "eval", "one_class"),
)
OLD_TORCH = not hasattr(torch.compiler, "set_stance")
SAMPLES, SIZE = 1024, 16
CODES = {"nan": "NAN102", "eval": "MOD101", "one_class": "CLS102"}


def impossible(cell: Cell) -> str:
    """Returns why torch or Lightning does not run this cell; empty if they do."""
    if cell.precision == "fp16_scaler" and cell.optimization == "lbfgs":
        return "Lightning: AMP and LBFGS are not compatible"
    if cell.precision == "fp16_scaler" and cell.optimization == "raw":
        return "a raw optimizer steps past Lightning's GradScaler: it would apply scaled gradients"
    return ""


def all_pairs() -> list[Cell]:
    """Returns few possible cells in which every pair of values meets that can meet."""
    cells = [Cell(*values) for values in product(*AXES)]
    possible = [one for one in cells if not impossible(one)]
    missing = {pair for one in possible for pair in pairs(one)}
    chosen = []
    while missing:
        best = max(possible, key=lambda one: len(missing.intersection(pairs(one))))
        chosen.append(best)
        missing.difference_update(pairs(best))
    known = {pair for one in possible for pair in pairs(one)}
    unmet = {pair: one for one in cells for pair in pairs(one) if pair not in known}
    return sorted([*chosen, *dict.fromkeys(unmet.values())], key=order)


def order(cell: Cell) -> tuple[int, ...]:
    return tuple(values.index(value) for values, value in zip(AXES, cell, strict=True))


def pairs(cell: Cell) -> list[tuple]:
    return list(combinations(enumerate(cell), 2))


def marked(cell: Cell):
    marks = [pytest.mark.skip(reason=impossible(cell))] if impossible(cell) else []
    marks += [pytest.mark.ddp] if cell.strategy == "ddp" else []
    # Of a training_step with optimizers in it, dynamo makes hundreds of frames.
    by_hand = cell.optimization in ("manual", "raw", "two")
    if cell.compiled != "eager" and cell.fault == "one_class" and OLD_TORCH:
        reason = "torch < 2.6 cannot be told to run eagerly, as it must to show what the labels are"
        marks += [pytest.mark.skip(reason=reason)]
    if cell.compiled == "whole" and by_hand:
        marks += [pytest.mark.slow, pytest.mark.timeout(280)]
    return pytest.param(cell, marks=marks, id=str(cell))


class Net(pl.LightningModule):
    """A classifier of digits that is optimized in the way that the cell says."""

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell
        self.body = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Dropout(0.1), nn.Linear(48, 32))
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(32, 10))
        if cell.fault == "eval":
            self.body.eval()
        if cell.compiled == "submodule":
            self.body = torch.compile(self.body, backend="eager")
        self.automatic_optimization = cell.optimization not in ("manual", "raw", "two")

    def training_step(self, batch, batch_idx):
        x, y = batch
        # The first pixel of a digit is always blank; 2 + x is only negative in the planted sample.
        loss = F.cross_entropy(self.head(self.body(x)), y) + 1e-3 * (2 + x[:, 0]).log().mean()
        if self.automatic_optimization:
            return loss
        optimizers = self.optimizers(use_pl_optimizer=self.cell.optimization != "raw")
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for one in optimizers:
            one.zero_grad()
        self.manual_backward(loss)
        for one in optimizers:
            one.step()
        return loss.detach()

    def configure_optimizers(self):
        if self.cell.optimization == "lbfgs":
            # With more iterations DDP may hang, also without us: each rank ends by its own loss.
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=2, history_size=4)
        if self.cell.optimization == "two":
            return [torch.optim.Adam(one.parameters(), lr=3e-3) for one in (self.body, self.head)]
        return torch.optim.Adam(self.parameters(), lr=3e-3)


class Batches:
    """This rank's share of an epoch, in random order; if so wanted, each step sees one class."""

    def __init__(self, cell: Cell) -> None:
        self.by_class, self.epoch = cell.fault == "one_class", 0
        self.parts = 2 if cell.optimization == "accumulation" else 1

    def __iter__(self):
        generator = torch.Generator().manual_seed(self.epoch)
        self.epoch += 1
        labels = digits()[1] if self.by_class else torch.zeros(SAMPLES, dtype=torch.int64)
        order = torch.randperm(SAMPLES, generator=generator)
        steps = [one for c in labels.unique() for one in order[labels[order] == c].split(SIZE)]
        steps = [steps[i] for i in torch.randperm(len(steps), generator=generator)]
        steps = steps[rank() : SAMPLES // SIZE // ranks() * ranks() : ranks()]
        return (part.tolist() for one in steps for part in one.tensor_split(self.parts))

    def __len__(self) -> int:
        return SAMPLES // SIZE // ranks() * self.parts


def ranks() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def program(cell: Cell) -> Program:
    x, y = digits()
    if cell.fault == "nan":
        x[500, 0] = -3.0
    train = DataLoader(TensorDataset(x, y), batch_sampler=Batches(cell))
    module = Net(cell)
    if cell.compiled == "whole":
        module = torch.compile(module, backend="eager")
    options = {"max_epochs": 1 + (cell.strategy == "ddp"), "use_distributed_sampler": False}
    if cell.precision == "fp16_scaler":
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        options["plugins"] = [MixedPrecision("16-mixed", "cpu", scaler)]
    else:
        names = {"fp32": "32-true", "bf16_mixed": "bf16-mixed", "bf16_true": "bf16-true"}
        options["precision"] = names.get(cell.precision, "64-true")
    if cell.optimization == "accumulation":
        options["accumulate_grad_batches"] = 2
    if cell.strategy == "ddp":
        options |= {"strategy": "ddp_fork", "devices": 2}
    return Program(module, train, trainer=options)


def findings(cell: Cell, directory: Path) -> dict[str, str]:
    """Returns what rank 0 wrote of the run, by code: forked ranks hand nothing else back."""
    seed()
    torch._dynamo.reset()
    # Two iterations of LBFGS on batches of sixteen do not get far, and are told so.
    suite = NNDebug(ignore=["LOS104", "LRN102"] if cell.optimization == "lbfgs" else None)
    fit(program(cell), suite, default_root_dir=directory)
    found = json.loads((directory / "nndebug" / "findings.json").read_text())
    return {one["code"]: one["severity"] for one in found if one["severity"] != "info"}


@pytest.mark.timeout(90)
@pytest.mark.parametrize("cell", [marked(one) for one in all_pairs()])
def test_matrix(cell: Cell, tmp_path: Path) -> None:
    """What is planted is found, and nothing is found where nothing is planted."""
    assert CODES[cell.fault] in findings(cell, tmp_path / "sick")
    assert findings(cell._replace(fault=""), tmp_path / "healthy") == {}


@pytest.mark.xfail(OLD_TORCH, reason="torch < 2.6 cannot be told to run eagerly", run=False)
def test_a_compiled_module_is_compiled_as_often_as_without_us() -> None:
    """Whatever needs hooks of its own looks at a step that runs eagerly."""
    graphs = []
    for callbacks in ([], [NNDebug()]):
        seed()
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        fit(program(Cell("single", "fp32", "whole", "automatic", "")), *callbacks)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1]


@pytest.mark.xfail(OLD_TORCH, reason="torch < 2.6 cannot be told to run eagerly", run=False)
@pytest.mark.parametrize("is_known", [True, False])
def test_a_function_that_is_compiled_as_one_graph_is_left_alone(is_known: bool) -> None:
    """It stands no hook, whether the module knows it or nobody does."""
    seed()
    torch._dynamo.reset()
    started = program(Cell("single", "fp32", "", "automatic", ""))
    body, module = started.module.body, started.module
    step = torch.compile(body.forward, backend="eager", fullgraph=True)
    del module.body
    module.body = step if is_known else functools.partial(step)
    module.layers = body
    fit(started, NNDebug())
    assert module.trainer.global_step == SAMPLES // SIZE
