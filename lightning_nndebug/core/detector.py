"""Detector, rule, threshold, state: all that a symptom's module is made of."""

from __future__ import annotations

import difflib
import inspect
import itertools
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

from typing_extensions import dataclass_transform

from .causality import by_cause
from .findings import Evidence, Finding, Severity, opened
from .measurements import Measurement
from .session import Session
from .trainer import Callback

SECTIONS = ("Why it matters", "Likely causes", "How to fix", "When it is fine", "References")


@dataclass(frozen=True)
class Question:
    """A method of a detector that is asked whenever the measurements it names are there.

    Attributes:
        method: The method.
        ways: What it can be asked with: the arguments' kinds, once for each choice of a union.
    """

    method: Callable[..., Any]
    ways: tuple[tuple[type[Measurement], ...], ...]

    @property
    def kinds(self) -> tuple[type[Measurement], ...]:
        """All measurements that it names."""
        return tuple(dict.fromkeys(itertools.chain(*self.ways)))

    @property
    def name(self) -> str:
        """The method's name, as it is written in keys and pages."""
        return self.method.__name__

    @property
    def title(self) -> str:
        """The first sentence of the docstring; empty under ``python -OO``."""
        return (inspect.getdoc(self.method) or "").partition("\n")[0]


@dataclass(frozen=True)
class Rule(Question):
    """A question whose answer is evidence of an illness."""

    code: str
    severity: Severity
    patience: int
    caused_by: tuple[str, ...]

    @property
    def name(self) -> str:
        """The illness, such as ``vanishing-gradient``."""
        return self.method.__name__.replace("_", "-")

    def section(self, heading: str) -> list[str]:
        """Returns the entries of one section of the docstring, each in one line."""
        return _section(inspect.getdoc(self.method) or "", heading)


RULES: dict[str, tuple[type[Detector], Rule]] = {}


def rule(
    code: str, *, severity: Severity, patience: int = 1, caused_by: Sequence[str] = ()
) -> Callable[..., Any]:
    """Makes a method of a detector a rule.

    The method is asked whenever all measurements that its arguments are annotated with are there,
    of a union (``StepProbe | Divergence``) one.
    Its docstring is the rule's page, its ``explain``, and the advice in its findings.

    Args:
        code: Three letters of the detector and three digits. Given once, never again.
        severity: ERROR for facts alone; a heuristic is a WARNING.
        patience: For how many looks in a row a place must show it.
        caused_by: Codes or prefixes of the rules whose illness brings this one about. Where one of
            them has fired, this finding follows from it and does not lead.
    """

    def mark(method: Callable[..., Iterator[Evidence]]) -> Callable[..., Iterator[Evidence]]:
        method._rule = (code, severity, patience, tuple(caused_by))  # type: ignore[attr-defined]
        return method

    return mark


def vital(method: Callable[..., float | None]) -> Callable[..., float | None]:
    """Makes a method of a detector a number for the loggers: ``nndebug/<symptom>/<method>``."""
    method._vital = True  # type: ignore[attr-defined]
    return method


def threshold(
    *, default: Any, source: str, minimum: float = 0.0, maximum: float = float("inf")
) -> Any:
    """An option that the user can move.

    Args:
        default: The value, of a builtin type.
        source: Where the default comes from: a reference, or a table in ``benchmarks/thresholds``.
        minimum: The least allowed value.
        maximum: The largest allowed value.
    """
    metadata = {"source": source, "bounds": (minimum, maximum)}
    return field(default=default, metadata=metadata)


def state(factory: Callable[[], Any], *, init: Literal[False] = False) -> Any:
    """What a detector remembers: plain builtins and tensors, saved in the checkpoint.

    Args:
        factory: Makes the empty memory of a new run.
        init: Never an argument of the constructor; it is here to tell type checkers so.
    """
    return field(init=init, repr=False, default_factory=factory, metadata={"state": True})


