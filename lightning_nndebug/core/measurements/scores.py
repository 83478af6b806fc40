"""What the user tracks: the metrics of each validation, beside the training loss."""

from __future__ import annotations

import math
import re
import statistics
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

from . import Measurement, Moment
from .labels import MOST_CLASSES
from .loss_calls import LossCalls
from .losses import Loss
from .skill import REGRESSIONS, Look, Skill, only

Direction = Literal["min", "max"]
_FIRST = 3  # steps

_FALLING = """loss losses err error errors mse mae rmse rmsle mape smape ppl perplexity nll wer cer
    ter fid kid bpc bpb bits brier entropy ce bce xent distance dist cost energy
    residual regret ece hamming hausdorff epe lpips crossentropy"""
_RISING = """acc accuracy f1 fbeta auc auroc auprc ap map iou miou jaccard dice precision recall
    sensitivity specificity r2 r2score psnr ssim bleu rouge meteor cider kappa mcc matthews
    corrcoef corr pearson pearsonr spearman spearmanr ndcg mrr top1 top3 top5 hit hits reward
    return returns concordance likelihood"""
# What a guess gets, of scores whose lower half tells as much as the upper one.
_GUESSES = {
    **dict.fromkeys(("auc", "auroc", "concordance"), 0.5),
    **dict.fromkeys(
        ("corr", "corrcoef", "pearson", "pearsonr", "spearman", "spearmanr", "mcc"), 0.0
    ),
}
_TURNED = 0.6  # of the way from a guess to the worst that there is
_WATCHED = 3  # validations in a row
_FALLS, _RISES = frozenset(_FALLING.split()), frozenset(_RISING.split())
_ACCURACIES = frozenset(("acc", "accuracy", "top1"))
_WORDS = "val valid validation eval dev metric metrics multiclass binary epoch mean 1"
_PLAIN = frozenset(_WORDS.split())
_TRADED = "precision recall sensitivity specificity entropy perplexity energy distance"
_MORE = """total macro micro weighted average avg score test squared absolute root log huber focal
    triplet contrastive classification regression"""
_WHOLE = (_FALLS | _RISES | _PLAIN | frozenset(_MORE.split())) - frozenset(_TRADED.split())
_DOUBTED = 2  # validations in a row
_WRONG = 0.25  # of all answers
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True)
class Score:
    """What was known after one validation.

    Attributes:
        step: When, on the x-axis of the loggers.
        epoch: The epoch.
        train: Mean training loss since the validation before; NaN if it is not one loss.
        metrics: What the user logged in this validation.
    """

    step: int
    epoch: int
    train: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Scores(Measurement):
    """All validations of this run so far, the last one being new.

    Attributes:
        history: One for each validation.
        stoppers: Metrics of validation that a callback ends the run by, such as EarlyStopping.
        start: The training loss of the first few steps.
        looks: The skill in training and in validation, where it is known.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_before_optimizer_step",
        "on_train_batch_end",
        "on_validation_start",
        "on_validation_end",
    )
    needs: ClassVar[tuple[type[Measurement], ...]] = (Loss, Skill)

    history: tuple[Score, ...]
    stoppers: tuple[str, ...] = ()
    start: float = 0.0
    looks: tuple[Look, ...] = ()

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Scores | None:
        """Takes what has changed in ``callback_metrics`` while it was validated."""
        if not hasattr(memory, "history"):
            memory.history, memory.losses, memory.last, memory.is_one = (), [], None, True
            memory.names, memory.before, memory.start = set(), {}, 0.0
        if moment.hook == "on_validation_end":
            return _close(cls, moment, memory)
        if moment.hook == "on_validation_start":
            memory.before = _numbers(moment.trainer.callback_metrics)
        if (loss := moment.take(Loss)) is not None and loss is not memory.last:
            losses = (*loss.before, loss)
            memory.last = loss
            memory.is_one &= all(one.optimizer == 0 for one in losses)
            memory.losses += [one.value for one in losses]
        return None

    @property
    def at_chance(self) -> bool:
        """Whether no validation was ever better than the best constant answer."""
        return bool(self.looks) and not any(one.validation.is_known for one in self.looks)

    def series(self, name: str) -> list[tuple[Score, float]]:
        """Returns the validations that have a finite value of this metric, with it."""
        found = [(one, one.metrics.get(name, math.nan)) for one in self.history]
        return [(one, value) for one, value in found if math.isfinite(value)]


@dataclass(frozen=True)
class Tracked(Measurement):
    """What the run was followed by, known at its end.

    Attributes:
        names: All metrics that the user has logged.
        validated: Whether there was any validation.
        epochs: Epochs that are over.
        classifies: Whether the loss tells classes apart.
        regresses: Whether it compares values.
        short: Whether it was a trial: ``fast_dev_run``, ``overfit_batches``.
    """

    hooks: ClassVar[tuple[str, ...]] = (
        "on_train_batch_end",
        "on_validation_end",
        "on_train_epoch_end",
        "on_train_end",
    )
    needs: ClassVar[tuple[type[Measurement], ...]] = (LossCalls,)

    names: tuple[str, ...]
    validated: bool
    epochs: int
    classifies: bool = False
    regresses: bool = False
    short: bool = False

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Tracked | None:
        """Waits for the end."""
        if moment.hook == "on_train_batch_end":
            heard = moment.take(LossCalls)
            call = only(heard.calls) if heard is not None else None
            if call is not None:  # facts alone: a call holds tensors of its step
                memory.kind = "values" if call.function in REGRESSIONS else ""
                memory.kind = "classes" if 0 < (call.classes or 0) <= MOST_CLASSES else memory.kind
            return None
        counts = vars(memory).setdefault("counts", {"on_validation_end": 0})
        counts[moment.hook] = counts.get(moment.hook, 0) + 1
        if moment.hook != "on_train_end":
            return None
        trainer = moment.trainer
        return cls(
            names=tuple(sorted(_names(trainer.callback_metrics))),
            validated=counts["on_validation_end"] > 0,
            epochs=counts.get("on_train_epoch_end", 0),
            classifies=vars(memory).get("kind") == "classes",
            regresses=vars(memory).get("kind") == "values",
            short=bool(trainer.fast_dev_run or trainer.overfit_batches),
        )


@dataclass(frozen=True)
class Doubt(Measurement):
    """A share of right answers that the user has logged, beside what the answers are.

    Attributes:
        metric: Its name; nothing if it may well be right.
        said: What it has said of the last validation.
        right: The share of answers that are right, or that of the average class if it is less.
        guess: The share that the best constant answer gets right.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_validation_end",)
    needs: ClassVar[tuple[type[Measurement], ...]] = (Scores, Skill)
    lasting: ClassVar[bool] = True

    metric: str = ""
    said: float = math.nan
    right: float = math.nan
    guess: float = math.nan

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Doubt | None:
        """Compares both, for the last two validations."""
        scores, skill = moment.take(Scores), moment.take(Skill)
        return doubt(scores, skill) if scores is not None and skill is not None else None


