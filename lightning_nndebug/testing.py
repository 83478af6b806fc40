"""The contract of a detector, as checks that run over ours and over yours.

from lightning_nndebug.testing import CHECKS, check_detector

check_detector(MyDetector)                      # all of it, or, in pytest, one by one:

@pytest.mark.parametrize("check", CHECKS)
def test_contract(check):
    check(MyDetector)
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import logging
import pickle
import random
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from .core.detector import SECTIONS, Detector
from .core.findings import Evidence, Severity

_CHECKPOINT_KB = 64


def check_detector(kind: type[Detector]) -> None:
    """Runs the whole contract over a detector class.

    Args:
        kind: A subclass of Detector that needs no argument.

    Raises:
        AssertionError: If a promise does not hold; the message says which, and how it was seen.
    """
    for check in CHECKS:
        check(kind)


def check_constructor(kind: type[Detector]) -> None:
    """Its options are keywords with defaults, and its ``repr`` is the call that made it."""
    parameters = inspect.signature(kind).parameters.values()
    positional = [one.name for one in parameters if one.kind is not one.KEYWORD_ONLY]
    _expect(not positional, f"options must be keyword-only, these are not: {positional}")
    _expect(repr(kind()) == f"{kind.__name__}()", f"repr of the default is {kind()!r}")
    _expect("patience=7" in repr(kind(patience=7)), "repr leaves out an option that was moved")


def check_documentation(kind: type[Detector]) -> None:
    """Every option is described, every limit has a source, every rule its page."""
    text = f"{inspect.getdoc(Detector)}\n{inspect.getdoc(kind)}"
    for one in fields(kind):
        if one.init:
            _expect(
                f"{one.name}:" in text or f"{one.name}," in text, f"{one.name} is not under Args:"
            )
            bounded = "bounds" in one.metadata
            _expect(not bounded or bool(one.metadata["source"]), f"{one.name} has no source")
    for rule in kind.rules:
        _expect(rule.title.endswith("."), f"{rule.code} does not open with one sentence")
        text = inspect.getdoc(rule.method) or ""
        places = [text.find(f"\n{heading}:\n") for heading in SECTIONS]
        _expect(all(place > 0 for place in places), f"{rule.code} lacks one of {SECTIONS}")
        _expect(places == sorted(places), f"{rule.code} has its sections out of order")
        _expect(bool(rule.section("How to fix")), f"{rule.code} says nothing to try")


def check_pickle(kind: type[Detector]) -> None:
    """It pickles small, before a run and after one, when Lightning has hung the module on it."""
    detector = kind()
    for moment in ("before", "after"):
        size = len(pickle.dumps(detector)) // 1024
        _expect(size < _CHECKPOINT_KB, f"{moment} a run it pickles to {size} kB")
        _expect(repr(pickle.loads(pickle.dumps(detector))) == repr(detector), "it pickles wrong")  # noqa: S301
        _fit(_Automatic(), detector)


def check_yaml(kind: type[Detector]) -> None:
    """LightningCLI's parser writes its options and reads them back."""
    jsonargparse = importlib.import_module("jsonargparse")
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "detector")
    options: dict[str, Any] = {"patience": 7, "halt_on": "error"}
    text = parser.dump(parser.parse_object({"detector": options}))
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    again = instantiate(parser.parse_string(text)).detector
    _expect(repr(again) == repr(kind(**options)), f"YAML gave {again!r}")


def check_observer_changes_nothing(kind: type[Detector]) -> None:
    """Weights, optimizers, random numbers, modes and metrics are the same bits with and without."""
    for name, (module, options) in _runs().items():
        with_us, without = (_trace(module(), options, callbacks) for callbacks in ([kind()], []))
        for what, value in without.items():
            _expect(_same(with_us[what], value), f"{name}: {what} differs with {kind.__name__}")


def check_no_hook_left(kind: type[Detector]) -> None:
    """Nothing hangs on the module, the optimizers or torch after a run, a crash or a tuner."""
    for name, module in (("a run", _Automatic()), ("a crash", _Automatic(crash_at=3))):
        before = _attachments(module)
        with contextlib.suppress(_CrashError):
            _fit(module, kind(), limit_val_batches=2)
        _expect(_attachments(module) == before, f"after {name}: {before} -> {_attachments(module)}")
    module = _Automatic()
    before = _attachments(module)
    lightning = importlib.import_module("lightning.pytorch")
    tuner = importlib.import_module("lightning.pytorch.tuner").Tuner
    with tempfile.TemporaryDirectory() as directory, _quiet():
        trainer = lightning.Trainer(**_options(directory), max_steps=4, callbacks=[kind()])
        tuner(trainer).lr_find(module, _batches(), num_training=4, update_attr=False)
    _expect(_attachments(module) == before, f"after a tuner: {_attachments(module)}")


