"""One run of one Trainer: takes measurements, asks the rules, agrees between ranks, stops."""

from __future__ import annotations

import logging
import math
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from traceback import walk_tb
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from .causality import by_cause
from .findings import Evidence, Finding, Misconfiguration, Severity, TrainingHalted, opened
from .measurements import EVERY_TIME, Measurement, Moment
from .measurements.chronicle import KINDS
from .measurements.gradients import is_sharded
from .measurements.schedules import planned_steps
from .ranks import share
from .rest import Rest
from .sinks import Sink, open_sinks
from .trainer import can_watch, is_stepping, run_directory, step_axis

if TYPE_CHECKING:
    from .detector import Detector, Question, Rule

log = logging.getLogger("lightning_nndebug")

# Where ranks meet. All of them reach these hooks equally often, whatever they have seen.
_MEETINGS = ("on_before_optimizer_step", "on_train_batch_end", "on_validation_end", "on_train_end")
# The hooks of a batch of training, in some of which only the restless measurements are taken.
_OF_A_BATCH = ("on_train_batch_start", "on_before_backward", *_MEETINGS[:2])
# How often to meet when nobody asked to be stopped: only to hand findings over to rank 0.
_MEET_EVERY = 10


@dataclass(eq=False)
class Ask:
    """A kind of measurement with the options that it is asked for with. There is one of each.

    Attributes:
        name: What it is called.
        is_always: Whether it is taken at every occasion, whatever it costs.
        memory: Its own, with the options.
        occasions: How many there were so far at which it might have been taken.
        price: The seconds that a look takes, at its cheapest; 0 before the first.
    """

    kind: type[Measurement]
    options: tuple[tuple[str, Any], ...]
    occasions: int = 0
    price: float = 0.0

    def __post_init__(self) -> None:
        self.name = self.kind.__name__
        self.is_always = self.kind.cadence is EVERY_TIME
        self.memory = SimpleNamespace(**dict(self.options))


@dataclass(frozen=True)
class Watch:
    """A detector at work: on its own, or as a part of a suite whose options hold for it too."""

    detector: Detector
    owner: Detector

    @property
    def is_in_suite(self) -> bool:
        """Whether the detector came with a suite."""
        return self.owner is not self.detector

    def option(self, name: str) -> Any:
        """Returns the detector's own option, or else its suite's."""
        own = getattr(self.detector, name, None)
        return getattr(self.owner, name, None) if own is None else own

    def uses(self, code: str) -> bool:
        """Returns whether both let the rule pass."""
        return self.detector.uses(code) and self.owner.uses(code)

    def halts(self, finding: Finding) -> bool:
        """Returns whether this finding is reason enough to stop the run."""
        halt_on = self.option("halt_on")
        return halt_on is not None and finding.level >= Severity[halt_on.upper()]