@dataclass_transform(
    kw_only_default=True, eq_default=False, field_specifiers=(threshold, state, field)
)
@dataclass(kw_only=True, eq=False, repr=False)
class Detector(Callback):
    """A callback that owns one symptom class. Subclass it, and never one of its subclasses.

    A subclass has keyword options (``threshold``), memory (``state``) and rules, nothing else.

    Args:
        select: Codes or prefixes of the rules to use. None means all.
        ignore: Codes or prefixes of the rules to leave out. None means none.
        halt_on: Stop the run on a finding at least this severe. None means never.
        halt: How to stop: ``"raise"`` raises TrainingHalted before the next update, so that the
            weights stay clean; ``"stop"`` asks the Trainer to end, after the step at hand.
        patience: For how many looks in a row a place must show a symptom, instead of each rule's
            own number.
    """

    select: Sequence[str] | None = None
    ignore: Sequence[str] | None = None
    halt_on: Literal["info", "warning", "error"] | None = None
    halt: Literal["raise", "stop"] = "raise"
    patience: int | None = None

    rules: ClassVar[tuple[Rule, ...]] = ()
    vitals: ClassVar[tuple[Question, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if any(issubclass(base, Detector) and base is not Detector for base in cls.__bases__):
            raise TypeError(f"{cls.__name__} must subclass Detector itself: detectors are final.")
        dataclass(kw_only=True, eq=False, repr=False)(cls)
        methods = [one for one in vars(cls).values() if inspect.isfunction(one)]
        cls.rules = tuple(
            Rule(one, _ways(one), *one._rule) for one in methods if hasattr(one, "_rule")
        )
        cls.vitals = tuple(Question(one, _ways(one)) for one in methods if hasattr(one, "_vital"))
        for one in cls.rules:
            owner, known = RULES.get(one.code, (cls, one))
            if owner.__qualname__ != cls.__qualname__:  # a notebook cell may well run twice
                raise TypeError(f"{one.code} is {known.name} already; a code is given once.")
            RULES[one.code] = cls, one

    def __post_init__(self) -> None:
        self._findings: list[Finding] = []
        self._streaks: dict[str, list[int]] = {}
        self._session: Session | None = None
        for codes in (self.select, self.ignore):
            _check_codes(codes or ())
        _check_choice("halt_on", self.halt_on, (None, "info", "warning", "error"))
        _check_choice("halt", self.halt, ("raise", "stop"))
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience must be at least 1, got {self.patience}.")
        for one in fields(self):
            _check_bounds(one, getattr(self, one.name))

    @property
    def members(self) -> tuple[Detector, ...]:
        """The detectors that this callback brings to the run: itself."""
        return (self,)

    @property
    def symptom(self) -> str:
        """The symptom class, in the keys of the loggers: the name of the detector's module."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def findings(self) -> list[Finding]:
        """What was found in the last run, the leading cause first."""
        found = (one for detector in self.members for one in detector._findings)
        return by_cause(found, {code: one.caused_by for code, (_, one) in RULES.items()})

    def uses(self, code: str) -> bool:
        """Returns whether ``select`` and ``ignore`` let a rule pass."""
        selected = self.select is None or code.startswith(tuple(self.select))
        return selected and not (self.ignore and code.startswith(tuple(self.ignore)))

    def conclude(self, trainer: Any, directory: Path) -> None:
        """Called on one rank when a run has ended: its record, in this directory, is complete."""

    def __repr__(self) -> str:
        values = [(one, getattr(self, one.name)) for one in fields(self) if one.init]
        moved = [f"{one.name}={value!r}" for one, value in values if value != _default(one)]
        return f"{type(self).__name__}({', '.join(moved)})"

    def __getstate__(self) -> dict[str, Any]:
        # Lightning hangs the module's bound `log` on every callback, and with it the weights.
        left_out = ("log", "log_dict", "_session")
        return {key: value for key, value in vars(self).items() if key not in left_out}

    def __setstate__(self, values: dict[str, Any]) -> None:
        vars(self).update(values, _session=None)

    # -- the checkpoint: builtins and tensors only, or the user's resume breaks under weights_only

    def state_dict(self) -> dict[str, Any]:
        """Returns the memory of the detector, or nothing if there is none yet."""
        memory = {one.name: getattr(self, one.name) for one in fields(self) if _is_state(one)}
        findings = [one.to_dict() for one in self._findings]
        if not (any(memory.values()) or findings or self._streaks):
            return {}
        return {"version": 1, "findings": findings, "streaks": self._streaks, **memory}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the memory of an earlier run; what it does not understand starts afresh."""
        if state_dict.get("version") != 1:
            return
        self._findings = [Finding.from_dict(one) for one in state_dict["findings"]]
        self._streaks = state_dict["streaks"]
        for one in fields(self):
            if _is_state(one) and one.name in state_dict:
                setattr(self, one.name, state_dict[one.name])

    def forget(self) -> None:
        """Starts afresh: what happened in an earlier run is no evidence in this one."""
        self._findings, self._streaks = [], {}
        for one in fields(self):
            if _is_state(one) and one.default_factory is not MISSING:
                setattr(self, one.name, one.default_factory())

    # -- Lightning's hooks: the first of our callbacks speaks for all of them

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Starts afresh; runs before a checkpoint is loaded."""
        if stage == "fit":
            for detector in self.members:
                detector.forget()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Opens the session; from here on the parameters are the ones that will be trained."""
        self._session = Session.open(self, trainer, pl_module)
        self._pass("on_train_start")

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """See ``Session.pass_on``, as for every hook below."""
        self._pass("on_train_epoch_start")

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """The batch, on its device, before the forward."""
        self._pass("on_train_batch_start", batch=batch, batch_idx=batch_idx)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: Any) -> None:
        """The loss, scaled and divided by the accumulation."""
        self._pass("on_before_backward", loss=loss)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """The gradients: accumulated, reduced, unscaled, not clipped."""
        self._pass("on_before_optimizer_step", optimizer=optimizer)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """The step is done."""
        self._pass("on_train_batch_end", outputs=outputs, batch=batch, batch_idx=batch_idx)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Validation begins."""
        self._pass("on_validation_start")

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """A batch of validation, before its forward."""
        self._pass(
            "on_validation_batch_start",
            batch=batch,
            batch_idx=batch_idx,
            dataloader_idx=dataloader_idx,
        )

    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """A batch of validation, after its forward."""
        self._pass(
            "on_validation_batch_end",
            outputs=outputs, batch=batch, batch_idx=batch_idx, dataloader_idx=dataloader_idx,
        )  # fmt: skip

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """All of validation has been seen."""
        self._pass("on_validation_epoch_end")

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Validation is over; the modes are not restored yet."""
        self._pass("on_validation_end")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """An epoch is over."""
        self._pass("on_train_epoch_end")

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Training is over."""
        self._pass("on_train_end")
        self._close()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """The run ends here: Lightning calls neither ``on_train_end`` nor ``teardown``."""
        if self._session is None and _is_crash_before_training(trainer, exception):
            self._session = Session.open(self, trainer, pl_module)
        self._pass("on_exception")
        self._close(exception)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Whatever is still open is closed."""
        self._close()

    def _pass(self, hook: str, **context: Any) -> None:
        if self._session is not None:
            self._session.pass_on(hook, **context)

    def _close(self, exception: BaseException | None = None) -> None:
        if self._session is not None:
            self._session.close(exception)
            self._session = None


def _is_crash_before_training(trainer: Any, exception: BaseException) -> bool:
    """Returns whether a fit has failed early, as in its sanity check; ranks may differ in that."""
    alone = getattr(trainer, "world_size", 0) == 1
    return alone and isinstance(exception, Exception) and trainer.state.fn == "fit"


def _ways(method: Callable[..., Any]) -> tuple[tuple[type[Measurement], ...], ...]:
    hints = typing.get_type_hints(method)
    hints.pop("return", None)
    choices = [typing.get_args(hint) or (hint,) for hint in hints.values()]
    if not hints or not all(
        isinstance(kind, type) and issubclass(kind, Measurement)
        for kind in itertools.chain(*choices)
    ):
        raise TypeError(f"{method.__qualname__} must annotate each argument with a Measurement.")
    return tuple(itertools.product(*choices))


def _section(text: str, heading: str) -> list[str]:
    lines = text.splitlines()
    if f"{heading}:" not in lines:
        return []
    entries: list[str] = []
    for line in lines[lines.index(f"{heading}:") + 1 :]:
        if line and not line.startswith(" "):
            break
        entry = line.strip().replace("``", "`")
        if entry.startswith("- "):
            entries.append(entry[2:])
        elif entry:
            entries[-1:] = [f"{entries[-1]} {entry}"] if entries else [entry]
    return [opened(entry) for entry in entries]


def _check_codes(codes: Iterable[str]) -> None:
    if isinstance(codes, str):
        raise TypeError(f"select and ignore take a list of codes, got the string {codes!r}.")
    for code in codes:
        if not code or not any(known.startswith(code) for known in RULES):
            nearest = difflib.get_close_matches(
                code, [*RULES, *{known[:3] for known in RULES}], n=1
            )
            hint = f" Did you mean {nearest[0]}?" if nearest else ""
            prefixes = ", ".join(sorted({known[:3] for known in RULES}))
            raise ValueError(
                f"No rule has a code that begins with {code!r}.{hint} Allowed: a code such as "
                f"{next(iter(RULES), 'GRD101')}, or a prefix of one ({prefixes})."
            )


def _check_choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}.")


def _check_bounds(one: Field[Any], value: Any) -> None:
    if "bounds" not in one.metadata or value is None:
        return
    minimum, maximum = one.metadata["bounds"]
    if not minimum <= value <= maximum:
        raise ValueError(f"{one.name} must be between {minimum:g} and {maximum:g}, got {value!r}.")


def _is_state(one: Field[Any]) -> bool:
    return bool(one.metadata.get("state"))


def _default(one: Field[Any]) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()
