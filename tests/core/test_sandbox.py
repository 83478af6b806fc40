"""A run goes on bit for bit as if nobody had run its steps again in between."""

from __future__ import annotations

import csv
import dataclasses
import random
import warnings
from collections import Counter, deque
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchmetrics
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins import MixedPrecision
from program import Program, fit, seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug.core.sandbox import (
    Replay,
    Sandbox,
    Snapshot,
    find_generators,
    named_tensors,
    running,
)
from lightning_nndebug.core.tracer import trace
from lightning_nndebug.core.undo import Draws

# --- modules, each with state of another kind that a step changes


class Plain(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.9)]


class Normalized(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 4)
        )


class Measured(Normalized):
    def __init__(self) -> None:
        super().__init__()
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=4)
        self.all = torchmetrics.MetricCollection(
            {"cat": torchmetrics.CatMetric(), "mean": torchmetrics.MeanMetric()}
        )

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.net(x)
        loss = F.cross_entropy(z, y)
        self.accuracy(z, y)
        self.all.update(loss.detach())
        self.log("accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.log_dict({"loss": loss})
        return {"loss": loss, "logits": z.detach()}

    def on_train_epoch_end(self):
        self.log("cat", self.all["cat"].compute().sum())
        self.log("mean", self.all["mean"].compute())


class Lucky(Normalized):
    """Draws from every kind of generator."""

    def __init__(self) -> None:
        super().__init__()
        self.torch = torch.Generator().manual_seed(1)
        self.others = {"numpy": np.random.default_rng(2), "random": random.Random(3)}
        self.old = [np.random.RandomState(4)]
        self.augment = type("Augment", (), {})()
        self.augment.generator = torch.Generator().manual_seed(5)
        self.draws: list[float] = []

    def training_step(self, batch, batch_idx):
        x, y = batch
        x = x + 0.1 * torch.randn(x.shape, generator=self.torch)
        x = x * torch.rand((), generator=self.augment.generator)
        draw = self.others["numpy"].random() + self.others["random"].random()
        draw += self.old[0].rand() + np.random.rand() + random.random()  # noqa: NPY002
        self.draws.append(draw)
        return F.cross_entropy(self.net(x), y) * draw


class Annealing:
    def __init__(self) -> None:
        self.step, self.beta = 0, 0.1

    def advance(self) -> float:
        self.step += 1
        self.beta *= 1.1
        return self.beta


class Counting(Plain):
    """Keeps books in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.name = "0"
        self.history: dict[str, list[float]] = {"loss": []}
        self.recent: deque[float] = deque(maxlen=3)
        self.labels: Counter[int] = Counter()
        self.seen: set[int] = set()
        self.annealing = Annealing()
        self.net.calls = 0

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.calls += 1
        self.net.calls += 1
        self.name = str(self.calls)
        self.labels.update(y.tolist())
        self.seen.add(self.calls)
        loss = F.cross_entropy(self.net(x), y) * (1 + self.calls) * self.annealing.advance()
        self.history["loss"].append(loss.item())
        self.recent.append(loss.item())
        self.last = loss.detach()
        self.trainer.should_stop = self.calls >= 100
        return loss * len(self.history["loss"])


class Averaging(Plain):
    """Writes into parameters and plain tensors, visibly, through ``.data``, and by exchange."""

    def __init__(self) -> None:
        super().__init__()
        self.shadow = nn.Linear(8, 4).requires_grad_(False)
        self.slow = nn.Linear(8, 4).requires_grad_(False)
        self.online = nn.Linear(8, 4)
        self.center = torch.zeros(4)
        self.register_buffer("scale", torch.ones(4))
        self.register_buffer("queue", torch.zeros(64, 4))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    def training_step(self, batch, batch_idx):
        x, y = batch
        with torch.no_grad():
            for old, new in zip(self.shadow.parameters(), self.online.parameters(), strict=True):
                old.mul_(0.9).add_(new, alpha=0.1)
            self.slow.weight.data.lerp_(self.online.weight, 0.1)
            self.slow.bias.data = self.slow.bias.data * 0.9 + self.online.bias * 0.1
            self.online.weight.data.clamp_(-0.2, 0.2)
            target = self.shadow(x) + self.slow(x)
            self.center.mul_(0.9).add_(0.1 * target.mean(0))
            self.scale = self.scale * 0.99
            i = int(self.pointer)
            self.queue[i : i + len(x)] = target
            self.pointer[0] = (i + len(x)) % 64
        z = self.online(x) + self.net(x)
        return F.mse_loss(z * self.scale, target - self.center) + F.cross_entropy(z, y)


class Careless(Plain):
    """Takes the batch apart, and changes hyper-parameters in the step."""

    def training_step(self, batch, batch_idx):
        batch["x"].mul_(0.5).add_(0.1)
        y = batch.pop("y")
        optimizer = self.optimizers()
        optimizer.param_groups[0]["lr"] *= 0.99
        self.net[0].bias.requires_grad_(batch_idx % 2 == 0)
        self.net[1].train(batch_idx % 2 == 0)
        if self.logger is not None:
            path = Path(self.logger.log_dir)
            self.logger.log_metrics({"by hand": float(batch_idx)}, step=batch_idx)
            if isinstance(self.logger, TensorBoardLogger):
                self.logger.experiment.add_scalar(str(path.name), batch_idx)
        return F.cross_entropy(self.net(batch["x"]), y)


class Gan(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.g = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 8))
        self.d = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.1), nn.Linear(8, 1))

    def training_step(self, batch, batch_idx):
        real, _ = batch
        g, d = self.optimizers()
        noise = torch.randn(len(real), 4)
        self.toggle_optimizer(d)
        loss = F.softplus(self.d(self.g(noise).detach())).mean() + F.softplus(-self.d(real)).mean()
        self.manual_backward(loss)
        d.step()
        d.zero_grad()
        self.untoggle_optimizer(d)
        with g.toggle_model():

            def closure():
                g.zero_grad()
                loss = F.softplus(-self.d(self.g(noise))).mean()
                self.log("g", loss)
                self.manual_backward(loss)
                return loss

            g.step(closure)
        self.lr_schedulers()[0].step()
        self.own.step()

    def configure_optimizers(self):
        g = torch.optim.Adam(self.g.parameters(), 1e-2)
        d = torch.optim.SGD(self.d.parameters(), 1e-1, momentum=0.9)
        self.own = torch.optim.lr_scheduler.ExponentialLR(d, 0.9)
        return [g, d], [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in (g, d)]


class Temperature(Plain):
    """A leaf that is no Parameter, a module that is hidden in a list, and a scaler of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = torch.ones((), requires_grad=True)
        self.teacher = [nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))]

    def training_step(self, batch, batch_idx):
        x, y = batch
        with torch.no_grad():
            hint = self.teacher[0](x)
        return F.cross_entropy(self.net(x) / self.temperature + 0.01 * hint, y)

    def configure_optimizers(self):
        return torch.optim.Adam([*self.parameters(), self.temperature], 1e-2)


