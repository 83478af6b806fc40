"""The sandbox: the one place that runs the user's code again, and leaves no trace of it."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, is_dataclass
from pathlib import PurePath
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .undo import (
    PLAIN,
    CopyOnWrite,
    Namespaces,
    RngState,
    address,
    find_generators,
    read_rng,
    write_rng,
)

__all__ = ["Replay", "Sandbox", "Snapshot", "find_generators", "named_tensors", "running"]


@dataclass(frozen=True)
class Snapshot:
    """What a training step starts from and will have changed when we want to run it again.

    Taken in ``on_train_batch_start``, dropped in ``on_train_batch_end`` (it refers to the batch).

    Attributes:
        batch: The batch, its dicts and lists copied (a step may pop from them), its tensors not.
    """

    batch: Any
    _versions: tuple[int, ...]
    _attributes: Mapping[str, Any]
    _requires_grad: Sequence[tuple[Tensor, bool]]
    _rng: Sequence[RngState]

    @classmethod
    def take(
        cls,
        module: nn.Module,
        batch: Any = None,
        generators: Sequence[Any] = (),
        rng: Sequence[RngState] | None = None,
    ) -> Snapshot:
        """Notes the state, in tens of microseconds: nothing of the size of the model is copied.

        Args:
            module: The LightningModule.
            batch: The batch that the step will get.
            generators: The random generators of the module, from ``find_generators``, asked once.
            rng: The states of those generators that count, see ``Draws``; all by default.
        """
        return cls(
            batch=_rebuilt(batch),
            _versions=tuple(_version(tensor) for _, tensor in named_tensors(batch)),
            _attributes=dict(vars(module)),
            # Only in manual optimization does a step flip them itself (``toggle_optimizer``).
            _requires_grad=()
            if getattr(module, "automatic_optimization", True)
            else [(p, p.requires_grad) for p in module.parameters()],
            _rng=read_rng(generators) if rng is None else rng,
        )

    def scalars(self) -> dict[str, Any]:
        """Returns the module's attributes that are plain values: a counter that the step raises."""
        kinds = (int, float, bool, str)
        return {name: one for name, one in self._attributes.items() if type(one) in kinds}

    def modified(self) -> tuple[str, ...]:
        """Names the tensors of the batch that were written to since; a replay starts from those."""
        then = zip(named_tensors(self.batch), self._versions, strict=True)
        return tuple(name for (name, tensor), version in then if _version(tensor) != version)


@dataclass(frozen=True)
class Replay:
    """What one run of the user's ``training_step`` in the sandbox gave.

    Attributes:
        loss: The loss with its graph, as returned; in manual optimization the last one that went
            backward, detached; None if there was none.
        output: What ``training_step`` returned.
        losses: The losses, detached, as ``on_before_backward`` shows them: divided by
            ``accumulate_grad_batches`` in automatic optimization, multiplied by the scale of the
            ``GradScaler``. In manual optimization one for each ``manual_backward``.
    """

    loss: Tensor | None
    output: Any
    losses: tuple[Tensor, ...]

    def exact(self, recorded: Tensor | None) -> bool:
        """Tells whether this run ended at the loss that ``on_before_backward`` had recorded.

        That is bit for bit, and two NaN are equal. A step does not end there if it depends on
        state that nobody can put back.
        """
        if recorded is None or not self.losses:
            return False
        then, now = recorded.detach(), self.losses[-1]
        return then.shape == now.shape and bool(
            ((then == now) | (then.isnan() & now.isnan())).all()
        )


