"""The learning rate: too high, too low, zero, or not the one that was meant."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from ..core.detector import Detector, rule, state, threshold, vital
from ..core.findings import Evidence, Severity
from ..core.measurements.divergence import Divergence
from ..core.measurements.losses import Loss
from ..core.measurements.rewrites import Rewrites
from ..core.measurements.schedules import LearningRates, Schedules
from ..core.measurements.step_probe import StepProbe
from .line_search import (
    EARLY,
    ENOUGH,
    FEW,
    WINDOW,
    Record,
    Trend,
    at_peak,
    bearable,
    blows_up,
    culprit,
    is_high,
    is_hill,
    leap,
    line,
    overshoots,
    recent,
    record,
    repeats,
    shortfall,
    trend,
)
from .misuse import misuse, misuse_by_hand, thrown_away
from .spikes import BASELINE, new_history, spikes

_SOURCE = "benchmarks/thresholds#learning_rate"
_SHORTER = 0.5  # a best multiple up to here means that a shorter step is better
_SLIGHT = 1e-4  # steps that promise less than this share of the loss do no harm
_NEW = 0.7  # the loss of a net that knows nothing, as a share of that with its weights scrambled
_SLOW = 0.5  # a run that will get no farther than this deserves a word
_FAR = 10.0  # times the multiple that makes a rate too low: evidence of another kind
_THROWN = 0.1  # if so much shorter a first step would have been best, the weights are far off
_RATHER = 0.6  # of the best multiple: a good rate more often than the best itself
_DEAD = 0.5  # if more of the parameters get no gradient at all, no rate is to blame
_STRIDE, _WAY = 1e-3, 3.0  # of the weights, in a step and in the whole run: usual in good ones
_ALIVE = 0.03  # the share of the loss that a step promises, for each share of the weights it moves
_KEPT_PROBES = 9
_NOTED, _LOW = 64, 0.1  # learning rates that are remembered; of the highest one
_SHOWN = 5  # losses that a message tells
_FEW, _TRIAL, _LONG = 20, 300, 1000  # steps
_SOON, _EARLY, _MARK, _HALF = 0.1, 0.3, 0.4, 0.5  # of a run


class LearningRateDetector(Detector):
    """Tells whether training is held up by the learning rate, and which one to try.

    Some steps are probed: the loss is evaluated on the next batch along the step that the optimizer
    has just made, shorter and longer than it was, in a sandbox. Everything is put back bit by bit.
    Runs with several optimizers, sharded weights, or losses below 0 are not probed or not judged.

    Args:
        longer: The learning rate is too low if a step this many times as long is better,
        gain: and lowers the loss of the next batch by at least this share,
        reach: and all planned steps together promise less than this share of the loss,
        travel: and, one after the other, would move the weights by less than this share of theirs.
            Steps so short that not even a thousand of them would do either need only be harmless
            when they are longer, and are told from the first epoch on. So need others be, once
            half of the run is over and the losses so far foretell less than ``reach`` in the end.
            Then it is enough as well that one longer step gains more than they foretell of all
            that are left.
        settled: None of this is said once training has taken off more than this share of the loss.
        progress: It is too high if training has taken off less than this share of the loss,
        kept: a shorter step is better (by ``gain``, too), and steps keep less than this share of
            what the gradient promised; or if steps that were too long had made the loss several
            times as large before, and half of the run is over; or if it climbs until it overflows.
        spike_scales: A loss is a spike if its logarithm is this many standard deviations (of the
            noise below the median) above the median of the losses before it,
        spike_height: and if it undoes at least this share of what training has achieved.
        spike_count: How many spikes within a thousand steps are too many.

    Logged:
        nndebug/learning_rate/best_multiple: How many times as long the best step would have been.
    """

    longer: float = threshold(default=100.0, source=_SOURCE, minimum=1.0)
    gain: float = threshold(default=0.005, source=_SOURCE, maximum=1.0)
    reach: float = threshold(default=0.2, source=_SOURCE)
    travel: float = threshold(default=0.1, source=_SOURCE)
    settled: float = threshold(default=0.25, source=_SOURCE, maximum=1.0)
    progress: float = threshold(default=0.1, source=_SOURCE, maximum=1.0)
    kept: float = threshold(default=0.6, source=_SOURCE, maximum=1.0)
    spike_scales: float = threshold(default=4.0, source=_SOURCE)
    spike_height: float = threshold(default=0.2, source=_SOURCE, maximum=1.0)
    spike_count: int = threshold(default=3, source=_SOURCE, minimum=1)

    start: dict[str, Any] = state(dict)
    probes: list[dict[str, Any]] = state(list)
    verdict: str = state(str)
    blamed: str = state(str)
    thrown: bool = state(bool)
    promised: float = state(float)
    rates: dict[str, list[list[float]]] = state(dict)
    histories: dict[str, dict[str, Any]] = state(dict)

    @rule(
        "LRN101",
        severity=Severity.WARNING,
        caused_by=["CLS103", "GRD106", "INP103", "LOS102", "LOS109", "UPD101", "UPD104"],
    )
    def learning_rate_too_high(
        self, probe: StepProbe | Divergence, run: Schedules
    ) -> Iterator[Evidence]:
        """Steps overshoot: training gets nowhere, and shorter ones would have been better.

        Why it matters:
            Beyond the edge of stability the loss bounces from wall to wall, or climbs to where the
            gradient is dead and everything looks calm. No amount of further training helps.

        Likely causes:
            - The learning rate is too high for this optimizer, batch size or parametrization
            - There is no warm-up, and the first steps of Adam threw the weights away
            - The value was meant for SGD and the optimizer is Adam, or was scaled for more devices

        How to fix:
            - Lower the learning rate by 10x
            - Warm it up over the first few hundred steps
            - Clip: ``Trainer(gradient_clip_val=1.0)``

        When it is fine:
            You look for the highest rate that is stable. A loss that rises is no evidence by
            itself, so curricula and moving targets do not fire.

        References:
            cohen2021edge, schneider2021cockpit, bengio2012practical
        """
        if isinstance(probe, Divergence):
            yield from self._diverged(probe)
            return
        self._remember(probe)
        last = recent(self.probes, since=self.start["settles"], half=_HALF * run.steps)
        pool, latest = (line(some, self.start["loss"]) for some in (last, last[-WINDOW:]))
        if thrown := self._thrown(probe, run):
            seen = thrown
        elif pool is None or latest is None:
            return
        elif pool.progress >= self.progress:
            self.verdict = "progress"
            return
        elif (
            pool.best > _SHORTER
            or pool.waste < self.gain
            or pool.kept >= self.kept
            or pool.pace <= _SLIGHT
            # It began with what it knows, and goes on knowing it: there may be no more to gain.
            or (self.start["novelty"] < _NEW and pool.progress > -self.progress)
            # The first steps led up a little, and those of now are well: it comes back.
            or (latest.best > _SHORTER and not is_hill(self.start["peak"], 1.0, self.progress))
            or (probe.step < ENOUGH and pool.progress > -self.settled)
        ):
            self.verdict = "not the learning rate"
            return
        else:
            best = f"{pool.best:g} of a step" if pool.best else "no step"
            seen = (
                f"after {probe.step} steps the loss is {1 - pool.progress:.3g} times what it was; "
                f"{best} would be best for the next batch, and of what the gradient promises "
                f"a step keeps {pool.kept:.0%}"
            )
        yield self._too_high(seen, last, _details(probe))

    @rule(
        "LRN102",
        severity=Severity.WARNING,
        caused_by=[
            "ACT101",
            "CLS102",
            "CLS103",
            "GRD102",
            "GRD103",
            "GRD104",
            "GRD105",
            "INP201",
            "LOS105",
            "LOS107",
            "LRN103",
            "UPD101",
            "UPD104",
        ],
    )
    def learning_rate_too_low(self, probe: StepProbe, run: Schedules) -> Iterator[Evidence]:
        """Steps are so short that the planned run cannot get anywhere.

        Why it matters:
            Training looks calm and healthy, and converges to nothing: days of computing are spent
            beside the place where they began.

        Likely causes:
            - The learning rate lacks a zero, or the one of another optimizer was kept
            - It was divided by the batch size or the accumulation, which the loss already was
            - The loss is scaled down, and the optimizer is not one that makes up for it

        How to fix:
            - Raise the learning rate by 10x, and again, until LRN101 objects
            - Search for it: ``Tuner(trainer).lr_find(model)``

        When it is fine:
            The run is the first stage of a longer one, or warms up by hand and has not begun to.
            Warm-ups, decays and nets that were trained before are recognised and never reported;
            a run that gets somewhere, but not half of the way, is told so without a warning.

        References:
            bengio2012practical, schneider2021cockpit
        """
        self._remember(probe)
        if FEW < probe.step <= _MARK * run.steps:
            self.start["mark"] = {key: self.probes[-1][key] for key in ("step", "mean")}
        last = at_peak(self.probes)
        pool = line(last, self.start["loss"])
        # Where steps promised less than the loss fell, the first batch was an unlucky one.
        learned = min(pool.progress, self.promised) if pool else 0.0
        has_learned = self.start["novelty"] < _NEW or learned > self.settled
        was_thrown = self.start["bearable"] < _THROWN
        is_dead = probe.silent > _DEAD
        if pool is None or has_learned or was_thrown or is_dead:
            return
        scale = shortfall(last)
        longer = self.longer * scale
        can_grow = pool.best >= longer and pool.gain >= self.gain
        begun, steps = last[0]["step"], max(run.steps, _TRIAL)
        is_sure = begun >= min(EARLY, _EARLY * run.steps) and not repeats(last) and scale == 1
        ahead = steps if begun >= EARLY else max(steps, _LONG)  # early on, only what is glaring
        limits = (self.reach, self.travel)
        is_far = pool.best >= _FAR * self.longer
        is_short = is_sure and can_grow and pool.falls_short(ahead / (1 + is_far), *limits)
        # If not even a long run would get anywhere, it matters little what a longer step does to
        # the next batch. It says nothing where batches are tiny, or have few weights in common.
        far_more = scale * max(steps, _LONG) * (1 if can_grow else _FAR)
        is_harmless = max(pool.curve) >= longer and pool.at(longer) <= 1 + self.gain
        is_harmless = is_harmless and pool.pace >= _ALIVE * pool.stride
        is_frozen = is_harmless and pool.falls_short(far_more, *limits)
        is_frozen = is_frozen and _has_begun(run, probe.step)
        # Later, the losses themselves tell where the run is going: nowhere, and not even as far as
        # one longer step. Where most of the loss is noise, neither gets far.
        way = self._way(run) if last[-1] is self.probes[-1] and not repeats(last) else None
        gains_more = is_sure and can_grow and way is not None and pool.gain > way.ahead
        is_still = is_harmless and steps * pool.stride < self.travel
        is_lost = way is not None and scale == 1 and way.most < self.reach
        is_late = is_lost and (gains_more or is_still)
        is_slow = is_sure and can_grow and ahead * max(pool.pace, pool.stride) < _SLOW
        if not (is_short or is_frozen or is_late or is_slow):
            return
        self.verdict = "too low"
        usual = statistics.median(one["rate"] for one in last)
        if can_grow:
            rate = _RATHER * bearable(last) * usual
            seen = (
                f"a step {pool.best:,.0f} times as long still lowers the loss of the next batch, "
                f"by {pool.gain:.1%}"
            )
        else:
            rate = max(_STRIDE, _WAY / steps) / pool.stride * usual
            seen = f"a step {longer:,.0f} times as long does the next batch no harm"
        outlook = f"all {run.steps:,.0f} planned steps lower it by {run.steps * pool.pace:.2%}"
        if is_late:
            outlook = f"{probe.step:,} steps have left {1 - pool.progress:.0%} of it"
        yield Evidence(
            where=probe.optimizer,
            measured=probe.rate,
            limit=rate,
            message=f"lr {probe.rate:.1e}: {seen}; at this pace {outlook}",
            fixes=(f"Raise lr to about {rate:.0e}", "Then watch for LRN101"),
            details=_details(probe),
            severity=None if is_short or is_frozen or is_late else Severity.INFO,
        )

    @rule("LRN103", severity=Severity.ERROR)
    def zero_learning_rate(self, rates: LearningRates, run: Schedules) -> Iterator[Evidence]:
        """A parameter group is trained with learning rate 0, and stays as it was initialized.

        Why it matters:
            The parameters of the group get gradients, cost memory and time, and never move.

        Likely causes:
            - The learning rate is an integer division or a rounded number: ``1 // 1000``
            - A schedule multiplies a base learning rate of 0
            - A layer-wise decay or a config file sets the group to 0

        How to fix:
            - Give the group a learning rate above 0
            - If it is meant to be frozen, set ``requires_grad_(False)`` and leave it out

        When it is fine:
            You freeze by learning rate and will raise it by hand later. Warm-ups from 0, the end of
            a decay and restarts are recognised and never reported.

        References:
            bengio2012practical
        """
        self._note(rates)
        if not _has_begun(run, rates.step):
            return
        for group in rates.groups:
            if group.rate == group.peak == 0 and group.trained and not group.moved:
                yield Evidence(
                    where=group.name,
                    measured=0.0,
                    limit="above 0",
                    message=f"lr has been 0 for {rates.step} steps; the group's {group.trained} "
                    f"parameters get gradients and have not moved",
                )

    @rule("LRN104", severity=Severity.WARNING)
    def misused_schedule(self, run: Schedules) -> Iterator[Evidence]:
        """The learning rate will not go the way that its scheduler was made for.

        Why it matters:
            A schedule that is stepped at the wrong pace trains with a learning rate that nobody
            chose: stuck in the warm-up, decayed to nothing after an epoch, or never decayed.

        Likely causes:
            - Lightning steps a scheduler once an epoch unless it is told otherwise
            - Its length was counted in batches, or for another number of epochs or devices
            - ``ReduceLROnPlateau`` takes the noise from batch to batch for a plateau
            - A cosine goes on after ``T_max``, and climbs back to where it began
            - In manual optimization nobody steps a scheduler but you; else, Lightning does
            - ``configure_optimizers`` makes a scheduler, and returns the optimizer alone
            - Code of your own lowers the rate in a hook that is called more often than it seems

        How to fix:
            - Return ``{"scheduler": scheduler, "interval": "step"}`` for schedules made of steps
            - Take the length from ``self.trainer.estimated_stepping_batches``
            - In manual optimization call ``self.lr_schedulers().step()``

        When it is fine:
            The run is a part of a longer one, such as a first stage that will be resumed.

        References:
            smith2018superconvergence
        """
        first = self.start["loss"] if self.start else 0.0
        learned = 1 - self.probes[-1]["level"] / first if first else 0.0
        told = [
            (f"{one.name} of {one.optimizer}", found)
            for one in run.schedules
            if (found := misuse(one, run, learned))
        ]
        by_hand = [one for one in misuse_by_hand(run, learned) if not self._cycles(one[0], run)]
        for where, found in (*told, *thrown_away(run), *by_hand):
            yield Evidence(where=where, measured=found.seen, message=found.seen, fixes=(found.fix,))

    @rule(
        "LRN105",
        severity=Severity.WARNING,
        caused_by=["CLS102", "CLS103", "GRD101", "INP103", "INP201", "LRN101", "UPD105"],
    )
    def recurring_spikes(self, loss: Loss, rewrites: Rewrites) -> Iterator[Evidence]:
        """The loss jumps up again and again, and each time training has to recover.

        Why it matters:
            Every spike undoes progress, and a larger one may be the last. A single spike early in
            training can be harmless, and even useful (the catapult); spikes that keep coming mean
            that the optimizer lives beyond the edge of stability.

        Likely causes:
            - The learning rate is slightly too high for this stage of training, or its cycles are
            - A few samples have inputs or targets of another scale, or wrong ones
            - Adam's ``beta2`` forgets too slowly after rare large gradients, or ``eps`` is tiny
            - Gradients are not clipped
            - The weights are loaded or reset in a hook that is called for each epoch

        How to fix:
            - Lower the learning rate by 2x to 5x, or decay it earlier
            - Clip: ``Trainer(gradient_clip_val=1.0)``
            - For Adam, lower ``beta2`` to 0.95
            - Look at the batches of those steps, and take a loss that forgives: ``F.huber_loss``

        When it is fine:
            Reinforcement learning and adversarial training, where the target moves.

        References:
            lewkowycz2020catapult, cohen2022adaptive, zhang2022opt
        """
        if rewrites.epochs > 1:
            begins = (
                "as the first one did" if rewrites.is_start else "with other weights altogether"
            )
            yield Evidence(
                where="weights",
                measured=rewrites.epochs,
                limit=1,
                message=f"{rewrites.epochs} epochs in a row begin {begins}: what the epoch before "
                "has learned is undone",
                causes=("The weights are loaded or reset in a hook called for each epoch",),
                fixes=("Do it once: in ``__init__``, ``setup`` or ``on_fit_start``",),
            )
            return
        found: list[int] = []
        for one in (*loss.before, loss):
            history = self.histories.setdefault(str(one.optimizer), new_history())
            scales, height = self.spike_scales, self.spike_height
            told = spikes(history, one.step, one.value, scales=scales, height=height)
            found = max(found, told, key=len)
        if len(found) >= self.spike_count and found[-1] - found[0] >= BASELINE:
            yield Evidence(
                where="loss",
                measured=len(found),
                limit=self.spike_count,
                message=f"{len(found)} spikes since step {found[0]}; each undid more than "
                f"{self.spike_height:.0%} of the progress made until then",
                details={"steps": found},
            )

    @vital
    def best_multiple(self, probe: StepProbe) -> float:
        """The multiple of the step at which the loss of the next batch is least."""
        finite = {k: loss for k, loss in probe.curve.items() if math.isfinite(loss)}
        return min(finite, key=finite.__getitem__, default=0.0)

    def _note(self, rates: LearningRates) -> None:
        """Remembers the learning rates of each optimizer, more of late than of long ago."""
        for group in rates.groups:
            name = group.name.partition(".param_groups")[0]
            seen = [*self.rates.get(name, []), [rates.step, group.rate]]
            self.rates[name] = seen if len(seen) <= _NOTED else seen[::2]

    def _cycles(self, optimizer: str, run: Schedules) -> bool:
        """Whether the rate is low only now: it was not in the second half of the epoch."""
        seen = self.rates.get(optimizer, [])
        since = run.done * (1 - 0.5 / max(1, run.epoch))
        lately = max((rate for step, rate in seen if step >= since), default=0.0)
        return lately > _LOW * max((rate for _, rate in seen), default=0.0)

    def _diverged(self, end: Divergence) -> Iterator[Evidence]:
        """Tells of a loss that climbed until it overflowed, between the steps that are probed."""
        if not self.probes:
            return
        ignorant = self.start["highest"] / min(self.start["novelty"], 1.0)
        is_odd = leap(end.losses, ignorant) and not any(map(overshoots, self.probes))
        if is_high(end.losses, ignorant) and not is_odd:
            way = ", ".join(f"{one:.3g}" for one in end.losses[-_SHOWN:])
            seen = f"from {self.start['loss']:.3g} at first the loss rose to {way}, {end.loss:g}"
            yield self._too_high(seen, self.probes[-WINDOW:], {"losses": list(end.losses)})

    def _too_high(self, seen: str, last: Sequence[Record], details: dict[str, Any]) -> Evidence:
        """Blames the rate, and proposes one at which the last steps would have been bearable."""
        self.verdict = "too high"
        latest = self.probes[-1]
        where, rate = culprit(self.probes) or (latest["optimizer"], latest["rate"])
        self.blamed = self.blamed or where  # once, however the blame may wander
        first = self.start["bearable"] / self.start["growth"]
        better = rate * min([first, _SHORTER, *([bearable(last)] if last else [])])
        return Evidence(
            where=self.blamed,
            measured=rate,
            limit=better,
            message=f"lr {rate:.1e}: {seen}",
            fixes=(f"Lower lr to about {better:.0e}", "Warm it up", "Clip the gradients"),
            details=details,
        )

    def _thrown(self, probe: StepProbe, run: Schedules) -> str:
        """Says what a step, or the first ones, did beyond doubt; nothing if it may come back."""
        last, before, after = self.probes[-1], probe.curve[0.0], probe.curve[1.0]
        passing = probe.step < self.start["settles"]
        highest = self.start["highest"]
        is_odd = leap(probe.losses, highest) and not any(map(overshoots, self.probes[:-1]))
        self.start["struck"] = self.start["struck"] or is_odd
        explodes = not self.start["struck"] and blows_up(last, highest, passing=passing)
        if explodes:
            return f"one step takes the loss of the next batch from {before:.3g} to {after:.3g}"
        level = last["level"] / (self.start["loss"] or math.inf)
        seen = f"after {probe.step} steps the loss is {level:.3g} times what it was"
        if passing:
            self.thrown = self.thrown or blows_up(last, highest)
            return ""
        half = _HALF * run.steps
        if self.thrown and probe.step >= min(EARLY, half):  # time enough to come back
            self.thrown = False
            return seen if level > 1 - self.settled else ""
        self.start["overshot"] = self.start["overshot"] or overshoots(last)
        high = min(last["loss"], before) / (highest or math.inf)
        self.start["peak"] = peak = max(self.start["peak"], high)
        is_late = probe.step >= max(EARLY, half) and self.start["novelty"] >= _NEW
        if is_late and self.start["overshot"] and is_hill(peak, level, self.progress):
            return f"{seen}, and steps that were too long had made it {peak:,.0f} times as large"
        return ""

    def _way(self, run: Schedules) -> Trend | None:
        """Says where the losses are going, once half of the run is over."""
        mark, last = self.start.get("mark"), self.probes[-1]
        if mark is None or last["step"] < _HALF * run.steps:
            return None
        return trend(self.start["losses"], mark, last, max(run.steps, _TRIAL))

    def _remember(self, probe: StepProbe) -> None:
        """Adds the probe to those that are judged together, unless the other rule has done so."""
        if self.probes and self.probes[-1]["step"] == probe.step:
            return
        mine, fresh = probe.own[0], probe.curve[0.0]
        self.probes.append(record(probe))
        then, now = self.probes[-2:] if len(self.probes) > 1 else self.probes * 2
        self.promised += (now["step"] - then["step"]) * max(then["pace"], now["pace"], 0.0)
        del self.probes[:-_KEPT_PROBES]
        if not self.start:
            self.start = {
                "loss": (mine + fresh) / 2,
                "highest": max(mine, fresh) + abs(mine - fresh),
                "bearable": bearable(self.probes),
                "growth": probe.growth,
                # The first steps of RMSprop and Adagrad are much longer than all that follow.
                "settles": _FEW if probe.growth < 1 else 0,
                "novelty": fresh / probe.scrambled if probe.scrambled else 1.0,
                "losses": [],
                "peak": 0.0,
                "overshot": False,
                "struck": False,
            }
        self.start["losses"] = [*self.start["losses"], *probe.losses][:FEW]
        if min(mine, fresh, *probe.losses) < 0:  # no zero to measure from, now and for ever
            self.start["loss"] = self.start["highest"] = 0.0


def _has_begun(run: Schedules, step: int) -> bool:
    """Whether so much of the run is over that what has not begun yet is not going to."""
    if math.isinf(run.steps):
        return step >= _LONG
    an_epoch = run.epoch >= 1 and step >= _SOON * run.steps
    return step >= _FEW and (an_epoch or step >= _HALF * run.steps)


def _details(probe: StepProbe) -> dict[str, Any]:
    return {"lr": probe.rate, "curve": {f"{k:g}": loss for k, loss in sorted(probe.curve.items())}}