@dataclass(frozen=True)
class Turned(Measurement):
    """A score that is far below that of a guess, and has come down while the loss fell.

    A guess between two answers is right half of the time; an accuracy is taken to be one of such.

    Attributes:
        metric: Its name; nothing if there is none.
        said: What it has said of the last validation.
        guess: What a guess would get.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_validation_end",)
    needs: ClassVar[tuple[type[Measurement], ...]] = (Scores,)
    lasting: ClassVar[bool] = True

    metric: str = ""
    said: float = math.nan
    guess: float = math.nan

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Turned | None:
        """Looks at the last three validations."""
        scores = moment.take(Scores)
        return turned(scores) if scores is not None else None


@dataclass(frozen=True)
class Stop(Measurement):
    """A run that a callback has ended because a metric did not get better, known at its end.

    Attributes:
        callback: It, with what it was told.
        monitor: The metric.
        mode: Whether the callback has waited for it to fall or to rise.
        values: All that it was given, the last one being that at which it lost patience.
        waited: How many values in a row were not good enough.
        seen: The share of the training data that the run has seen by then, if more epochs were
            planned and the first is not over; else 1.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_validation_end", "on_train_epoch_end", "on_train_end")

    callback: str
    monitor: str
    mode: Direction
    values: tuple[float, ...]
    waited: int
    seen: float = 1.0

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> Stop | None:
        """Notes what each such callback is given, when it looks, and whether it was the last."""
        trainer = moment.trainer
        stoppers = [one for one in trainer.callbacks if _is_stopper(one)]
        values: dict[int, list[float]] = vars(memory).setdefault("values", {})
        at_epoch = moment.hook == "on_train_epoch_end"
        if moment.hook != "on_train_end":
            for number, one in enumerate(stoppers):
                given = trainer.callback_metrics.get(one.monitor)
                if at_epoch is bool(getattr(one, "_check_on_train_epoch_end", False)) and (
                    given is not None and not trainer.sanity_checking
                ):
                    values.setdefault(number, []).append(float(given))
            return None
        for number, one in enumerate(stoppers):
            if values.get(number) and trainer.should_stop and one.wait_count >= one.patience > 0:
                told = f"{type(one).__name__}(patience={one.patience}, mode={one.mode!r}"
                told += f", min_delta={abs(one.min_delta):g})" if one.min_delta else ")"
                given = tuple(values[number])
                return cls(told, one.monitor, one.mode, given, one.wait_count, _seen(trainer))
        return None


def _seen(trainer: Any) -> float:
    """Returns the share of the first epoch that is over, if it is not the only one."""
    batches, done = trainer.num_training_batches, trainer.fit_loop.total_batch_idx + 1
    is_first = trainer.max_epochs != 1 and done < batches < math.inf
    return done / batches if is_first else 1.0