class Compiled(Normalized):
    def __init__(self) -> None:
        super().__init__()
        self.net = torch.compile(self.net, backend="aot_eager")


def half() -> dict[str, Any]:
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]}


RUNS: dict[str, tuple[type[pl.LightningModule], Any]] = {
    "plain": (Plain, dict),
    "batch norm and dropout": (Normalized, dict),
    "torchmetrics": (Measured, dict),
    "accumulation": (Measured, lambda: {"accumulate_grad_batches": 2}),
    "bf16-mixed": (Measured, lambda: {"precision": "bf16-mixed"}),
    "fp16 with GradScaler": (Measured, half),
    "clipping": (Normalized, lambda: {"gradient_clip_val": 0.1}),
    "generators": (Lucky, dict),
    "counters": (Counting, dict),
    "averages": (Averaging, dict),
    "careless": (Careless, dict),
    "manual optimization": (Gan, dict),
    "manual optimization in fp16": (Gan, half),
    "hidden leaves": (Temperature, dict),
    "compiled": (Compiled, dict),
}


class Prying(pl.Callback):
    """Does all that a sandbox allows, in one hook of every step."""

    def __init__(self, hook: str, backward: bool = True) -> None:
        self.backward = backward
        self.replays: list[Replay] = []
        self.exact: list[bool] = []
        self.moved: list[bool] = []
        self.losses: list[torch.Tensor] = []
        if hook:
            setattr(self, hook, self.pry)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.snapshot = Snapshot.take(pl_module, batch, find_generators(pl_module))
        self.batch_idx = batch_idx
        self.losses = []

    def on_before_backward(self, trainer, pl_module, loss):
        self.losses.append(loss.detach().clone())

    def pry(self, trainer, pl_module, *_):
        if not hasattr(self, "snapshot"):
            return
        batch, objects = self.snapshot.batch, identities(trainer, pl_module)
        with Sandbox(trainer, pl_module, self.snapshot) as sandbox:
            assert running()
            replay = sandbox.training_step(batch, self.batch_idx)
            automatic = pl_module.automatic_optimization
            if self.backward and automatic and replay.loss is not None:
                sandbox.backward(replay.loss)
            if self.losses:
                so_far = dataclasses.replace(replay, losses=replay.losses[: len(self.losses)])
                self.exact.append(so_far.exact(self.losses[-1]))
            # A probe moves the parameters and looks in evaluation mode.
            sandbox.rewind()
            with torch.no_grad():
                torch._foreach_add_(list(pl_module.parameters()), 0.1)
            moved = sandbox.training_step(batch, self.batch_idx, grad=False)
            self.moved.append(not torch.equal(moved.losses[-1], replay.losses[-1]))
            sandbox.rewind()
            pl_module.eval()
            sandbox.training_step(batch, self.batch_idx, grad=False)
            if self.backward:
                assert trace(sandbox, batch, self.batch_idx).culprit is None
        assert not running()
        assert identities(trainer, pl_module) == objects
        self.replays.append(replay)