@final
class Sandbox:
    """Runs the user's step, as often as needed; afterwards everything is as it was before.

    Put back, also after an exception: all memory that existed before (parameters, buffers, metric
    states, the batch: copied when it is first written to), ``p.grad``, ``requires_grad``,
    ``training``, the attributes of all submodules, optimizers and schedulers with the containers
    in them (two levels), and every random number generator. Inside, ``self.log``, ``self.print``,
    the loggers, ``optimizer.step`` and ``scheduler.step`` do nothing, and compiled modules run
    eagerly. So a probe may move parameters, call ``module.eval()`` or shuffle the batch in place
    at will, but must collect its results in new tensors.

    Not put back: files, prints, iterators that the step itself draws from, memory written by numpy
    or by an extension, attributes of objects that hold more than numbers, strings and tensors.

    The step runs on the module, not on its DDP wrapper, so gradients are not reduced. Collectives
    inside of the step do run: enter on all ranks or on none. Under DDP do not call ``backward``
    between the forward and the backward of the run: the reducer would take it for the run's own.

    Example::

        with Sandbox(trainer, module) as sandbox:
            for factor in (0.0, 1.0, 10.0):
                sandbox.rewind()
                torch._foreach_add_(parameters, delta, alpha=factor)
                losses.append(sandbox.training_step(batch, batch_idx, grad=False).loss)

    Args:
        trainer: The Trainer of the run.
        module: Its LightningModule, unwrapped.
        snapshot: Where each run starts; default: the state on entry.
        generators: The random generators of the module; default: ``find_generators(module)``.
    """

    _open: ClassVar[int] = 0

    def __init__(
        self,
        trainer: Any,
        module: Any,
        snapshot: Snapshot | None = None,
        generators: Sequence[Any] | None = None,
    ) -> None:
        self.trainer = trainer
        self.module = module
        self._snapshot = snapshot
        self._generators = find_generators(module) if generators is None else generators
        self._grad = self._scaled = True
        self._stop: Callable[[Optimizer], bool] | None = None
        self._losses: list[Tensor] = []
        self._last_loss: Tensor | None = None

    def __enter__(self) -> Sandbox:
        self._capture()
        with ExitStack() as stack:
            stack.callback(self._restore)
            if hasattr(torch.compiler, "set_stance"):
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(self._memory)
            self._prepare()
            self._stack = stack.pop_all()
        Sandbox._open += 1
        return self

    def __exit__(self, *_: object) -> None:
        Sandbox._open -= 1
        self._stack.close()

    def rewind(self) -> None:
        """Goes back to where the first run started; call it between runs."""
        self._restore()
        self._prepare()

    def training_step(
        self,
        batch: Any,
        batch_idx: int,
        *,
        grad: bool = True,
        scaled: bool = True,
        stop: Callable[[Optimizer], bool] | None = None,
    ) -> Replay:
        """Runs ``training_step`` under the precision of the run; does not call ``backward``.

        Args:
            batch: The batch, on its device.
            batch_idx: Its index.
            grad: Whether to record a graph. If not, ``manual_backward`` does nothing.
            scaled: Whether ``manual_backward`` multiplies by the scale of the ``GradScaler``.
            stop: In manual optimization, asked before each (void) optimizer step; True ends the run
                there, with the gradients in place.

        Raises:
            Exception: Whatever the step raises.
        """
        self._grad, self._scaled, self._stop = grad, scaled, stop
        self._losses, self._last_loss = [], None
        output: Any = None
        precision, step = self.trainer.precision_plugin, self.module.training_step
        with (
            suppress(_Stopped),
            torch.inference_mode(mode=False),
            torch.set_grad_enabled(grad),
            precision.train_step_context(),
        ):
            output = step(*_arguments(step, _rebuilt(batch), batch_idx))
        loss = output.get("loss") if isinstance(output, Mapping) else output
        if not self.module.automatic_optimization:
            loss = self._last_loss
        elif isinstance(loss, Tensor):
            self._losses.append(self._as_run(loss).detach())
        else:
            loss = None
        return Replay(loss, output, tuple(self._losses))

    def backward(self, loss: Tensor, *, scaled: bool = True) -> None:
        """Backpropagates the ``loss`` of a replay as the run does, but does not reduce gradients.

        Args:
            loss: It is divided by ``accumulate_grad_batches`` here.
            scaled: Whether it is multiplied by the scale of the ``GradScaler`` too.
        """
        with torch.enable_grad():  # measurements are taken without
            self.module.backward(self._as_run(loss, scaled))

    # What follows is the order of events: capture, then prepare and restore for every run.

    def _capture(self) -> None:
        trainer, module = self.trainer, self.module
        schedulers = [config.scheduler for config in getattr(trainer, "lr_scheduler_configs", [])]
        self._state = Namespaces()
        for root in (module, trainer.optimizers, module.optimizers(), schedulers):
            self._state.visit(root)
        self._memory = CopyOnWrite()
        self._rng = read_rng(self._generators)
        self._tensors = [(p, p.data, p.grad, p.requires_grad) for p in self._state.parameters()]
        self._loggers, self._should_stop = list(trainer.loggers), trainer.should_stop

    def _prepare(self) -> None:
        start = self._snapshot
        vars(self.module).update(start.scalars() if start else {})
        for parameter, flag in start._requires_grad if start else ():
            parameter.requires_grad_(flag)
        for tensor, *_ in self._tensors:
            tensor.grad = None
        copies: dict[int, Tensor] = {}
        for owner in self._state.owners:
            if isinstance(owner, nn.Module):
                self._protect_buffers(owner, copies)
                _silence(owner)
                _uncompile(owner)
            elif isinstance(owner, Optimizer):
                vars(owner)["step"] = functools.partial(self._optimizer_step, owner)
            else:
                vars(owner)["step"] = _nothing
        vars(self.module)["manual_backward"] = self._manual_backward
        self.trainer.loggers = [_Silent(logger) for logger in self._loggers]
        write_rng(start._rng if start else self._rng)

    def _protect_buffers(self, module: nn.Module, copies: dict[int, Tensor]) -> None:
        """Puts copies in their place: the schemas of batch norm do not tell that they write."""
        buffers = vars(module).get("_buffers")
        if not isinstance(buffers, dict):  # a ScriptModule has them elsewhere
            for buffer in module.buffers(recurse=False):
                self._memory.keep(buffer)
            return
        for name, buffer in buffers.items():
            if buffer is not None:
                copies.setdefault(id(buffer), buffer.detach().clone())
                buffers[name] = copies[id(buffer)]

    def _restore(self) -> None:
        with ExitStack() as stack:  # an error in one must not keep the others from their work
            stack.callback(write_rng, self._rng)
            stack.callback(self._restore_trainer)
            stack.callback(self._restore_tensors)
            stack.callback(self._memory.restore)
            stack.callback(self._state.restore)

    def _restore_tensors(self) -> None:
        for tensor, data, grad, flag in self._tensors:
            if address(tensor) != address(data):
                tensor.data = data
            tensor.grad = grad
            if tensor.requires_grad != flag:
                tensor.requires_grad_(flag)

    def _restore_trainer(self) -> None:
        self.trainer.loggers, self.trainer.should_stop = self._loggers, self._should_stop

    def _manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self._last_loss = loss.detach()
        self._losses.append(self._as_run(self._last_loss))
        if self._grad:
            self.module.backward(self._as_run(loss, self._scaled), *args, **kwargs)

    def _optimizer_step(self, optimizer: Any, closure: Any = None, *_: Any, **__: Any) -> Any:
        with torch.set_grad_enabled(self._grad):
            result = closure() if closure is not None else None
        if self._stop is not None:
            # LightningOptimizer stands before the one that the Trainer knows.
            behind: Any = getattr(optimizer, "optimizer", None)
            if self._stop(next((o for o in self.trainer.optimizers if o is behind), optimizer)):
                raise _Stopped
        return result

    def _as_run(self, loss: Any, scaled: bool = True) -> Any:
        if self.module.automatic_optimization:
            loss = loss / self.trainer.accumulate_grad_batches
        scaler = getattr(self.trainer, "scaler", None)
        return scaler.scale(loss) if scaled and scaler is not None else loss