class Session:
    """Runs all detectors of a Trainer, however they were handed to it.

    The first of our callbacks in the Trainer opens it and passes every hook on to it, so that
    several lone detectors cost as little as a suite: one dispatcher, one measurement of each
    kind, one meeting of the ranks.
    """

    def __init__(self, trainer: Any, module: Any, callbacks: Iterable[Detector]) -> None:
        self.trainer, self.module = trainer, module
        self._is_shared = trainer.world_size > 1
        self.callbacks = list(callbacks)
        self.watches = _watches(self.callbacks)
        self.values: dict[Ask, Measurement] = {}
        self.vitals: dict[str, float] = {}
        self.pending: list[Finding] = []
        self.broken: set[str] = set()
        self._asks: dict[tuple[Any, ...], Ask] = {}
        self._by_kind: dict[type[Measurement], Ask] = {}
        self._bills: dict[Ask, float] = defaultdict(float)
        self._due: set[Ask] = set()
        self._tried: set[Ask] = set()
        self._fresh: set[Ask] = set()
        self._requested: set[type[Measurement]] = set()
        self._moment: Moment | None = None
        self._meetings = 0
        self._met_in_batch = False
        self._batch_began = 0.0
        self._step_time = 0.0
        self._spent = 0.0
        self._rest = Rest(
            lambda: is_stepping(trainer), lambda: planned_steps(trainer) - self._step()
        )
        self._can_watch = can_watch(module)
        self.directory = run_directory(trainer)
        self._plan()
        if "torch._dynamo" in sys.modules and not module.automatic_optimization:
            # Manual optimization calls hooks from within a training_step that may be compiled: they
            # would be traced, and compiled anew whenever a rule remembers something.
            untraced = torch.compiler.disable(self.pass_on)  # type: ignore[no-untyped-call]
            self.pass_on = untraced  # type: ignore[method-assign]
        self._raw = self._listen_to_raw_optimizers()
        self.sinks: list[Sink] = open_sinks(
            trainer, self.directory, self._known(), self._vital_names()
        )
        self._listeners = {
            method: [one for one in self.sinks if getattr(type(one), method) is not silence]
            for method, silence in vars(Sink).items()
            if not method.startswith("_")
        }
        if trainer.is_global_zero and is_sharded(trainer, list(module.named_parameters())):
            log.info(
                "nndebug: a process holds only a part of each parameter here (%s). What needs "
                "whole ones does not apply: the size of gradients, whether they reach all layers "
                "and are zeroed, and the operation behind a NaN.",
                type(trainer.strategy).__name__,
            )

    # -- life

    @classmethod
    def open(cls, callback: Detector, trainer: Any, module: Any) -> Session | None:
        """Returns a new session if this callback is the one that speaks for all, else None."""
        from .detector import Detector  # the two classes need each other; only one can come first

        ours = [one for one in trainer.callbacks if isinstance(one, Detector)]
        if not ours or ours[0] is not callback:  # the Tuner runs `fit` with our hooks taken out
            return None
        if getattr(trainer, "barebones", False):
            log.info("nndebug is off: Trainer(barebones=True) asks for no callbacks at all.")
            return None
        try:
            return cls(trainer, module, ours)
        except Exception:
            log.exception("nndebug could not start; the run goes on without it.")
            return None

    def close(self, exception: BaseException | None = None) -> None:
        """Removes every hook, reports what is still unsaid and says what the run came to."""
        for handle in self._raw:
            handle.remove()
        for ask in self._asks.values():
            self._release(ask)
        self._report()
        findings = self._known()
        self._tell("close", findings, self._step(), exception)
        if self.directory is not None and self.trainer.is_global_zero:
            for one in self.callbacks:
                self._guard("the report", one.conclude, self.trainer, self.directory)

    # -- one hook

    def pass_on(self, hook: str, **context: Any) -> None:
        """Takes the measurements of this hook and asks the rules that they complete."""
        if hook not in self._awake:
            return
        began = time.perf_counter()
        if hook in ("on_train_batch_start", "on_validation_batch_start"):
            self._begin_batch(hook, began)
        if self._is_shared and hook == "on_train_batch_end":
            self._meet(hook)  # a rank that has not stepped: before measurements meet as well
        moment = self._moment = Moment(
            hook=hook, trainer=self.trainer, module=self.module, step=self._step(),
            take=self._take_for_another, request=self._requested.add, directory=self.directory,
            **context,
        )  # fmt: skip
        self._tried.clear()
        self._fresh.clear()
        had_grad = torch.is_grad_enabled()
        torch.set_grad_enabled(False)  # a context costs ten times as much
        try:
            self._look(moment)
        finally:
            torch.set_grad_enabled(had_grad)
        self._moment = None
        self._spent += time.perf_counter() - began
        if hook in _MEETINGS and not (self._is_shared and hook == "on_train_batch_end"):
            self._meet(hook)
        if hook == "on_train_batch_end":
            self._end_batch()

    def _look(self, moment: Moment) -> None:
        hook = moment.hook
        if self._rest.now and hook in _OF_A_BATCH:
            for ask in self._restless[hook]:
                self._take(ask, moment)
            for ask in self._noting[hook]:
                if batches := self._guard(ask.name, ask.kind.note, moment, ask.memory):
                    self._rest.wake(batches)
        else:
            for ask in self._preparing[hook]:
                self._prepare(ask, moment)
            for ask in self._taking[hook]:
                self._take(ask, moment)
        if self._fresh:
            self._ask_all()
            self._record(moment.step)

    def _begin_batch(self, hook: str, now: float) -> None:
        for ask in self._due:  # a step that was left half-way, by `return -1` or an exception
            self._release(ask)
        self._due.clear()
        self._bills.clear()
        self.values = {ask: value for ask, value in self.values.items() if ask.kind.lasting}
        self._met_in_batch = False
        if hook == "on_train_batch_start":
            self._batch_began, self._spent = now, 0.0

    def _end_batch(self) -> None:
        took = time.perf_counter() - self._batch_began - self._spent
        watching = [ask for ask in self._bills if ask.kind.prepares]
        for ask, bill in self._bills.items():
            # Hooks and modes slow the step down that they watch.
            slower = max(took - self._step_time, 0.0) / len(watching) if ask in watching else 0.0
            ask.price = min(ask.price or math.inf, bill + slower)
        if not (watching and self._step_time):
            self._step_time = took if not self._step_time else 0.9 * self._step_time + 0.1 * took
        if not self._is_shared:  # no two clocks agree
            self._rest.end_batch(self._spent, self._step_time)
        self.values = {ask: value for ask, value in self.values.items() if ask.kind.lasting}
        if self.vitals and self._listeners["vitals"]:
            self._tell("vitals", self._step(), self.vitals)

    # -- measurements

    def _prepare(self, ask: Ask, moment: Moment) -> None:
        # What is read before the update needs a batch that ends in one: a look that begins at a
        # micro-batch which only accumulates would never be finished.
        if "on_before_optimizer_step" in ask.kind.hooks and not is_stepping(self.trainer):
            return
        if self._can_watch and self._is_due(ask):
            self._due.add(ask)
            self._timed(ask, ask.kind.prepare, moment, ask.memory)

    def _take(self, ask: Ask, moment: Moment, *, is_needed: bool = False) -> None:
        if ask in self._tried:  # another one needed it
            return
        kind = ask.kind
        is_due = ask in self._due if kind.prepares else is_needed or self._is_due(ask)
        if not is_due:
            return
        self._tried.add(ask)
        value = self._timed(ask, kind.take, moment, ask.memory)
        if value is None:
            return
        if kind.prepares:
            self._due.discard(ask)
            self._release(ask)
        self.values[ask] = value
        self._fresh.add(ask)

    def _take_for_another(self, kind: type[Measurement]) -> Any:
        """Takes what one measurement needs of another, unless this step has it already."""
        ask = self._by_kind.get(kind) or self._only(kind, ())
        moment = self._moment
        is_rest = self._rest.now and moment is not None and moment.hook in _OF_A_BATCH
        if ask in self.values or moment is None or (is_rest and not kind.restless):
            return self.values.get(ask)
        if moment.hook in kind.hooks:
            self._take(ask, moment, is_needed=True)
        return self.values.get(ask)

    def _is_due(self, ask: Ask) -> bool:
        if ask.is_always:
            return True
        if ask.name in self.broken:
            return False
        if ask.kind in self._requested:
            self._requested.discard(ask.kind)
            return True
        ask.occasions += 1
        return ask.kind.cadence.due(ask.occasions - 1, ask.price, self._step_time)

    def _timed(self, ask: Ask, call: Callable[..., Any], *args: Any) -> Any:
        if ask.is_always:
            return self._guard(ask.name, call, *args)
        began = time.perf_counter()
        value = self._guard(ask.name, call, *args)
        self._bills[ask] += time.perf_counter() - began
        return value

    def _release(self, ask: Ask) -> None:
        """Takes off the hooks of a measurement: also of one that has failed and is off."""
        try:
            ask.kind.release(ask.memory)
        except Exception:
            log.exception("nndebug: %s could not clean up after itself.", ask.kind.__name__)

    # -- rules

    def _ask_all(self) -> None:
        known = self.values.keys()
        concerned = {number for ask in self._fresh for number in self._concerned[ask]}
        for number in sorted(concerned):  # in the order of the detectors and their rules
            watch, question, asks = self._questions[number]
            if known >= set(asks):
                self._ask(watch, question, [self.values[ask] for ask in asks])

    def _ask(self, watch: Watch, question: Question, values: list[Measurement]) -> None:
        name = type(watch.detector).__name__
        if name in self.broken:
            return
        answer = self._guard(name, _answer, question, watch.detector, values)
        if isinstance(answer, list):
            self._judge(watch, question, answer)  # type: ignore[arg-type]
        elif answer is not None:
            self.vitals[f"nndebug/{watch.detector.symptom}/{question.name}"] = float(answer)

    def _judge(self, watch: Watch, rule: Rule, evidence: list[Evidence]) -> None:
        """Turns evidence into findings: once per place, when it has lasted as long as it must.

        What was mere advice may become a warning later.
        """
        streaks = watch.detector._streaks
        patience = watch.option("patience") or rule.patience
        seen = {f"{rule.code} {one.where}": one for one in evidence}
        for key in [key for key in streaks if key.startswith(f"{rule.code} ") and key not in seen]:
            del streaks[key]
        findings = watch.detector._findings
        known = {one.place: one.level for one in findings}
        for key, one in seen.items():
            streak = streaks.setdefault(key, [0, self._step(), self.trainer.current_epoch])
            streak[0] += 1
            severity = rule.severity if one.severity is None else one.severity
            if streak[0] < patience or known.get((rule.code, one.where), -1) >= severity:
                continue  # said already, and no less gravely
            finding = Finding(
                code=rule.code, name=rule.name, severity=str(severity),
                step=streak[1], epoch=streak[2], where=one.where,
                measured=one.measured, limit=one.limit, message=one.sentence(), means=rule.title,
                causes=[opened(text) for text in one.causes] or rule.section("Likely causes"),
                fixes=[opened(text) for text in one.fixes] or rule.section("How to fix"),
                rank=self.trainer.global_rank, details=one.details,
            )  # fmt: skip
            for told in (findings, self.pending):
                told[:] = [*(one for one in told if one.place != finding.place), finding]

    # -- the ranks

    def _meet(self, hook: str) -> None:
        """Hands new findings to all ranks, and stops all of them or none.

        One collective, entered by every rank every time: nothing a rank has seen, and no error of
        our own, may keep it away, or the others wait for ever.
        """
        rest: list[Finding] = []
        if self.trainer.world_size > 1:
            if hook in _OF_A_BATCH and not self._is_first_meeting(hook):
                return
            self._meetings += 1
            halting = any(watch.option("halt_on") for watch in self.watches)
            due = halting or self._meetings % _MEET_EVERY == 0
            if not due and hook in ("on_before_optimizer_step", "on_train_batch_end"):
                return
            rest = self._agree()
        if not self.pending:
            return
        fresh, self.pending = self._report(), rest
        self._halt(fresh)

    def _agree(self) -> list[Finding]:
        """Makes what is pending the same on all ranks; returns what waits for the next meeting."""
        parts = [type(watch.detector).__name__ for watch in self.watches]
        parts += [ask.name for ask in self._planned]
        flags = [len(self.pending), *(part in self.broken for part in parts)]
        device = self.trainer.strategy.root_device
        mine = torch.tensor(flags, dtype=torch.int64, device=device)
        most, *broken = self.trainer.strategy.reduce(mine, reduce_op="max").tolist()
        self.broken.update(part for part, is_broken in zip(parts, broken, strict=True) if is_broken)
        if not most:
            return []
        told = share(self.pending, most, device)
        places = {one.place for one in told}
        rest = [one for one in self.pending if one.place not in places]
        owners = {
            one.code: watch.detector for watch in self.watches for one in watch.detector.rules
        }
        for finding in told:
            found = owners[finding.code]._findings
            found[:] = [one for one in found if one.place != finding.place] + [finding]
        self.pending = told
        return rest

    def _is_first_meeting(self, hook: str) -> bool:
        """Returns whether to meet here: once in a batch, however often this rank steps in it."""
        if hook == "on_before_optimizer_step" and not self.module.automatic_optimization:
            return False  # the user may step on one rank only
        is_first = not self._met_in_batch and is_stepping(self.trainer)
        self._met_in_batch |= is_first
        return is_first

    def _halt(self, fresh: list[Finding]) -> None:
        watches = {one.code: watch for watch in self.watches for one in watch.detector.rules}
        grave = [one for one in fresh if watches[one.code].halts(one)]
        if not grave:
            return
        # Lightning hands callback_metrics back from spawned processes: the parent can tell from it.
        self.trainer.callback_metrics["nndebug/halted"] = torch.tensor(1.0)
        if any(watches[one.code].option("halt") == "raise" for one in grave):
            raise TrainingHalted(grave)
        self.trainer.should_stop = True
        log.info("nndebug asked the Trainer to stop; min_epochs and min_steps still hold.")

    # -- plumbing

    def _plan(self) -> None:
        """Notes what to prepare, take and ask at each hook, so that an idle hook costs nothing."""
        self._planned: dict[Ask, None] = {}  # in order
        self._questions: list[tuple[Watch, Question, tuple[Ask, ...]]] = []
        self._concerned: dict[Ask, list[int]] = defaultdict(list)
        for watch in self.watches:
            used = [one for one in watch.detector.rules if watch.uses(one.code)]
            for question in [*used, *(watch.detector.vitals if used else ())]:
                for kinds in question.ways:
                    asks = tuple(self._enlist(watch, kind) for kind in kinds)
                    for ask in asks:
                        self._concerned[ask].append(len(self._questions))
                    self._questions.append((watch, question, asks))
        if self.directory is not None and any(one.is_in_suite for one in self.watches):
            for kind in KINDS:
                self._enlist(self.watches[0], kind)
        self._recorded = {ask for ask in self._planned if _is_for_the_record(ask.kind)}
        self._distribute()

    def _distribute(self) -> None:
        """Notes who is to be asked at which hook."""
        self._preparing: dict[str, list[Ask]] = defaultdict(list)
        self._taking: dict[str, list[Ask]] = defaultdict(list)
        self._restless: dict[str, list[Ask]] = defaultdict(list)
        self._noting: dict[str, list[Ask]] = defaultdict(list)
        for ask in self._planned:
            for hook in ask.kind.hooks:
                self._taking[hook].append(ask)
                if ask.kind.restless:
                    self._restless[hook].append(ask)
            for hook in ask.kind.noted:
                self._noting[hook].append(ask)
            if ask.kind.prepares is not None:
                self._preparing[ask.kind.prepares].append(ask)
        boundaries = {"on_train_batch_start", "on_validation_batch_start", *_MEETINGS}
        self._awake = boundaries | self._preparing.keys() | self._taking.keys()

    def _listen_to_raw_optimizers(self) -> list[Any]:
        """Listens to optimizers that a module steps past Lightning, which then calls no hook."""
        if self.module.automatic_optimization:
            return []

        def before_step(optimizer: Any, args: Any, kwargs: Any) -> None:
            closure = kwargs.get("closure", args[0] if args else None)
            if getattr(closure, "func", None) is None:  # Lightning wraps it, and calls us itself
                self.pass_on("on_before_optimizer_step", optimizer=optimizer)

        return [one.register_step_pre_hook(before_step) for one in self.trainer.optimizers]

    def _enlist(self, watch: Watch, kind: type[Measurement]) -> Ask:
        """Notes that a kind is asked for, after those that it needs: they are taken first."""
        for need in kind.needs:
            self._enlist(watch, need)
        ask = self._only(kind, tuple((name, watch.option(name)) for name in kind.options))
        self._planned[ask] = None
        return ask

    def _only(self, kind: type[Measurement], options: tuple[tuple[str, Any], ...]) -> Ask:
        """Returns the one ask with these options; its identity is quick to look up."""
        ask = self._asks.setdefault((kind, options), Ask(kind, options))
        self._by_kind.setdefault(kind, ask)
        return ask

    def _report(self) -> list[Finding]:
        """Hands what is new to the sinks, and returns it, with what it follows from."""
        places = {one.place for one in self.pending}
        fresh = [one for one in self._known() if one.place in places]
        self.pending = []
        for finding in fresh:
            self._tell("finding", finding)
        return fresh

    def _record(self, step: int) -> None:
        told = [(step, ask.name, self.values[ask]) for ask in self._fresh & self._recorded]
        before = [(one.step, name, one) for _, name, value in told for one in value.before]
        for at, name, value in (*sorted(before, key=itemgetter(0)), *told):
            for sink in self._listeners["measured"]:
                self._guard(f"the record of {name}", sink.measured, at, value)

    def _tell(self, method: str, *args: Any) -> None:
        """Calls a method of all sinks that have it."""
        for sink in self._listeners[method]:
            self._guard(type(sink).__name__, getattr(sink, method), *args)

    def _known(self) -> list[Finding]:
        found = (one for watch in self.watches for one in watch.detector._findings)
        rules = (one for watch in self.watches for one in watch.detector.rules)
        return by_cause(found, {one.code: one.caused_by for one in rules})

    def _vital_names(self) -> dict[str, str]:
        """Returns what may ever become a vital, with what it is."""
        found = {
            f"nndebug/{watch.detector.symptom}/{question.name}": question.title
            for watch, question, _ in self._questions
            if question in watch.detector.vitals
        }
        return dict(sorted(found.items()))

    def _step(self) -> int:
        return step_axis(self.trainer)

    def _guard(self, part: str, call: Callable[..., Any], *args: Any) -> Any:
        """Calls a part of ours; if it fails, says so once and switches that part off."""
        if part in self.broken:
            return None
        try:
            return call(*args)
        except Misconfiguration:
            raise
        except Exception as error:
            if _is_from_a_signal(error):
                raise
            self.broken.add(part)
            log.exception("nndebug: %s failed and is off from here; the run goes on.", part)
            return None


def _is_from_a_signal(error: Exception) -> bool:
    """Tells what a signal's handler raised while we happened to run, such as a worker's death."""
    handlers = {getattr(signal.getsignal(one), "__code__", None) for one in signal.valid_signals()}
    return any(frame.f_code in handlers for frame, _ in walk_tb(error.__traceback__))


def _is_for_the_record(kind: type[Measurement]) -> bool:
    return kind.curves is not Measurement.curves or kind.snapshot is not Measurement.snapshot


def _answer(question: Question, detector: Detector, values: list[Measurement]) -> Any:
    answer = question.method(detector, *values)
    return answer if answer is None or isinstance(answer, (int, float)) else list(answer)


def _watches(callbacks: Sequence[Detector]) -> list[Watch]:
    """Lists the detectors once each: a lone one goes before a suite's, an earlier before a later.

    The last is the one that ``NNDEBUG`` brings: what the user's own code says goes before it.
    """
    watches: dict[str, Watch] = {}
    latest_first = callbacks[::-1]
    for owner in sorted(latest_first, key=lambda one: one.members == (one,)):
        for detector in owner.members:
            watches[type(detector).__qualname__] = Watch(detector, owner)
    return list(watches.values())