def identities(trainer: pl.Trainer, module: pl.LightningModule) -> list[Any]:
    """The objects that others may refer to, and what is seen of them without a look inside."""
    tensors = [*module.buffers(), *module.parameters()]
    found: list[Any] = [(id(t), t.data_ptr(), t._version, t.requires_grad) for t in tensors]
    found += [id(p.grad) for p in module.parameters()]
    found += [(id(m), m.training, sorted(vars(m))) for m in module.modules()]
    found += [sorted(vars(o)) for o in trainer.optimizers] + list(map(id, trainer.loggers))
    return found


def dataset(module: pl.LightningModule) -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(48, 8, generator=generator), torch.randint(0, 4, (48,), generator=generator)
    collate = None
    if isinstance(module, Careless):

        def collate(samples):
            xs, ys = zip(*samples, strict=True)
            return {"x": torch.stack(xs), "y": torch.stack(ys)}

    return DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True, collate_fn=collate)


def outcome(name: str, folder: Path, *callbacks: pl.Callback) -> dict[str, Any]:
    """Fits, and returns everything that the run leaves behind."""
    module_type, options = RUNS[name]
    seed()
    module = module_type()
    logger = TensorBoardLogger if name == "careless" else CSVLogger
    trainer = fit(
        Program(module, dataset(module), trainer={"max_epochs": 2, "log_every_n_steps": 1}),
        *callbacks, **{**options(), "logger": logger(folder)},
    )  # fmt: skip
    rows = [list(csv.DictReader(p.open())) for p in folder.rglob("metrics.csv")]
    attributes = {
        k: v for k, v in vars(module).items() if isinstance(v, (int, str, float, dict, list, deque))
    }
    plain = {k: v for k, v in attributes.items() if not k.startswith("_") and k != "teacher"}
    if isinstance(module, Counting):
        plain |= {"annealing": vars(module.annealing), "calls": module.net.calls}
    if isinstance(module, (Averaging, Temperature)):
        plain |= {"tensor": getattr(module, "center", getattr(module, "temperature", None))}
    if isinstance(module, Temperature):
        plain |= {"teacher": module.teacher[0].state_dict()}
    if isinstance(module, Lucky):
        plain = {"draws": module.draws}
    return {
        "parameters": module.state_dict(),
        "optimizers": [o.state_dict() for o in trainer.optimizers],
        "schedulers": [c.scheduler.state_dict() for c in trainer.lr_scheduler_configs],
        "scaler": trainer.scaler.state_dict() if trainer.scaler else None,
        "metrics": dict(trainer.callback_metrics),
        "rows": rows,
        "attributes": plain,
        "steps": trainer.global_step,
        "random": (torch.get_rng_state(), np.random.get_state()[1], random.getstate()),  # noqa: NPY002
    }