def running() -> bool:
    """Tells whether a sandbox is open: hooks that measure the real run keep still then."""
    return Sandbox._open > 0


def named_tensors(batch: Any, name: str = "batch") -> Iterator[tuple[str, Tensor]]:
    """Yields the tensors in a nested batch with their place: ``batch['x'][0]``.

    Looks into lists, tuples, dataclasses, and what has keys (mappings, ``TensorDict``, graphs).
    """
    if isinstance(batch, Tensor):
        yield name, batch
    elif isinstance(batch, (list, tuple)):
        for index, value in enumerate(batch):
            yield from named_tensors(value, f"{name}[{index}]")
    elif callable(getattr(batch, "keys", None)):
        for key in batch.keys():  # noqa: SIM118
            yield from named_tensors(batch[key], f"{name}[{key!r}]")
    elif is_dataclass(batch):
        for key, value in vars(batch).items():
            yield from named_tensors(value, f"{name}.{key}")


class _Stopped(BaseException):
    """Ends a run early; no ``except Exception`` of the user's catches it."""


class _Silent:
    """Stands in for a logger: passes plain values through, and all calls do nothing."""

    def __init__(self, real: Any) -> None:
        self._real = real

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self._real)

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._real, name, _nothing)
        return value if isinstance(value, (*PLAIN, PurePath)) else _Silent(value)

    def __call__(self, *_: Any, **__: Any) -> _Silent:
        return _Silent(_nothing)

    __getitem__ = __enter__ = __call__

    def __setitem__(self, *_: Any) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _nothing(*_: Any, **__: Any) -> None: ...


def _silence(module: nn.Module) -> None:
    if hasattr(type(module), "log_dict"):
        vars(module).update(log=_nothing, log_dict=_nothing, print=_nothing)


def _uncompile(module: nn.Module) -> None:
    """Stands in for ``torch.compiler.set_stance`` before torch 2.6: modules only, not functions."""
    if hasattr(torch.compiler, "set_stance"):
        return
    if "_compiled_call_impl" in vars(module):
        vars(module)["_compiled_call_impl"] = None
    if "_orig_mod" in module._modules:
        vars(module)["forward"] = module._modules["_orig_mod"]
    for name, original in (getattr(module, "_compiler_ctx", None) or {}).items():
        if name.startswith("original_"):  # as Lightning keeps the methods of a compiled module
            vars(module)[name.removeprefix("original_")] = original


def _arguments(step: Callable[..., Any], batch: Any, batch_idx: int) -> tuple[Any, ...]:
    """Arguments as Lightning passes them: ``batch_idx`` if taken; an iterator if asked for."""
    parameters = inspect.signature(step).parameters
    if "dataloader_iter" in parameters:
        return (iter([(batch, batch_idx, 0)]),)
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters.values())
    return (batch, batch_idx) if variadic or len(parameters) > 1 else (batch,)


def _rebuilt(batch: Any) -> Any:
    """Copies the containers of a batch; tensors stay the same objects."""
    if type(batch) in (list, tuple):
        return type(batch)(_rebuilt(item) for item in batch)
    if type(batch) is dict:
        return {key: _rebuilt(item) for key, item in batch.items()}
    return copy.copy(batch) if isinstance(batch, MutableMapping) else batch


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version
