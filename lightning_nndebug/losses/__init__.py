"""Losses: is the net asked the right question, and does it learn to answer?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator
from typing import Any

from ..core.detector import Detector, rule, state, threshold, vital
from ..core.findings import Evidence, Severity
from ..core.measurements.fits import Fits, where
from ..core.measurements.graphs import LostGraph
from ..core.measurements.loss_curve import LossCurve
from ..core.measurements.loss_inputs import LossInputs
from ..core.measurements.loss_terms import LossTerms, Regularization
from ..core.measurements.schedules import Schedules
from ..core.measurements.step_probe import StepProbe
from .misuse import broadcast, mismatch, weighed_in_pairs
from .progress import (
    LOSS,
    STEEP,
    STEP,
    TOO_LONG,
    Histories,
    baseline,
    excess,
    fall,
    first_ratio,
    has_diverged,
    has_got_on,
    has_stalled,
    is_far,
    is_late,
    is_soon,
    is_turned,
    recent,
    step_record,
    take_up,
    verdict,
)
from .unsuitable import (
    Ends,
    Labels,
    accuracy_of_quantities,
    accuracy_that_is_none,
    divided_by_nothing,
    flipped,
    means_of_batches,
    plain_outputs,
    same_views,
    squared_classes,
    turned_scores,
    unbounded_answers,
    unwrapped_angles,
)

_SOURCE = "benchmarks/thresholds#losses"
_PROBES = 9
_SOLVED = 0.3  # of the loss of a constant prediction
_LEARNED = 0.4  # likewise: such predictions are no guesses
_STILL = 0.1  # what dominated at the start still is so much of what the data are
_LOOKS = 3  # the first ones, which show what the classes are like
_FAR = 10.0  # a loss from which on targets are several units away
# Why steps that are too short do not get to the targets, and what helps: the targets may be near.
_SLOW = (
    ("The learning rate: the targets are not far", "Raise the learning rate by 10 times"),
    (
        "The scale of the targets: no step is as long as they are far",
        "Scale the targets to mean 0 and standard deviation 1",
    ),
)
# What explains that nothing comes of the training: one finding is enough.
_TEMPERATURE = (
    "What is matched is not normalized, or a temperature is taken for its logarithm or inverse",
    "Match by cosines, and divide by a temperature of 0.05 to 0.5",
    "A scale that ``exp`` is taken of begins as ``log(1 / 0.07)``",
)
_CAUSES = {"LOS102", "LOS103", "LOS106", "LOS107", "LOS109"}


class LossDetector(Detector):
    """Losses: is the net asked the right question, and does it learn to answer?

    Listens to the loss functions of a few steps, and compares what they were given with what they
    want, and what they return with the loss of the best constant prediction. Losses that are
    written by hand are judged by the graph that they leave.

    Args:
        chance_ratio: How many times the loss of a guess the first loss may be.
        variance_ratio: How many times the variance of the targets the first squared error may be.
        stalled: Nothing is learned if the loss is at least this share of the loss of the best
            constant prediction,
        relation: and the predictions have no more than this to do with the targets: the gain of the
            own target over another one, as a share of the entropy, or the squared correlation.
        dominance: One term drowns another if its gradient by the parameters that they share is so
            many times as large.
        regularization: Regularization dominates if it pulls so many times as hard as the data, at
            the start or now, and nothing is learned.
        rise: The loss diverges if it stays so many times above its own best, and above that of the
            best constant prediction.
        runaway: A loss below 0 has no floor if twice the steps gain more than so many times as
            much, again and again.

    Logged:
        nndebug/losses/against_constant: The loss as a share of that of the best constant
            prediction, in the last few looks.
        nndebug/losses/growth: How the fall of a loss below 0 grows from one doubling to the next.
        nndebug/losses/kept: What the last probed step kept of what the gradient promised.
    """

    chance_ratio: float = threshold(default=3.0, source=_SOURCE, minimum=1.0)
    variance_ratio: float = threshold(default=10.0, source=_SOURCE, minimum=1.0)
    stalled: float = threshold(default=0.97, source=_SOURCE, maximum=1.0)
    relation: float = threshold(default=0.1, source=_SOURCE, maximum=1.0)
    dominance: float = threshold(default=100.0, source=_SOURCE, minimum=1.0)
    regularization: float = threshold(default=1.0, source=_SOURCE)
    rise: float = threshold(default=1.5, source=_SOURCE, minimum=1.0)
    runaway: float = threshold(default=2.5, source=_SOURCE, minimum=2.0)

    labels: Labels = state(dict)
    ends: Ends = state(dict)
    alike: dict[str, int] = state(dict)
    histories: Histories = state(dict)
    probes: list[dict[str, Any]] = state(list)
    held_up: str = state(str)
    turned: list[str] = state(list)
    pulls: dict[str, list[float]] = state(dict)
    levels: list[float] = state(list)
    falls: list[tuple[float, float]] = state(list)

    @rule(
        "LOS101",
        severity=Severity.WARNING,
        caused_by=[
            "ACT103",
            "CLS103",
            "CLS105",
            "GRD101",
            "INP102",
            "INP103",
            "INP104",
            "INP201",
            "LOS102",
            "LOS103",
            "LOS109",
            "OUT104",
            "UPD104",
        ],
    )
    def initial_loss_off_chance(self, fits: Fits, run: Schedules) -> Iterator[Evidence]:
        """The untrained net is not ignorant but wrong, and sure of it.

        Why it matters:
            A net that knows nothing finds all classes equally likely, and predicts quantities near
            their mean. One that begins far above that loss spends its first steps on unlearning,
            with the largest gradients of the whole run.

        Likely causes:
            - The last layer is initialized with weights that are too large
            - The inputs are not scaled, and the scores grow with them
            - The targets of a regression have a mean far from 0, or are not scaled

        How to fix:
            - Initialize the last layer small, and its bias with what is known of the targets
            - Scale the inputs to mean 0 and standard deviation 1
            - Scale the targets of a regression likewise, and undo it after the prediction

        When it is fine:
            The net was trained before, on something else. A first loss below chance, sums, weighted
            classes, smoothed labels and rare classes are understood; and a mean that is learned in
            the first tenth of the run, or in the first 15 steps, or half-way by then, does no harm.

        References:
            karpathy2019recipe, glorot2010understanding
        """
        take_up(self.histories, fits)
        if self._is_explained():
            return
        for name, history in self.histories.items():
            looks = history["looks"]
            quantities = history["kind"] == "quantities"
            is_due = is_soon(looks, run.steps) if quantities else len(looks) == _LOOKS
            is_past = quantities and is_soon(looks, run.steps, times=2)
            if looks[0][STEP] or not (is_due or is_past):
                continue
            found = first_ratio(history)
            limit = self.variance_ratio if quantities else self.chance_ratio
            limit = max(limit, STEEP) if history["matches"] else limit
            if found is None or found[0] <= limit:
                continue
            ratio, guess = found
            if quantities and looks[-1][LOSS] <= limit * guess:
                continue  # a mean that is learned in a few steps does no harm
            first, now, end = (math.sqrt(one) for one in (ratio, looks[-1][LOSS] / guess, limit))
            if quantities and not is_past and 2 * (first - now) >= first - end:
                continue  # half-way there: it will be learned in as many steps again
            value = "squared error" if quantities else "loss"
            of = "the variance of the targets" if quantities else "that of a guess"
            still = f", and after {looks[-1][STEP]} steps {looks[-1][LOSS] / guess:.1f} times"
            yield Evidence(
                where=name,
                measured=looks[0][LOSS],
                limit=limit * guess,
                message=f"the first {value} is {looks[0][LOSS]:.3g}, {ratio:.1f} times {of} "
                f"({guess:.3g}){still}; the limit is {limit:g} times, at {history['line']}",
                causes=_TEMPERATURE[:1] if history["matches"] else (),
                fixes=_TEMPERATURE[1:] if history["matches"] else (),
            )

    @rule("LOS102", severity=Severity.ERROR)
    def loss_input_mismatch(self, found: LossInputs) -> Iterator[Evidence]:
        """The loss function takes its input for something that it is not.

        Why it matters:
            The loss has a floor that no net gets below, or no floor at all, and gradients are weak
            or wrong. Training runs, and the result is worse than it need be.

        Likely causes:
            - The net ends in a softmax or sigmoid that the loss function takes itself
            - The loss function was exchanged, and the end of the net was not
            - The classes are along another axis than the loss function expects
            - A loss for one class of many gets several

        How to fix:
            - Pass raw scores to ``cross_entropy`` and ``binary_cross_entropy_with_logits``
            - Pass ``log_softmax`` to ``nll_loss``, and as the first argument of ``kl_div``
            - Move the classes to axis 1

        When it is fine:
            ``log_softmax`` before ``cross_entropy`` is superfluous and harmless, and not reported.
            Neither are losses that are computed for a log, and no part of what goes backward.

        References:
            goodfellow2016deep, humbatova2020taxonomy
        """
        for one in found.inputs:
            if told := mismatch(one):
                yield Evidence(
                    where=where(one.call),
                    measured=told[0],
                    message=f"{told[0]}, at {one.call.line}" if one.call.line else told[0],
                    causes=(f"{one.call.line.text}" if one.call.line else "",)[
                        : bool(one.call.line)
                    ],
                    fixes=(told[1],),
                    details={"made_by": one.call.made_by, "shape": list(one.call.shape)},
                )

    @rule("LOS103", severity=Severity.ERROR)
    def broadcast_loss(self, found: LossInputs) -> Iterator[Evidence]:
        """Every prediction meets every target, or every weight, not its own.

        Why it matters:
            The net learns to predict the mean of the targets for every input: that is the best
            answer to the question it is asked. The loss falls, and looks like one.

        Likely causes:
            - The net returns (N, 1), and the targets are (N,)
            - Losses of shape (N, 1), by ``reduction="none"``, are multiplied with weights (N,)
            - Both sides of an equation are added up, one as (N, 1) and the other as (N,)

        How to fix:
            - Make the shapes equal: ``prediction.squeeze(-1)``, or ``target.unsqueeze(-1)``

        When it is fine:
            All pairs are meant: add the axis in the loss, and to both, as quantile regression does.
            Then nothing is reported.

        References:
            humbatova2020taxonomy
        """
        for call in (one.call for one in found.inputs):
            if broadcast(call) and call.target is not None:
                shapes = f"{tuple(call.shape)} and {tuple(call.target.shape)}"
                yield Evidence(
                    where=where(call),
                    measured=shapes,
                    limit="equal shapes",
                    message=f"predictions and targets of shape {shapes} meet in all pairs, at "
                    f"{call.line}",
                )
            elif weighed_in_pairs(call) and call.meets is not None:
                shapes = f"{call.meets[0]} and {call.meets[1]}"
                yield Evidence(
                    where=where(call),
                    measured=shapes,
                    limit="equal shapes",
                    message=f"losses and weights of shape {shapes} meet in all pairs: each loss is "
                    f"weighed by every weight, at {call.line}",
                    fixes=(
                        "Make the shapes of losses and weights equal: ``weight.view_as(loss)``",
                    ),
                )

    @rule(
        "LOS104",
        severity=Severity.WARNING,
        caused_by=[
            "ACT101",
            "ACT102",
            "CLS101",
            "CLS102",
            "CLS103",
            "CLS104",
            "CLS105",
            "GEN102",
            "GRD102",
            "GRD103",
            "GRD104",
            "GRD105",
            "GRD106",
            "INP101",
            "INP102",
            "INP103",
            "INP104",
            "INP201",
            "INP203",
            "INP204",
            "LOS102",
            "LOS103",
            "LOS105",
            "LOS106",
            "LOS107",
            "LOS109",
            "LRN101",
            "LRN102",
            "LRN103",
            "LRN104",
            "MOD101",
            "MOD104",
            "MOD105",
            "NAN102",
            "NAN103",
            "NAN104",
            "OUT101",
            "OUT102",
            "OUT103",
            "OUT104",
            "OUT105",
            "UPD101",
            "UPD102",
            "UPD103",
            "UPD104",
        ],
    )
    def nothing_learned(self, fits: Fits, run: Schedules) -> Iterator[Evidence]:
        """The net predicts no better than if it had never seen an input.

        Why it matters:
            The best constant prediction needs no net. Whatever has fallen in the loss is that the
            net has learned how often each target occurs.

        Likely causes:
            - The targets do not belong to the inputs: shuffled apart, or joined by the wrong key
            - The signal is lost on its way through the net, or its outputs are all alike
            - The inputs are constant, or were normalized twice
            - Bounded scores, such as cosines, are multiplied by their temperature, not divided

        How to fix:
            - Look at a few samples with their targets, just as the net gets them
            - Let it overfit a single batch: ``Trainer(overfit_batches=1)``
            - Try a linear model on the same data

        When it is fine:
            There is nothing to be learned from these inputs, or training begins with a plateau, as
            for some tasks of arithmetic and logic. Who predicts noisy targets a little better than
            a constant does, beyond doubt, is not reported.

        References:
            karpathy2019recipe
        """
        take_up(self.histories, fits)
        judged = [one.where for one in fits.fits]
        if (
            not judged
            or any(one.is_next for one in fits.fits)
            or not is_late(fits.step, run.steps)
            or self._is_explained()
        ):
            return
        if self._pulling():  # LOS106 tells it
            return
        histories = [self.histories[one] for one in judged]
        self.turned = [one for one in judged if is_turned(self.histories[one], self.relation)]
        if self.turned:  # LOS109 tells it
            return
        is_slow = self.held_up.startswith("steps are too short") and all(map(is_far, histories))
        if self.held_up.startswith("steps are") and not is_slow:
            return  # the learning rate: LRN101 and LRN102 tell it
        if is_slow and any(one.code == "LOS101" for one in self._findings):
            return
        if all(has_stalled(one, self.stalled, self.relation, run.steps) for one in histories):
            for name, one in zip(judged, histories, strict=True):
                constant = baseline(one)
                level = excess(recent(one))
                told = self.held_up or "the learning rate could not be probed"
                yield Evidence(
                    where=name,
                    measured=level,
                    limit=self.stalled,
                    message=f"after {fits.step} steps the loss is {level:.2f} times that of the "
                    f"best constant prediction ({constant:.3g}); {told}",
                    causes=_SLOW[level * constant > _FAR][:1] if is_slow else (),
                    fixes=_SLOW[level * constant > _FAR][1:] if is_slow else (),
                )

    @rule("LOS105", severity=Severity.WARNING, patience=3)
    def dominated_loss(self, found: LossTerms) -> Iterator[Evidence]:
        """One term of the loss drowns another: what they share is trained for one of them alone.

        Why it matters:
            The sum falls, and looks well. The term that was drowned might as well not be there.

        Likely causes:
            - Targets of different units: a squared error of thousands beside a cross entropy of 2
            - One term is a sum over pixels or tokens, and the other is a mean
            - A weight that was meant for another reduction

        How to fix:
            - Scale the targets of a regression to standard deviation 1
            - Use ``reduction="mean"`` for all terms
            - Weight the terms, by hand or by their uncertainty

        When it is fine:
            The small term is only a hint. Penalties, terms of weight 0 and tasks that are solved
            are not reported, and neither are terms without targets of their own in the batch.

        References:
            kendall2018multitask, chen2018gradnorm
        """
        judged = [one for one in found.terms if one.where and one.shared > 0]
        if len(judged) < 2:  # noqa: PLR2004
            return
        largest = max(judged, key=lambda one: one.shared)
        for one in judged:
            history = self.histories.get(one.where)
            ratio = largest.shared / one.shared
            if ratio < self.dominance or history is None:
                continue
            if excess(history["looks"][-_LOOKS:]) < _SOLVED:
                continue
            yield Evidence(
                where=one.where,
                measured=ratio,
                limit=self.dominance,
                message=f"{largest.where} pulls {ratio:,.0f} times as hard at the parameters that "
                f"it shares with {one.where}; the limit is {self.dominance:g} times",
                details={term.where or "others": term.norm for term in found.terms},
            )

    @rule("LOS106", severity=Severity.WARNING, caused_by=["LRN101"])
    def regularization_dominates(self, pulls: Regularization, run: Schedules) -> Iterator[Evidence]:
        """Regularization pulls harder at the parameters than the data, and nothing is learned.

        Why it matters:
            The parameters go where the penalty is least, mostly to 0, and there they stay.

        Likely causes:
            - A weight decay that was meant for another optimizer, or lacks zeros behind the point
            - A penalty that is a sum over all parameters, beside a loss that is a mean
            - The divergence of a variational autoencoder is weighted too much, or from the start

        How to fix:
            - Lower the weight decay to 0.01 (AdamW) or 1e-4 (SGD), or try without
            - Lower the weight of the penalty by 100x
            - Raise it from 0 in the course of training

        When it is fine:
            Never as long as nothing is learned. Runs that do learn are not reported, however strong
            their regularization is.

        References:
            krogh1991weight, loshchilov2019decoupled
        """
        self._remember(pulls)
        is_lost = any(one.code == "LOS108" for one in self._findings)
        is_stuck = is_late(pulls.step, run.steps) and self._has_stalled(run.steps)
        for name, ratio, told in self._pulling() if is_lost or is_stuck else ():
            # What was small in the beginning has run away with the loss: LOS108 tells it.
            if statistics.median(self.pulls[name][:_LOOKS]) >= self.regularization or not is_lost:
                yield Evidence(
                    where=name,
                    measured=ratio,
                    limit=self.regularization,
                    message=f"{told} {ratio:.1f} times as hard as the data; after {pulls.step} "
                    f"steps the loss is no better than that of a constant prediction",
                )

    @rule("LOS107", severity=Severity.ERROR)
    def detached_loss(self, lost: LostGraph) -> Iterator[Evidence]:
        """The loss does not lead back to any parameter: something has cut its graph.

        Why it matters:
            The backward raises, or it trains nothing at all.

        Likely causes:
            - ``detach``, ``item`` or ``data`` on the way from the net to the loss
            - The loss is made of ``argmax`` or of a comparison, which have no gradient
            - The loss was computed by numpy or put into a new ``torch.tensor``
            - ``training_step`` does not return it

        How to fix:
            - Compute the loss from what the net returns, without ``detach``, ``item`` or ``data``
            - Use a loss of the scores, such as ``cross_entropy``, and not the accuracy
            - Keep ``item`` and ``detach`` for what is logged

        When it is fine:
            Never where the loss goes backward. Where gradients are turned off, MOD104 tells it.

        References:
            humbatova2020taxonomy, https://docs.pytorch.org/docs/stable/notes/autograd.html
        """
        if lost.inference or lost.outside or lost.penalty or (lost.off and not lost.on):
            return
        if lost.kept:
            yield Evidence(
                where="training_step",
                measured="no loss",
                message=f"it has returned nothing in {lost.batches} batches, though it computes a "
                f"loss at {lost.kept}: no gradient has come",
                causes=("``return loss`` is missing, or in a branch that is not taken",),
                fixes=("Return the loss",),
            )
            return
        told = f"; the last cut is {lost.cutter} at {lost.cut}" if lost.cut else ""
        yield Evidence(
            where="training_step",
            measured="no graph",
            message=f"the loss has no graph{told}",
            details={"line": str(lost.cut), "by": lost.cutter} if lost.cut else {},
        )

    @rule(
        "LOS108",
        severity=Severity.WARNING,
        caused_by=[
            "CLS102",
            "CLS103",
            "GRD101",
            "GRD106",
            "INP103",
            "INP201",
            "LOS106",
            "LOS109",
            "LRN101",
            "LRN104",
            "LRN105",
            "MOD104",
            "UPD105",
        ],
    )
    def diverging_loss(self, fits: Fits) -> Iterator[Evidence]:
        """The loss runs away: above that of a constant prediction, to stay, or ever deeper below 0.

        Why it matters:
            What had been learned is gone, and the net is worse than none. Where there is no floor,
            one term grows until nothing else counts.

        Likely causes:
            - The loss is maximized, or a term without a lower bound takes over
            - A schedule has raised the learning rate, or restarted it too high
            - The weights grow without bound

        How to fix:
            - Go back to the best checkpoint, and lower the learning rate from there
            - Clip: ``Trainer(gradient_clip_val=1.0)``
            - Check the sign and the weight of each term
            - Bound what grows: a gradient penalty for a critic, a norm for embeddings

        When it is fine:
            The task has become another one, or an adversary reverses the gradient: by an
            ``autograd.Function``, nothing is reported. Where the learning rate is too high, LRN101
            tells it; tasks that become harder without the net becoming worse than none are not
            reported.

        References:
            cohen2021edge
        """
        take_up(self.histories, fits)
        if self._is_explained() or self.held_up == TOO_LONG:
            return
        if len(self.falls) > 1 and min(growth for _, growth in self.falls) > self.runaway:
            level, growth = self.falls[-1]
            yield Evidence(
                where="loss",
                measured=growth,
                limit=self.runaway,
                message=f"the loss has come down to {level:.3g} and has no floor: from one "
                f"doubling of the steps to the next it falls {growth:.1f} times as far; the limit "
                f"is {self.runaway:g} times",
            )
        for one in fits.fits:
            if one.opposed:
                continue
            found = has_diverged(self.histories[one.where], self.rise)
            if found is not None:
                best, now = found
                yield Evidence(
                    where=one.where,
                    measured=now,
                    limit=max(1.0, self.rise * best),
                    message=f"the loss is {now:.2f} times that of the best constant prediction, "
                    f"and was {best:.2f} times that at its best",
                )

    @rule("LOS109", severity=Severity.WARNING)
    def unsuitable_loss(self, found: LossInputs) -> Iterator[Evidence]:
        """The loss is computed as it should, and is not the one that the task needs.

        Why it matters:
            The net gets good at something else: numbers between two classes, the worst answer
            instead of the best, probabilities where quantities are asked for.

        Likely causes:
            - A squared error on the numbers of classes
            - A binary cross entropy on quantities
            - A minus sign, or ``maximize=True``, that turns the loss around
            - Distances that are taken for similarities
            - A squared difference of angles, as if 359 degrees were far from 1
            - A percentage of targets of which some are 0
            - An accuracy for a regression, which is always near 0
            - A metric that is computed from something else than the predictions
            - Two views of a sample that are the same, and should find each other
            - The mean of the raw scores, without a target

        How to fix:
            - Classes: ``cross_entropy``; yes and no: ``binary_cross_entropy_with_logits``
            - Quantities: ``mse_loss`` or ``huber_loss``, and a mean absolute error as the metric
            - Minimize the loss

        When it is fine:
            The classes are ranks or counts, and their distances mean something: where the inputs
            show that, it is known. Numbers that are declared as floating point are no more than
            advice. An adversary that maximizes a loss is not reported as long as something else is
            minimized beside it.

        References:
            goodfellow2016deep, humbatova2020taxonomy
        """
        yield from flipped(found)
        yield from plain_outputs(found, self.levels)
        for name in self.turned:
            history = self.histories[name]
            level = excess(recent(history))
            yield Evidence(
                where=name,
                measured=level,
                limit=1.0,
                message=f"what belongs together had the lowest score of all from the first step "
                f"on, at {history['line']}; training has made all scores alike, and the loss "
                f"{level:.2f} times that of a guess",
                causes=("Distances are taken for similarities, or a minus sign is too many",),
                fixes=("Give it similarities: put a minus sign before distances",),
            )
        yield from squared_classes(found, self.labels)
        yield from unbounded_answers(found)
        yield from unwrapped_angles(found, self.ends, self._is_learned)
        yield from accuracy_of_quantities(found)
        yield from accuracy_that_is_none(found)
        yield from divided_by_nothing(found)
        yield from means_of_batches(found)
        yield from turned_scores(found)
        yield from same_views(found, self.alike)

    @vital
    def against_constant(self, fits: Fits) -> float | None:
        """The loss as a share of that of the best constant prediction."""
        take_up(self.histories, fits)
        if not fits.fits:
            return None
        history = self.histories[fits.fits[0].where]
        return excess(history["looks"][-_LOOKS:])

    @vital
    def growth(self, curve: LossCurve) -> float:
        """How the fall of a loss below 0 grows from one doubling of the steps to the next."""
        self.falls = [*self.falls, fall(curve)][-2:]
        return self.falls[-1][1]

    @vital
    def kept(self, probe: StepProbe) -> float:
        """What the last probed step kept of what the gradient promised."""
        self.probes.append(step_record(probe))
        del self.probes[1:-_PROBES]  # the first tells where the loss began
        # A net that was thrown away stays where it is, and then no step is too long for it.
        if self.held_up != TOO_LONG or has_got_on(self.probes):
            self.held_up = verdict(self.probes)
        return float(self.probes[-1]["kept"])

    def _remember(self, pulls: Regularization) -> None:
        for name, ratio in (
            (f"{pulls.optimizer}(weight_decay={pulls.rate:g})", pulls.decay),
            ("loss", pulls.terms),
        ):
            if ratio > 0:
                known = self.pulls.setdefault(name, [])
                known.append(ratio)
                if len(known) > 2 * _LOOKS:
                    del known[_LOOKS]

    def _pulling(self) -> list[tuple[str, float, str]]:
        """Returns what pulls harder than the data: place, how much harder, and the sentence."""
        found = []
        for name, known in self.pulls.items():
            then, now = statistics.median(known[:_LOOKS]), statistics.median(known[-_LOOKS:])
            if len(known) < _LOOKS or max(then, now) < self.regularization or now < _STILL:
                continue
            told = "terms without targets pull" if name == "loss" else "the weight decay pulls"
            told += " (at the start)" if then > now else ""
            found.append((name, max(then, now), told))
        return found

    def _has_stalled(self, planned: float) -> bool:
        known = [one for one in self.histories.values() if recent(one)]
        return bool(known) and all(
            has_stalled(one, self.stalled, self.relation, planned) for one in known
        )

    def _is_learned(self, name: str) -> bool:
        """Whether predictions are far better by now than a constant one."""
        history = self.histories.get(name)
        return history is not None and excess(history["looks"][-1:]) < _LEARNED

    def _is_explained(self) -> bool:
        return any(one.code in _CAUSES for one in self._findings)
