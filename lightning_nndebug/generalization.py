"""Generalization: does what is learned in training hold in validation, and is enough learned?"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from .core.detector import Detector, rule, threshold, vital
from .core.findings import Evidence, Severity
from .core.measurements.baselines import Baselines
from .core.measurements.loss_curve import LossCurve
from .core.measurements.scores import (
    Direction,
    Scores,
    Stop,
    Tracked,
    direction,
    is_whole,
    spelled,
)
from .core.measurements.skill import Look, Skill, Tally

_SUSTAINED = 3  # validations since the best one, before it counts as a turn
_SURE = 4.0  # standard errors
_LIKELY = 2.0  # standard errors, for advice where something else speaks for it
_HELD_BACK = 0.9  # of the training loss at the turn: it must have fallen below that since
_WORTH = 0.05  # of what training has gained: a smaller rise of the validation loss is no matter
_LEARNED = 0.5  # the skill from which on a part of the data counts as learned
_GOOD = 0.75
_SOLVED = 0.9
_SHIFTED = 0.1  # standard deviations between the inputs of training and of validation
_STRONG_DROPOUT = 0.6
_STRONG_DECAY = 0.1
_CLOSING = 0.7
_LAST = 0.2  # of the run, whose gain tells whether the loss was still falling
_LOSS = re.compile("loss|nll|entropy|bce", re.IGNORECASE)
_ACCURACY = re.compile(r"(^|[^a-z])(top_?1_?)?acc(uracy)?($|[^a-z])")


class GeneralizationDetector(Detector):
    """Holds training and validation against each other, and both against simple models.

    The user's metrics are followed where their names say whether they should fall or rise. What is
    compared between training and validation is computed from predictions and targets, so that
    dropout, class weights, smoothing and penalties in the loss do not mislead.

    Args:
        monitor: The metric of validation to follow. None follows all whose names are understood.
        mode: Whether it should fall (``"min"``) or rise (``"max"``). None tells it from the name.
        rise: By how much a validation metric must be worse than its best, relative to that; a loss
            also relative to what it has gained since the run began.
        behind: How much larger the error of the net may be than that of a simple model, as a share
            of all answers or of the variance.
        gap: How much skill validation may lack, once training knows its samples by heart.
        hidden: The share of what validation shows to be learned that may be missing in training.
        still_falling: The share of all progress that the last fifth of a run may still make.

    Logged:
        nndebug/generalization/validation_skill: 1 if validation is predicted without an error, 0
            if no better than by the best constant.
        nndebug/generalization/training_skill: The same for training.
    """

    monitor: str | None = None
    mode: Literal["min", "max"] | None = None
    rise: float = threshold(default=0.2, source="benchmarks/thresholds#generalization")
    behind: float = threshold(
        default=0.15, source="benchmarks/thresholds#generalization", maximum=1.0
    )
    gap: float = threshold(default=0.4, source="benchmarks/thresholds#generalization", maximum=1.0)
    hidden: float = threshold(
        default=0.4, source="benchmarks/thresholds#generalization", maximum=1.0
    )
    still_falling: float = threshold(
        default=0.1, source="benchmarks/thresholds#generalization", maximum=1.0
    )

    @rule(
        "GEN101",
        severity=Severity.WARNING,
        caused_by=["CLS106", "INP202", "INP203", "INP205", "LOS108", "UPD105"],
    )
    def overfitting(self, scores: Scores) -> Iterator[Evidence]:
        """Training learns its samples by heart: validation turns, or stays far behind.

        Why it matters:
            From the turn on, the weights become worse than those at the best validation. Where
            there is no turn, nothing is left to be learned from samples that are all known.

        Likely causes:
            - far more parameters than the data can determine
            - training goes on after the best validation
            - no regularization or augmentation

        How to fix:
            - stop at the best: EarlyStopping, or ModelCheckpoint with the same monitor
            - more data, or augmentation
            - weight decay, dropout, or a smaller net

        When it is fine:
            When accuracy is what counts and still rises: log it, and it is taken into account.
            When a callback stops the run by this very metric, nothing is said.

        References:
            - prechelt1998early
        """
        if scores.stoppers or scores.at_chance:
            return
        for name, mode in self._followed(scores):
            turn = _turn(scores, name, mode)
            if turn is None:
                continue
            step, best, now, fell = turn
            if name != self.monitor and _is_given_up(scores, name, mode, now):
                continue
            gained = scores.start - best if _is_loss(name) else 0.0
            limit = self.rise * max(abs(best), gained)
            if abs(now - best) < limit:
                continue
            message = (
                f"{name} was {best:.3g} at step {step} and is {now:.3g}, while the training loss "
                f"went from {fell[0]:.3g} to {fell[1]:.3g}"
            )
            details = {"best_step": step, "train": list(fell)}
            yield Evidence(name, now, best + math.copysign(limit, now - best), message,
                           details=details)  # fmt: skip
            return
        if (behind := _by_heart(scores.looks)) > self.gap:
            look = scores.looks[-1]
            message = (
                f"{_shown(look.train)} in training, {_shown(look.validation)} in validation, where "
                f"the best constant comes to {look.validation.constant_error:.3g}, and it gets no "
                f"better"
            )
            yield Evidence("validation", behind, self.gap, message)

    @rule(
        "GEN102",
        severity=Severity.WARNING,
        caused_by=[
            "ACT101",
            "ACT102",
            "CLS",
            "GRD",
            "INP",
            "LOS",
            "LRN101",
            "LRN102",
            "LRN103",
            "MOD101",
            "OUT",
            "STR103",
            "UPD101",
            "UPD102",
            "UPD103",
            "UPD104",
        ],
    )
    def underfitting(self, baselines: Baselines) -> Iterator[Evidence]:
        """The loss no longer falls, and a simple model of a few samples does better than the net.

        Why it matters:
            The net, as it is trained, cannot express the data: more epochs will not help.

        Likely causes:
            - too few units or layers, or no nonlinearity between them
            - dropout or weight decay so strong that little remains
            - features of very different scales

        How to fix:
            - widen or deepen the net
            - lower dropout and weight decay
            - standardize the inputs

        When it is fine:
            When the net is meant to be simpler than the data, for the sake of interpretation.

        References:
            - Goodfellow, Bengio, Courville: Deep Learning, section 5.2
        """
        best, name = min((baselines.linear, "linear model"), (baselines.kernel, "kernel model"))
        least = best + self.behind
        if baselines.net - baselines.gain <= least or best > (1 - self.behind) * baselines.constant:
            return
        if baselines.layers < 2 and baselines.net - baselines.linear > self.behind:  # noqa: PLR2004
            return  # a linear net that has not arrived where it can: descent is slow
        message = (
            f"the error of the net is {baselines.net:.3g}; a {name} of {baselines.samples} samples"
            f" comes to {best:.3g} on samples left out, a constant to {baselines.constant:.3g}"
        )
        yield Evidence("net", baselines.net, least, message, _causes(baselines))

    @rule("GEN103", severity=Severity.INFO)
    def stopped_early(self, curve: LossCurve | Stop) -> Iterator[Evidence]:
        """The run has ended while the training loss was still falling.

        Why it matters:
            The net could have learned more in the same way.

        Likely causes:
            - max_epochs or max_steps is too small for this learning rate
            - limit_train_batches was left in from a trial
            - EarlyStopping waits for the wrong direction, or for more than an epoch can bring

        How to fix:
            - train longer: resume from the last checkpoint with a larger max_epochs
            - or raise the learning rate
            - EarlyStopping: mode="min" for a loss, "max" for a score, and min_delta=0

        When it is fine:
            When validation had stopped to improve, or time was up.

        References:
            - benchmarks/thresholds#generalization
        """
        if isinstance(curve, Stop):
            yield from _too_soon(curve, self.still_falling)
            return
        if not curve.over or curve.on_purpose or curve.annealed:
            return
        gained, error = curve.gain(_LAST)
        if gained > self.still_falling and gained > _SURE * error:
            message = (
                f"the last fifth of the run has lowered the loss by {gained:.0%} of all that it "
                f"has fallen; a run that has converged gains less than {self.still_falling:.0%}"
            )
            yield Evidence("loss", gained, self.still_falling, message)
        elif curve.unseen > 0 and gained > _LIKELY * error:
            message = (
                f"limit_train_batches has kept {curve.unseen:.0%} of the training data from the "
                f"run, whose last fifth has lowered the loss by {gained:.0%} of all that it has "
                "fallen"
            )
            fix = "take limit_train_batches out"
            yield Evidence("loss", gained, self.still_falling, message, fixes=(fix,))

    @rule(
        "GEN104",
        severity=Severity.WARNING,
        patience=2,
        caused_by=["CLS101", "INP202", "MOD101", "MOD106"],
    )
    def training_harder(self, skill: Skill) -> Iterator[Evidence]:
        """Training stays far worse than validation: it is made too hard.

        Why it matters:
            The net spends itself on the disturbance; with less of it, it would learn more.

        Likely causes:
            - dropout that leaves too little
            - augmentation that makes samples unrecognizable
            - labels of training that are noisier than those of validation

        How to fix:
            - lower the dropout
            - weaken the augmentation: look at a batch as the net gets it
            - check a few training labels by hand

        When it is fine:
            Strong regularization of a large net on little data: validation is then what counts.

        References:
            - srivastava2014dropout
        """
        look = skill.looks[-1]
        share = min(map(hidden, (look, *_as_it_began(skill.looks))))
        if (
            look.is_fresh
            or share <= self.hidden
            or _is_suspicious(skill)
            or _is_closing(skill.looks)
        ):
            return
        message = (
            f"{_shown(look.train)} in training, {_shown(look.validation)} in validation: "
            f"{share:.0%} of what is learned does not show in training"
        )
        causes: tuple[str, ...] = ()
        if skill.noises:
            name, p = max(skill.noises.items(), key=lambda one: one[1])
            causes = (
                f"{len(skill.noises)} modules disturb training, most of all {name} (p={p:g})",
            )
        elif skill.shift > _SHIFTED:
            causes = ("the inputs of training are disturbed, those of validation are not",)
        elif skill.is_remade:
            causes = ("the step changes the inputs before the net gets them, as by mixing them",)
        yield Evidence("training", share, self.hidden, message, causes)

    @rule(
        "GEN105",
        severity=Severity.WARNING,
        patience=2,
        caused_by=[
            "CLS102",
            "CLS103",
            "CLS104",
            "CLS105",
            "CLS106",
            "INP102",
            "INP104",
            "INP106",
            "INP202",
            "INP204",
            "MOD101",
            "MOD102",
            "MOD103",
            "MOD105",
            "MOD106",
            "NAN104",
            "STR104",
        ],
    )
    def validation_at_chance(self, skill: Skill) -> Iterator[Evidence]:
        """Training goes well, but validation is no better than chance.

        Why it matters:
            A net that overfits still knows something; at chance, the two sets do not fit together.

        Likely causes:
            - inputs of validation are preprocessed otherwise: scale, channels, vocabulary
            - class numbers are given out anew for validation
            - inputs and labels of validation are not in the same order
            - labels that do not depend on the inputs, learned by heart

        How to fix:
            - fit scalers, vocabularies and class maps on training, and use the same for validation
            - look at a batch of each, as the net gets it, with its labels
            - validate on the training data once: it must reach the training score

        When it is fine:
            When validation is meant to be of another kind, such as unseen classes.

        References:
            - benchmarks/thresholds#generalization
        """
        if skill.is_settling:
            return
        look = skill.looks[-1]
        seen, shown = look.validation, look.train.skill
        if any(one.validation.is_known for one in skill.looks):
            shown = _on_new_samples(skill.looks)
        elif shown < _LEARNED:
            return
        # Of few samples nothing is known beyond doubt: neither that something was learned nor this.
        limit = _LEARNED * shown - 2 * seen.uncertainty
        if seen.skill >= limit:
            return
        yield Evidence(
            "validation",
            seen.skill,
            limit,
            f"{_shown(look.train)} in training, {_shown(seen)} in validation, where the best "
            f"constant comes to {seen.constant_error:.3g}",
        )

    @rule("GEN106", severity=Severity.INFO)
    def no_metric(self, tracked: Tracked) -> Iterator[Evidence]:
        """What the run is followed by does not tell whether it gets better at its task.

        Why it matters:
            The loss may fall while the net only learns its samples by heart, and a loss alone says
            little about the answers.

        Likely causes:
            - no validation data, or no validation_step
            - nothing is logged in it, or a loss alone

        How to fix:
            - keep a part of the data for validation and log in validation_step
            - log a metric of the task: accuracy or F1 for classes, R2 or mean absolute error
              for values

        When it is fine:
            For generative models and language models, whose loss is their score.

        References:
            - torchmetrics: https://lightning.ai/docs/torchmetrics
        """
        if tracked.short or tracked.epochs < 2:  # noqa: PLR2004
            return
        scores = [one for one in tracked.names if not _is_loss(one)]
        if not tracked.validated:
            yield Evidence("validation", "none", None, f"{tracked.epochs} epochs, no validation")
        elif not tracked.names:
            yield Evidence("metrics", "none", None, "there is validation, but nothing is logged")
        elif tracked.classifies and not scores:
            names = ", ".join(tracked.names)
            yield Evidence(
                "metrics", names, None, f"classes are told apart, and only {names} logged"
            )
        elif tracked.regresses and scores and all(_ACCURACY.search(spelled(one)) for one in scores):
            names = ", ".join(scores)
            yield Evidence(
                "metrics", names, None, f"{names} is for classes; the targets are values",
                fixes=("log R2 or the mean absolute error",),
            )  # fmt: skip

    @rule("GEN107", severity=Severity.WARNING, caused_by=["CLS104", "INP203"])
    def too_good_validation(self, skill: Skill) -> Iterator[Evidence]:
        """Validation goes far better than training, and nothing disturbs training.

        Why it matters:
            Samples of the same kind cannot be so much easier: the score will not hold on new data.

        Likely causes:
            - validation samples were selected, such as those that a model gets right
            - validation holds few samples, many times over
            - labels of training are noisier than those of validation

        How to fix:
            - draw validation at random from the same data as training
            - remove duplicates before the split, and split by subject, time or file
            - look at the validation samples and their labels by hand

        When it is fine:
            When validation was cleaned by hand and training labels are known to be noisy, or with
            an augmentation that leaves mean, spread and roughness of the inputs as they are.

        References:
            - benchmarks/thresholds#generalization
        """
        look, late = skill.looks[-1], skill.looks[-_SUSTAINED:]
        if len(late) < _SUSTAINED or min(one.validation.skill for one in late) < _GOOD:
            return
        share = statistics.median(map(hidden, late))
        if share > self.hidden and _is_suspicious(skill) and not _is_closing(late):
            message = f"{_shown(look.validation)} in validation, {_shown(look.train)} in training"
            yield Evidence("validation", look.validation.skill, _GOOD, message)

    @vital
    def validation_skill(self, skill: Skill) -> float:
        """How much better than the best constant, in validation."""
        return skill.looks[-1].validation.skill

    @vital
    def training_skill(self, skill: Skill) -> float:
        """How much better than the best constant, in training."""
        return skill.looks[-1].train.skill

    def _followed(self, scores: Scores) -> list[tuple[str, Direction]]:
        """Returns the metrics to follow; none while another one says that it still gets better."""
        names = scores.history[-1].metrics
        if self.monitor is not None:
            mode = self.mode or direction(self.monitor)
            return [(self.monitor, mode)] if mode and self.monitor in names else []
        known = [(name, mode) for name in names if (mode := direction(name)) is not None]
        better = [one for one in known if _still_gets_better(scores, *one)]
        if any(mode == "max" for _, mode in better):
            return []
        wholes = [one for one in known if is_whole(one[0])]
        if any(_is_loss(name) for name, _ in better):  # a score may dip where the loss does not
            known = [one for one in known if one[1] == "min"]
        told = {mode for _, mode in wholes}
        return sorted(
            (one for one in known if one in wholes or told.isdisjoint((one[1], "min"))),
            key=lambda one: one[1] == "max",
        )


def _turn(
    scores: Scores, name: str, mode: Direction
) -> tuple[int, float, float, tuple[float, float]] | None:
    """Returns the step and value of the best validation, the value now, and the training losses.

    None if validation has not turned, beyond doubt and beyond what would matter.
    """
    series = scores.series(name)
    if len(series) < _SUSTAINED + 2:
        return None
    sign = 1.0 if mode == "min" else -1.0
    values = [sign * value for _, value in series]
    trains = [one.train for one, _ in series]
    smooth = [statistics.fmean(values[max(i - 1, 0) : i + 2]) for i in range(len(values) - 2)]
    best = min(range(len(smooth)), key=smooth.__getitem__)
    if len(values) - 1 - best < _SUSTAINED:
        return None
    now, then = statistics.fmean(values[-_SUSTAINED:]), smooth[best]
    # Second differences, so that the trend itself is no noise.
    bends = [a - 2 * b + c for a, b, c in zip(values, values[1:], values[2:], strict=False)]
    noise = math.sqrt(statistics.fmean(one * one for one in bends) / 6)
    if now - then <= _SURE * noise * math.sqrt(2 / _SUSTAINED) or min(values[-_SUSTAINED:]) <= then:
        return None
    before = statistics.fmean(trains[max(best - 1, 0) : best + 2])
    after = statistics.fmean(trains[-_SUSTAINED:])
    if not (after < before and after < before - (1 - _HELD_BACK) * abs(before)):
        return None
    if _is_loss(name) and now - then < _WORTH * (trains[0] - after):
        return None
    step = series[values.index(min(values))][0].step
    return step, sign * then, sign * now, (before, after)


def _is_given_up(scores: Scores, name: str, mode: Direction, now: float) -> bool:
    """Tells whether it may be a part that was never learned, but paid for another.

    So is the divergence of a variational code: it rises from 0 as the code says more and more.
    """
    first = scores.series(name)[0][1]
    return not is_whole(name) and (now > first if mode == "min" else now < first)


def _by_heart(looks: Sequence[Look]) -> float:
    """Returns the skill that validation lacks beyond doubt, now that training is solved; or 0."""
    late, before = looks[-_SUSTAINED:], looks[:-_SUSTAINED]
    if not before or late[-1].train.skill < _SOLVED:
        return 0.0
    train, best = late[-1].train, max((one.validation for one in late), key=lambda one: one.skill)
    if best.skill > max(one.validation.skill for one in before) + best.uncertainty:
        return 0.0  # it still gets better
    return train.skill - best.skill - 2 * math.hypot(train.uncertainty, best.uncertainty)


def _on_new_samples(looks: Sequence[Look]) -> float:
    """Returns the skill in training while samples were all but new, if validation never reached it.

    Nothing had been learned by heart then: two sets that are alike would score alike.
    """
    fresh = max(
        (one.train for one in looks if one.is_fresh), key=lambda one: one.skill, default=None
    )
    best = max((one.validation for one in looks), key=lambda one: one.skill)
    if fresh is None or not fresh.is_known:
        return 0.0
    least = fresh.skill - 2 * fresh.uncertainty
    return least if best.skill < _LEARNED * least - 2 * best.uncertainty else 0.0


def _too_soon(stop: Stop, limit: float) -> Iterator[Evidence]:
    """A metric that has got better by all that counts while a callback waited for it."""
    mode = direction(stop.monitor) or stop.mode
    sign = 1.0 if mode == "min" else -1.0
    values = [sign * one for one in stop.values]
    waited = values[-stop.waited :]
    before = min(values[: -stop.waited], default=values[0])
    best, whole = min(waited), values[0] - min(values)
    if stop.seen < 1:
        yield Evidence(
            stop.monitor,
            stop.seen,
            1.0,
            f"{stop.callback} has ended the run after {stop.seen:.0%} of its first epoch",
            causes=("Patience counts validations, and there are several in an epoch",),
            fixes=("a patience of some epochs: validations in an epoch times their number",),
        )
        return
    if not (whole > 0 and before - best > limit * whole and waited[-1] <= before):
        return
    fix = f"mode={mode!r}" if mode != stop.mode else "a smaller min_delta, such as 0"
    yield Evidence(
        stop.monitor,
        (before - best) / whole,
        limit,
        f"{stop.callback} has ended the run while {stop.monitor} went from {sign * before:.3g} to "
        f"{sign * waited[-1]:.3g}: {(before - best) / whole:.0%} of all that it has gained",
        fixes=(f"give {stop.callback.partition('(')[0]} {fix}",),
    )


def _still_gets_better(scores: Scores, name: str, mode: Direction) -> bool:
    best = max if mode == "max" else min
    values = [value for _, value in scores.series(name)]
    if len(values) <= _SUSTAINED:
        return False
    now, before = best(values[-_SUSTAINED:]), best(values[:-_SUSTAINED])
    return now != before and best(now, before) == now


def _is_loss(name: str) -> bool:
    return direction(name) == "min" and _LOSS.search(name) is not None


def hidden(look: Look) -> float:
    """Returns the share of what validation shows to be learned that is missing in training.

    It is the least that two standard errors of the training samples allow for.
    """
    train, seen = look.train, look.validation
    if seen.skill < _LEARNED or not seen.is_known:
        return 0.0
    skill = seen.skill
    if not seen.classes:  # another level of later targets is no merit
        skill = 1 - seen.error / min(seen.constant_error, train.constant_error)
    return 1 - (train.skill + 2 * train.uncertainty) / skill if skill > 0 else 0.0


def _as_it_began(looks: Sequence[Look]) -> Iterator[Look]:
    """Yields the last look with the validation before: training is its mean since then."""
    if len(looks) > 1 and looks[-2].validation.is_known:
        yield replace(looks[-1], validation=looks[-2].validation)


def _is_closing(looks: Sequence[Look]) -> bool:
    """Tells whether training is just catching up, as it does in the first epochs."""
    if len(looks) < 2:  # noqa: PLR2004
        return False
    before, now = (hidden(one) for one in looks[-2:])
    return now < _CLOSING * before


def _is_suspicious(skill: Skill) -> bool:
    """Tells whether validation goes well, and nothing is known to disturb training."""
    is_disturbed = skill.noises or skill.shift >= _SHIFTED or skill.is_remade
    return skill.looks[-1].validation.skill > _GOOD and not is_disturbed


def _shown(tally: Tally) -> str:
    return f"error {tally.error:.3g}" if tally.classes else f"mean square {tally.error:.3g}"


def _causes(baselines: Baselines) -> tuple[str, ...]:
    """Returns the causes that the run itself shows, before the usual ones."""
    causes = []
    if baselines.dropout >= _STRONG_DROPOUT:
        causes.append(f"dropout with p={baselines.dropout:g}")
    if baselines.decay >= _STRONG_DECAY:
        causes.append(f"weight decay of {baselines.decay:g}")
    if not causes:
        causes.append(f"{baselines.parameters:,} trainable parameters, or what is between them")
    return tuple(causes)