def assert_same(a: Any, b: Any, where: str = "") -> None:
    assert type(a) is type(b), where
    if isinstance(a, (torch.Tensor, np.ndarray)):
        assert bool((torch.as_tensor(a) == torch.as_tensor(b)).all()), where
    elif isinstance(a, dict):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, (list, tuple, deque)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


INEXACT = {"averages", "careless", "counters"}  # they change what nobody can put back


@pytest.mark.parametrize("hook", ["on_before_optimizer_step", "on_before_zero_grad"])
@pytest.mark.parametrize("name", RUNS)
def test_training_goes_on_as_if_nothing_had_been(name: str, hook: str, tmp_path: Path) -> None:
    """State, logs, optimizers and random numbers are bit-identical; ``before_zero_grad`` is
    between forward and backward."""
    if hook == "on_before_zero_grad" and RUNS[name][0] is Gan:
        hook = "on_train_batch_end"
    prying = Prying(hook)
    expected = outcome(name, tmp_path / "a", Prying(""))
    assert_same(outcome(name, tmp_path / "b", prying), expected)
    assert prying.replays
    assert all(prying.moved)
    if hook == "on_before_optimizer_step" and name not in INEXACT:
        assert all(prying.exact)


# --- one thing at a time


class Once(pl.Callback):
    """Calls a function with a sandbox before the optimizer's first step."""

    def __init__(self, function) -> None:
        self.function = function
        self.result: Any = None
        self.called = False

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.snapshot = Snapshot.take(pl_module, batch)

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if not self.called:
            self.called = True
            self.result = self.function(Sandbox(trainer, pl_module, self.snapshot), self.snapshot)


def once(module: pl.LightningModule, function, **options: Any) -> Any:
    seed()
    callback = Once(function)
    fit(Program(module, dataset(module), trainer={"max_steps": 2, **options}), callback)
    assert callback.called
    return callback.result


def test_an_exception_leaves_the_same_clean_state() -> None:
    """Whatever is raised inside comes out, and nothing else does."""

    class Fragile(Normalized):
        fail = False

        def training_step(self, batch, batch_idx):
            self.net[1].running_mean.zero_()
            self.net[0].weight.data.zero_()
            loss = super().training_step(batch, batch_idx)
            if self.fail:
                raise KeyError("user's own")
            return loss

    def check(sandbox, snapshot):
        module = sandbox.module
        Fragile.fail = True
        before = (identities(sandbox.trainer, module), torch.get_rng_state().tolist())
        weights = {k: v.clone() for k, v in module.state_dict().items()}
        with pytest.raises(KeyError, match="user's own"), sandbox:
            sandbox.training_step(snapshot.batch, 0)
        Fragile.fail = False
        assert (identities(sandbox.trainer, module), torch.get_rng_state().tolist()) == before
        assert_same(dict(module.state_dict()), weights)
        assert not running()

    once(Fragile(), check)


def test_runs_start_from_the_same_state() -> None:
    """Two runs with a rewind between them are equal, in dropout and in running statistics."""

    def check(sandbox, snapshot):
        with sandbox:
            first = sandbox.training_step(snapshot.batch, 0)
            mean = sandbox.module.net[1].running_mean.clone()
            other = sandbox.training_step(snapshot.batch, 0)
            sandbox.rewind()
            second = sandbox.training_step(snapshot.batch, 0)
            assert torch.equal(mean, sandbox.module.net[1].running_mean)
        assert not torch.equal(first.loss, other.loss)
        assert torch.equal(first.loss, second.loss)

    once(Normalized(), check)


def test_the_step_is_called_as_lightning_calls_it() -> None:
    """Steps take a batch, a batch and an index, anything, or an iterator."""

    class One(Plain):
        def training_step(self, batch):
            return super().training_step(batch, 0)

    class Variadic(Plain):
        def training_step(self, *args):
            return super().training_step(*args)

    class Own(Plain):
        def training_step(self, data, i):
            return super().training_step(data, i)

    class Iterating(Plain):
        def training_step(self, dataloader_iter):
            (x, y), _, _ = next(dataloader_iter)
            return F.cross_entropy(self.net(x), y)

    generator = torch.Generator().manual_seed(0)
    batch = [torch.randn(8, 8, generator=generator), torch.zeros(8, dtype=torch.long)]

    def check(sandbox, snapshot):
        with sandbox:
            return sandbox.training_step(batch, 0).loss.item()

    losses = []
    for kind in (Plain, One, Variadic, Own, Iterating):
        seed()
        losses.append(once(kind(), check))
    assert len(set(losses)) == 1