def check_every_trainer(kind: type[Detector]) -> None:
    """It runs wherever a Trainer runs: no logger, barebones, accumulation, scaler, manual steps."""
    for module, options in _runs().values():
        _fit(module(), kind(), **options)
    _fit(_Automatic(), kind(), fast_dev_run=True)
    _fit(
        _Automatic(), kind(), barebones=True, enable_checkpointing=False, num_sanity_val_steps=None
    )


def check_both_namespaces(kind: type[Detector]) -> None:
    """It works in a ``lightning`` Trainer and in a ``pytorch_lightning`` one."""
    if importlib.util.find_spec("pytorch_lightning") is None:
        return
    _fit(_program("pytorch_lightning")["_Automatic"](), kind(), namespace="pytorch_lightning")


def check_resume(kind: type[Detector]) -> None:
    """Its memory is small, loads under ``weights_only`` and carries over a resumed run."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "last.ckpt"
        trainer = _fit(_Automatic(), kind(), max_steps=6)
        trainer.save_checkpoint(path)
        saved = torch.load(path, weights_only=True)["callbacks"].get(kind.__qualname__, {})
        buffer = io.BytesIO()
        torch.save(saved, buffer)
        size = len(buffer.getvalue()) // 1024
        _expect(size < _CHECKPOINT_KB, f"its memory takes {size} kB of the checkpoint")
        detector = kind()
        _fit(_Automatic(), detector, max_steps=12, ckpt_path=path)
        _expect(detector._session is None, "the session of the resumed run is still open")
        stranger = kind()
        stranger.load_state_dict({"version": 0, "anything": 1})


def check_own_errors(kind: type[Detector]) -> None:
    """An error in a rule or a measurement is told once and never reaches the run."""
    for one in _parts(kind):
        if not one.rules:
            continue
        rules = one.rules
        one.rules = tuple(replace(rule, method=_raise) for rule in rules)
        try:
            with _messages() as messages:
                trainer = _fit(_Automatic(), kind())
        finally:
            one.rules = rules
        told = [text for text in messages if one.__name__ in text and "off from here" in text]
        _expect(
            trainer.global_step == _STEPS, f"an error in a rule of {one.__name__} ended the run"
        )
        _expect(len(told) <= 1, f"an error in a rule was told {len(told)} times")


def check_healthy_run(kind: type[Detector]) -> None:
    """It is silent on a plain healthy run."""
    detector = kind()
    _fit(_Automatic(), detector, max_steps=60)
    loud = [str(one) for one in detector.findings if one.level >= Severity.WARNING]
    _expect(not loud, "it found fault with a healthy run:\n" + "\n".join(loud))


def check_ddp(kind: type[Detector]) -> None:
    """Two processes finish together, with the same findings on each."""
    _fit(_Automatic(), kind(halt_on="error"), strategy="ddp_fork", devices=2, max_steps=6)


CHECKS: tuple[Callable[[type[Detector]], None], ...] = (
    check_constructor,
    check_documentation,
    check_pickle,
    check_yaml,
    check_observer_changes_nothing,
    check_no_hook_left,
    check_every_trainer,
    check_both_namespaces,
    check_resume,
    check_own_errors,
    check_healthy_run,
    check_ddp,
)


# -- the runs that the checks make

_STEPS = 10


class _CrashError(Exception):
    pass


def _program(namespace: str) -> dict[str, Any]:  # noqa: C901
    """Returns the two modules of the checks, as LightningModules of that namespace."""
    base = importlib.import_module(namespace).LightningModule

    class _Automatic(base):  # type: ignore[misc,valid-type]
        """A classifier with a norm, dropout and logging."""

        def __init__(self, crash_at: int = -1) -> None:
            super().__init__()
            self.crash_at = crash_at
            self.net = nn.Sequential(
                nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3)
            )

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            if self.trainer.global_step == self.crash_at:
                raise _CrashError
            x, y = batch
            loss = nn.functional.cross_entropy(self.net(x), y)
            self.log("loss", loss, on_step=True, on_epoch=True)
            return loss

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            self.log("val_loss", nn.functional.cross_entropy(self.net(x), y))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

    class _Manual(base):  # type: ignore[misc,valid-type]
        """Two nets with an optimizer each, stepped by hand."""

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.first, self.second = nn.Linear(8, 3), nn.Linear(8, 3)

        def training_step(self, batch: Any, batch_idx: int) -> None:
            x, y = batch
            for net, optimizer in zip((self.first, self.second), self.optimizers(), strict=True):
                optimizer.zero_grad()
                self.manual_backward(nn.functional.cross_entropy(net(x), y))
                optimizer.step()

        def configure_optimizers(self) -> list[torch.optim.Optimizer]:
            return [
                torch.optim.SGD(self.first.parameters(), lr=0.1),
                torch.optim.Adam(self.second.parameters(), lr=1e-2),
            ]

    for one in (_Automatic, _Manual):  # importable under their own name, as spawned ranks need
        one.__qualname__, one.__module__ = one.__name__, __name__
    return {"_Automatic": _Automatic, "_Manual": _Manual}


_NAMESPACE = "lightning.pytorch" if importlib.util.find_spec("lightning") else "pytorch_lightning"
_MODULES = _program(_NAMESPACE)
_Automatic: Any = _MODULES["_Automatic"]
_Manual: Any = _MODULES["_Manual"]


def _runs() -> dict[str, tuple[Callable[[], Any], dict[str, Any]]]:
    precision = importlib.import_module("lightning.pytorch.plugins.precision")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    return {
        "automatic optimization": (_Automatic, {}),
        "accumulation": (_Automatic, {"accumulate_grad_batches": 2, "gradient_clip_val": 1.0}),
        "bf16": (_Automatic, {"precision": "bf16-mixed"}),
        "fp16 with a scaler": (
            _Automatic,
            {"plugins": [precision.MixedPrecision("16-mixed", "cpu", scaler)]},
        ),
        "manual optimization": (_Manual, {"limit_val_batches": 0}),
    }


def _batches() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (192,), generator=generator)
    x = torch.randn(192, 8, generator=generator)
    x[torch.arange(192), y] += 2.0
    order = torch.Generator().manual_seed(0)
    return DataLoader(TensorDataset(x, y), batch_size=16, shuffle=True, generator=order)


def _options(directory: str) -> dict[str, Any]:
    return {
        "accelerator": "cpu",
        "devices": 1,
        "default_root_dir": directory,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }


def _fit(
    module: Any,
    *callbacks: Any,
    namespace: str = "lightning.pytorch",
    ckpt_path: Path | None = None,
    **options: Any,
) -> Any:
    lightning: ModuleType = importlib.import_module(namespace)
    with tempfile.TemporaryDirectory() as directory, _quiet():
        defaults = {**_options(directory), "max_steps": _STEPS}
        trainer = lightning.Trainer(**{**defaults, **options}, callbacks=list(callbacks))
        trainer.fit(module, _batches(), _batches(), ckpt_path=ckpt_path)
    return trainer


def _trace(module: Any, options: dict[str, Any], callbacks: list[Any]) -> dict[str, Any]:
    """Runs and returns everything that an observer could have changed."""
    torch.manual_seed(0)
    random.seed(0)
    for one in module.modules():
        if hasattr(one, "reset_parameters"):
            one.reset_parameters()
    trainer = _fit(module, *callbacks, max_steps=24, **options)
    return {
        "weights": module.state_dict(),
        "optimizer": [one.state_dict()["state"] for one in trainer.optimizers],
        "random numbers": (torch.get_rng_state(), random.getstate()),
        "modes": [one.training for one in module.modules()],
        "requires_grad": [one.requires_grad for one in module.parameters()],
        "metrics": {
            key: value for key, value in trainer.callback_metrics.items() if "nndebug" not in key
        },
        "steps": trainer.global_step,
    }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _attachments(module: nn.Module) -> dict[str, int]:
    """Counts whatever may hang on a module, its parameters and torch itself."""
    globals_ = vars(torch.nn.modules.module)
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    count = {name: sum(len(getattr(one, name)) for one in module.modules()) for name in names}
    count["parameters"] = sum(len(one._backward_hooks or ()) for one in module.parameters())
    count["accumulated"] = sum(
        len(getattr(one, "_post_accumulate_grad_hooks", None) or ()) for one in module.parameters()
    )
    count["global"] = sum(
        len(globals_[name])
        for name in globals_
        if name.startswith("_global_") and name.endswith("hooks")
    )
    count["modes"] = torch._C._len_torch_function_stack() + torch._C._len_torch_dispatch_stack()
    count["train"] = int(not nn.Module.train.__code__.co_filename.endswith("module.py"))
    count["instance"] = sum(
        "training_step" in vars(one) or "log" in vars(one) for one in module.modules()
    )
    return count


def _parts(kind: type[Detector]) -> list[type[Detector]]:
    return [type(one) for one in kind().members]


def _raise(*_: Any) -> Iterator[Evidence]:
    raise RuntimeError("planted by the contract check")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    names = ("lightning.pytorch", "pytorch_lightning", "lightning.fabric")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def _messages() -> Iterator[list[str]]:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    log = logging.getLogger("lightning_nndebug")
    log.addHandler(handler)
    try:
        yield messages
    finally:
        log.removeHandler(handler)


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(otherwise)
