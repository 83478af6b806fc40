"""What we need to know of the Trainer, and the traps behind each answer."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

_NAMESPACES = ("lightning.pytorch", "pytorch_lightning")


def _loaded() -> list[type]:
    """Returns the Callback classes of the Lightning namespaces that somebody has imported."""
    modules: list[Any] = [sys.modules.get(name) for name in _NAMESPACES]
    return [module.Callback for module in modules if hasattr(module, "Callback")]


def _first() -> tuple[type, ...]:
    """Returns the bases to start from: what is imported already, else what is installed."""
    if loaded := _loaded():
        return tuple(loaded)
    for name in _NAMESPACES:
        if importlib.util.find_spec(name.partition(".")[0]):
            return (importlib.import_module(name).Callback,)
    raise ImportError("lightning_nndebug needs Lightning: pip install lightning")


if TYPE_CHECKING:
    from lightning.pytorch import Callback as Callback  # noqa: PLC0414
else:

    class Callback(*_first()):
        """A callback of both ``lightning`` and ``pytorch_lightning``.

        A Trainer takes only callbacks of its own namespace (up to 2.5.6), and which namespace a
        user imports may come after our own import. So the missing base is added when an instance
        is made: by then the user's namespace is there.
        """

        def __new__(cls, *args: Any, **kwargs: Any) -> Callback:  # noqa: D102, PYI034
            missing = tuple(base for base in _loaded() if base not in Callback.__mro__)
            if missing:
                Callback.__bases__ += missing
            return super().__new__(cls)


def trainer_class(module: Any) -> Any:
    """Returns the Trainer of the namespace that a LightningModule is of."""
    roots = {kind.__module__.partition(".")[0] for kind in type(module).__mro__}
    name = next((one for one in _NAMESPACES if one.partition(".")[0] in roots), None)
    if name is None:
        raise TypeError(f"A LightningModule is needed, got {type(module).__name__}.")
    return importlib.import_module(name).Trainer


def step_axis(trainer: Any) -> int:
    """Returns the x-axis of ``self.log``: batches that ended in an optimizer step.

    ``global_step`` counts every optimizer (a GAN makes two steps a batch), ``batch_idx`` every
    micro-batch. Lightning's own LearningRateMonitor uses the same private counter.
    """
    loop = trainer.fit_loop
    steps = getattr(loop.epoch_loop, "_batches_that_stepped", None)
    return int(loop.total_batch_idx if steps is None else steps)


def loss_scale(trainer: Any) -> float:
    """Returns the factor by which a GradScaler has multiplied the loss: 1.0 without one."""
    scaler = getattr(trainer, "scaler", None)
    return 1.0 if scaler is None else float(scaler.get_scale())


def gradient_scale(trainer: Any, optimizer: Any) -> float:
    """Returns the factor on ``p.grad`` in ``on_before_optimizer_step``.

    A GradScaler has unscaled the gradients by then, except those of fused optimizers, which
    unscale inside their kernel.
    """
    fused = getattr(optimizer, "_step_supports_amp_scaling", False)
    return loss_scale(trainer) if fused else 1.0


def accumulation(trainer: Any) -> int:
    """Returns by how much Lightning has divided the loss of this batch."""
    return (
        int(trainer.accumulate_grad_batches)
        if trainer.lightning_module.automatic_optimization
        else 1
    )


def optimizer_index(trainer: Any, optimizer: Any) -> int:
    """Returns which optimizer of the run this is; 0 if that cannot be known."""
    return next((i for i, one in enumerate(trainer.optimizers) if one is optimizer), 0)


def is_stepping(trainer: Any) -> bool:
    """Returns whether the batch at hand ends in an optimizer step rather than accumulating."""
    return not trainer.fit_loop._should_accumulate()


def run_directory(trainer: Any) -> Path | None:
    """Returns where our files of the run go; None in a ``fast_dev_run``, which leaves nothing.

    That is the directory of the logger. One whose runs share a directory, such as W&B's, gets one
    for each, as checkpoints do; so does one that keeps nothing on this machine, or has a URL for a
    directory. Every rank must ask for it: what the first one answers is a broadcast.
    """
    if trainer.fast_dev_run:
        return None
    places = [trainer.log_dir, trainer.default_root_dir]
    place = next(str(one) for one in places if one is not None and "://" not in str(one))
    logger = trainer.logger
    if logger is None or getattr(logger, "log_dir", None) is not None:
        return Path(place, "nndebug")
    name, version = trainer.strategy.broadcast((logger.name, logger.version))
    version = f"version_{version}" if isinstance(version, int) else version
    return Path(place, name or "", version or "", "nndebug")


def eagerly(module: Any) -> AbstractContextManager[Any]:
    """Returns a context in which compiled code runs eagerly, if there is any.

    Hooks and torch function modes that come after compilation are silently ignored, or cause
    another compilation. Before torch 2.6 there is no way around that: see ``can_watch``.
    """
    is_any = is_compiled(module) or are_functions_compiled()
    return _Eagerly() if is_any and hasattr(torch.compiler, "set_stance") else nullcontext()


def are_functions_compiled() -> bool:
    """Returns whether anybody has compiled something, such as a function that no module knows.

    Dynamo keeps the backends it was asked for, and None for code that it is to leave alone.
    """
    backends = getattr(sys.modules.get("torch._dynamo.eval_frame"), "cached_backends", {})
    return any(one is not None for one in backends.values())


def is_compiled(module: Any) -> bool:
    """Returns whether the module, or a part of it, is compiled."""
    parts = any(
        getattr(one, "_compiled_call_impl", None) is not None or hasattr(one, "_orig_mod")
        for one in module.modules()
    )
    return parts or getattr(module, "_compiler_ctx", None) is not None


def can_watch(module: Any) -> bool:
    """Returns whether a step can be watched from within: not compiled code before torch 2.6."""
    return hasattr(torch.compiler, "set_stance") or not is_compiled(module)


class _Eagerly(AbstractContextManager[None]):
    """The first to come sets the stance, and the last to leave puts back what was before.

    Measurements come and go in any order. Of torch's own contexts, one that leaves before another
    that came later would have that one put ``force_eager`` back, for the rest of the run.
    """

    present = 0
    stance: Any = None

    def __enter__(self) -> None:
        if not _Eagerly.present:
            _Eagerly.stance = torch.compiler.set_stance("force_eager")
        _Eagerly.present += 1

    def __exit__(self, *_: object) -> None:
        _Eagerly.present -= 1
        if not _Eagerly.present:
            _Eagerly.stance.__exit__(None, None, None)


_WRAPPERS = re.compile(
    r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)


def plain_name(name: str) -> str:
    """Strips what compilation, sharding and checkpointing put into a name."""
    return _WRAPPERS.sub("", name + ".").rstrip(".")