def test_a_skipped_step_has_no_loss() -> None:
    """``training_step`` may return None."""

    class Skipping(Plain):
        skip = False

        def training_step(self, batch, batch_idx):
            return None if self.skip else super().training_step(batch, batch_idx)

    def check(sandbox, snapshot):
        with sandbox:
            sandbox.module.skip = True
            replay = sandbox.training_step(snapshot.batch, 0)
        assert replay == Replay(None, None, ())
        assert not replay.exact(torch.zeros(()))

    once(Skipping(), check)


def test_manual_optimization_stops_where_asked() -> None:
    """The run ends before the optimizer of which ``stop`` says so, with its gradients in place."""

    def check(sandbox, snapshot):
        optimizers = sandbox.trainer.optimizers
        asked = []
        with sandbox:
            whole = sandbox.training_step(
                snapshot.batch, 0, stop=lambda o: asked.append(o) or False
            )
            assert len(whole.losses) == 2
            sandbox.rewind()
            part = sandbox.training_step(snapshot.batch, 0, stop=lambda o: o is optimizers[1])
            assert len(part.losses) == 1
            assert all(p.grad is not None for p in sandbox.module.d.parameters())
            sandbox.rewind()
            blind = sandbox.training_step(snapshot.batch, 0, grad=False)
        assert [optimizers.index(o) for o in asked] == [1, 0]
        assert torch.equal(whole.losses[0], part.losses[0])
        assert torch.equal(whole.losses[1], blind.losses[1])
        assert torch.equal(whole.loss, whole.losses[-1])

    once(Gan(), check)


def test_tells_whether_the_step_wrote_to_its_batch() -> None:
    """A replay sees such a batch as it was left."""
    batch = {"x": torch.zeros(3), "more": [torch.zeros(2), torch.zeros(1)]}
    snapshot = Snapshot.take(nn.Linear(1, 1), batch)
    assert snapshot.modified() == ()
    batch["more"][1].add_(1)
    batch.pop("x")
    assert snapshot.modified() == ("batch['more'][1]",)
    assert list(snapshot.batch) == ["x", "more"]


def test_finds_tensors_in_any_batch() -> None:
    """Batches are lists, mappings, dataclasses, graphs."""

    @dataclasses.dataclass
    class Sample:
        x: torch.Tensor
        name: str = "a"

    class Graph:
        def keys(self):
            return ["edges"]

        def __getitem__(self, key):
            return torch.zeros(2)

    batch = [{"a": torch.zeros(1)}, (Sample(torch.zeros(1)), None), Graph(), 3]
    assert [name for name, _ in named_tensors(batch)] == [
        "batch[0]['a']", "batch[1][0].x", "batch[2]['edges']"
    ]  # fmt: skip


def test_scripted_modules_take_part() -> None:
    """Their buffers are kept elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = Plain()
        module.net = torch.jit.trace(
            nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4)), torch.randn(8, 8)
        )

    def check(sandbox, snapshot):
        norm = sandbox.module.net.get_submodule("1")
        mean = norm.running_mean.clone()
        with sandbox:
            sandbox.training_step(snapshot.batch, 0)
            assert not torch.equal(norm.running_mean, mean)
        assert torch.equal(norm.running_mean, mean)

    once(module, check)


def test_two_nan_are_the_same_loss() -> None:
    """A replay is exact if it ends at the recorded loss bit for bit, NaN included."""
    nan, one = torch.tensor(torch.nan), torch.tensor(1.0)
    assert Replay(nan, nan, (one, nan)).exact(nan)
    assert not Replay(nan, nan, (nan, one)).exact(nan)
    assert not Replay(one, one, (one,)).exact(torch.tensor(1.0000001))
    assert not Replay(one, one, (one,)).exact(None)


def test_compiled_code_runs_eagerly() -> None:
    """So that hooks, modes and parameters that moved are seen."""
    seen = []

    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, x):
            seen.append(torch.compiler.is_compiling())
            return self.layer(x)

    def check(sandbox, snapshot):
        seen.clear()
        with sandbox:
            sandbox.training_step(snapshot.batch, 0)
        assert seen == [False]

    module = Plain()
    module.net = torch.compile(Watching(), backend="eager")
    once(module, check)


def test_compiled_modules_run_eagerly_before_torch_26(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without ``set_stance`` the compiled call is put aside."""
    monkeypatch.delattr(torch.compiler, "set_stance")

    def check(sandbox, snapshot):
        module = sandbox.module
        with sandbox:
            ops = sandbox.training_step(snapshot.batch, 0)
            assert module.net._compiled_call_impl is None
            assert module.head.forward is module.head._orig_mod
        assert module.net._compiled_call_impl is not None
        assert module.head.forward is not module.head._orig_mod
        return ops

    class Both(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 4))
            self.net.compile(backend="eager")
            self.head = torch.compile(nn.Linear(4, 4), backend="eager")

        def training_step(self, batch, batch_idx):
            return F.cross_entropy(self.head(self.net(batch[0])), batch[1])

    once(Both(), check)