def direction(name: str) -> Direction | None:
    """Tells from a metric's name whether it should fall or rise; None if the name does not say.

    The last word that says something counts: ``val/loss_acc`` rises.
    """
    words = _words(name)
    if not {"neg", "negative"}.isdisjoint(words):
        return "min" if "likelihood" in words else None
    for word in reversed(words):
        if word in _FALLS or word.endswith("loss"):
            return "min"
        if word in _RISES or word.rstrip("0123456789") in _RISES:
            return "max"
    return "max" if "score" in words and _PLAIN.issuperset({*words} - {"score"}) else None


def is_whole(name: str) -> bool:
    """Tells whether a metric is of all that counts, rather than of a part or one side of it.

    A part of the loss, a class, or the recall alone may well be given up for another.
    """
    return _WHOLE.issuperset(_words(name))


def doubt(scores: Scores, skill: Skill) -> Doubt:
    """Returns the accuracy that says no more than a guess, where the answers are far better."""
    looks = [one.validation for one in skill.looks[-_DOUBTED:]]
    if len(looks) < _DOUBTED or not looks[-1].classes or not skill.is_single:
        return Doubt()
    for name in scores.history[-1].metrics:
        if not _is_accuracy(name) or name.partition("/dataloader_idx_")[2] not in ("", "0"):
            continue  # the answers are those to the first loader
        said = [value for _, value in scores.series(name)]
        if len(said) < _DOUBTED:
            continue  # it was not finite
        percent = 100.0 if max(said) > 1 else 1.0
        found = []
        for value, look in zip(said[-_DOUBTED:], looks, strict=False):
            guess = 1 - look.constant_error
            right = min(1 - look.error, statistics.fmean(hit / n for n, hit in look.recalls))
            chance = guess + 2 * math.sqrt(guess * (1 - guess) / look.samples)
            if look.is_known and value / percent < min(chance, right - _WRONG):
                found.append(Doubt(name, value / percent, right, guess))
        if len(found) == _DOUBTED:
            return found[-1]
    return Doubt()


def turned(scores: Scores) -> Turned:
    """Returns the score that gets ever worse than a guess."""
    history = scores.history
    if len(history) < _WATCHED or not history[-1].train < history[0].train:
        return Turned()
    for name in history[-1].metrics:
        guess = next((_GUESSES[one] for one in reversed(_words(name)) if one in _GUESSES), None)
        guess = 0.5 if _is_accuracy(name) else guess
        said = [value for _, value in scores.series(name)]
        if guess is None or direction(name) != "max" or len(said) < _WATCHED:
            continue
        worst = guess - _TURNED * (guess or 1.0)
        if said[-1] <= said[0] and max(said[-_WATCHED:]) < worst:
            return Turned(name, said[-1], guess)
    return Turned()


def _is_accuracy(name: str) -> bool:
    words = {*_words(name)}
    return bool(words & _ACCURACIES) and words <= _ACCURACIES | _PLAIN


def spelled(name: str) -> str:
    """Returns the name of a metric in small letters, its words apart: ``BinaryAUROC`` too."""
    return _CAMEL.sub("_", name.partition("/dataloader_idx_")[0]).lower()


def _words(name: str) -> list[str]:
    # No other entropy is like that.
    name = spelled(name).replace("cross_entropy", "crossentropy")
    return [one for one in re.split(r"[^a-z0-9]+", name) if one]


def _close(cls: type[Scores], moment: Moment, memory: SimpleNamespace) -> Scores | None:
    now = _numbers(moment.trainer.callback_metrics)
    memory.names |= {key for key, value in now.items() if memory.before.get(key) != value}
    train = statistics.fmean(memory.losses) if memory.losses and memory.is_one else math.nan
    memory.start = memory.start or statistics.fmean(memory.losses[:_FIRST] or [0.0])
    trained, memory.losses = bool(memory.losses), []
    if not trained:  # validated twice in a row
        return None
    metrics = {key: value for key, value in now.items() if key in memory.names}
    score = Score(moment.step, moment.trainer.current_epoch, train, metrics)
    memory.history = (*memory.history, score)
    stoppers = (
        getattr(one, "monitor", None)
        for one in moment.trainer.callbacks
        if any(
            "Stopping" in kind.__name__ or "Pruning" in kind.__name__ for kind in type(one).__mro__
        )
    )
    skill = moment.take(Skill)
    # What is known in validation and never changes there is of training, and sees no turn.
    names = tuple(
        one
        for one in stoppers
        if isinstance(one, str) and (one in memory.names or one not in now or "val" in one.lower())
    )
    return cls(memory.history, names, memory.start, skill.looks if skill is not None else ())


def _is_stopper(callback: Any) -> bool:
    told = ("monitor", "mode", "patience", "min_delta", "wait_count", "stopped_epoch")
    return all(hasattr(callback, one) for one in told)


def _names(metrics: Any) -> list[str]:
    return [key for key in metrics if not key.startswith("nndebug/")]


def _numbers(metrics: Any) -> dict[str, float]:
    """Reads the metrics, once for each validation; they may be on several devices."""
    kept = {key: metrics[key] for key in _names(metrics)}
    return {key: float(one) for key, one in kept.items() if getattr(one, "numel", int)() == 1}