def test_long_and_deep_containers_are_left_alone() -> None:
    """What is inside of a replay buffer is not copied: only its own length comes back."""

    class Remembering(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.buffer = [[i] for i in range(5000)]

        def training_step(self, batch, batch_idx):
            self.buffer.append([batch_idx])
            return super().training_step(batch, batch_idx)

    def check(sandbox, snapshot):
        first, before = sandbox.module.buffer[0], len(sandbox.module.buffer)
        with sandbox:
            sandbox.training_step(snapshot.batch, 0)
            assert len(sandbox.module.buffer) == before + 1
        assert len(sandbox.module.buffer) == before
        assert sandbox.module.buffer[0] is first

    once(Remembering(), check)


def test_both_namespaces_of_lightning() -> None:
    """The sandbox asks nothing of a Trainer but what both have."""
    lightning = pytest.importorskip("pytorch_lightning")

    class Other(lightning.LightningModule):
        __init__ = Normalized.__init__
        training_step = Normalized.training_step
        configure_optimizers = Normalized.configure_optimizers

    class Callback(lightning.Callback):
        exact: list[bool] = []  # noqa: RUF012

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.snapshot = Snapshot.take(pl_module, batch)

        def on_before_backward(self, trainer, pl_module, loss):
            self.loss = loss.detach()

        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            with Sandbox(trainer, pl_module, self.snapshot) as sandbox:
                replay = sandbox.training_step(self.snapshot.batch, 0)
            self.exact.append(replay.exact(self.loss))

    Other.__init__ = lambda self: _initialize(self, lightning.LightningModule)
    module = Other()
    trainer = lightning.Trainer(
        max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[Callback()],
    )  # fmt: skip
    trainer.fit(module, dataset(module))
    assert Callback.exact == [True] * 3


def _initialize(module: Any, base: type) -> None:
    base.__init__(module)
    module.net = nn.Sequential(
        nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 4)
    )


@pytest.mark.ddp
def test_ranks_replay_by_themselves(tmp_path: Path) -> None:
    """Under DDP the module is called, not its wrapper: training goes on as if nothing had been."""
    options = {"accelerator": "cpu", "devices": 2, "strategy": "ddp_fork", "max_epochs": 1}
    weights = []
    for hook in ("", "on_before_optimizer_step"):
        seed()
        module = Normalized()
        fit(Program(module, dataset(module)), Prying(hook), **options)
        weights.append(dict(module.state_dict()))
    assert_same(*weights)


def test_generators_are_read_only_if_steps_draw_from_them() -> None:
    """The first steps tell which ones."""

    def play(draw) -> tuple[Draws, int]:
        draws = Draws([own])
        for _ in range(25):
            states = draws.begin_step()
            draw()
            draws.end_step()
        return draws, len(states)

    own = torch.Generator()
    read, used = play(lambda: None)
    assert (read.host, read.device, used) == (False, False, 0)
    read, used = play(lambda: torch.rand(1, generator=own))
    assert (read.host, read.device) == (False, True)
    assert used >= 2
    read, used = play(random.random)
    assert (read.host, read.device) == (True, False)
    assert used >= 1
