"""Outputs: can they express the targets, and do they depend on their own sample alone?"""

from __future__ import annotations

import math
from collections.abc import Iterator

from .core.detector import Detector, rule, state, threshold, vital
from .core.findings import Evidence, Severity
from .core.measurements.activations import Activations
from .core.measurements.predictions import Predictions
from .core.measurements.sensitivity import Mixing, Sensitivity
from .core.statistics import growth

_SOURCE = "benchmarks/thresholds#outputs"
_AGE = 30  # steps in which predictions may well be alike
_LOOKS, _KEPT = 5, 8  # looks in a row that they must be alike, and become no less so
_ALIKE = 0.2  # 1 minus the cosine of embeddings that nothing keeps apart
_SHRUNK, _SMALL = 0.1, 0.03  # of what varied at first, and of the size of embeddings
_RISING = 0.65  # the growth of the spread where something is learned; by chance, one in 25 is so
_NONE = 1e-3  # of the least spread: below that, rounding errors come and go

_LOGITS = "logits vary between samples by a standard deviation of {}"
_VALUES = "predictions vary between samples by {} of the standard deviation of the targets"
_FAKES = "what a net makes in the shape of the data varies between samples by {} of what they do"
_STRANGERS = "the loss only pulls pairs together, and those of different pairs differ by {} as well"
_EMBEDDINGS = "no more than {} of the embeddings varies between samples"


class OutputDetector(Detector):
    """Outputs: can they express the targets, and do they depend on their own sample alone?

    Args:
        least_spread: How much predictions must vary between samples: logits by this standard
            deviation, values by this share of that of the targets, embeddings by this share of
            their size.
        unreachable_share: The squared error that no net with such an output can avoid, as a share
            of the variance of the targets.

    Logged:
        spread: How much the first predictions of the step vary between samples.
    """

    least_spread: float = threshold(default=0.003, source=_SOURCE)
    unreachable_share: float = threshold(default=0.05, source=_SOURCE)

    spreads: dict[str, list[float]] = state(dict)
    firsts: dict[str, float] = state(dict)

    @vital
    def spread(self, predictions: Predictions) -> float | None:
        """How much the first predictions of the step vary between samples."""
        return next((one.spread for one in predictions.pairs if one.spread is not None), None)

    @rule(
        "OUT101",
        severity=Severity.WARNING,
        caused_by=[
            "ACT101",
            "ACT102",
            "CLS101",
            "CLS102",
            "CLS103",
            "GRD102",
            "GRD103",
            "GRD104",
            "INP101",
            "INP102",
            "INP103",
            "INP204",
            "LOS101",
            "LOS102",
            "LOS103",
            "LOS105",
            "LOS106",
            "LOS107",
            "LOS109",
            "LRN101",
            "LRN102",
            "LRN103",
            "MOD101",
            "MOD104",
            "NAN102",
            "NAN103",
            "NAN104",
            "OUT102",
            "OUT103",
            "OUT104",
            "UPD101",
            "UPD102",
            "UPD104",
        ],
    )
    def collapsed_predictions(
        self, predictions: Predictions, activations: Activations
    ) -> Iterator[Evidence]:
        """The net gives (nearly) the same prediction for every sample.

        Why it matters:
            It is no better than a constant. The loss looks as if it had settled, and an accuracy
            may even look good where one class is frequent.

        Likely causes:
            - The last layers get nothing that varies: dead units, a norm over a single feature
            - One step was too long, and the net has not come back from it
            - What varies is averaged away, or cut off by a ``clamp``
            - Equal embeddings are the best answer to a loss that only pulls them together
            - A generator has found one sample that always passes (mode collapse)

        How to fix:
            - Look at what the last layers are given, from the input on: where does it become equal?
            - Normalize over the features, not over an axis of size 1
            - Lower the learning rate, or warm it up
            - Add negatives, a stop-gradient with a predictor, or a term that keeps the variance

        When it is fine:
            Where the inputs tell nothing of the targets. Predictions that begin alike and come
            apart, as those of a head initialized with zeros, are not told.

        References:
            jing2022understanding, lu2019dying
        """
        for where, spread, what in _spreads(predictions, activations, self.unreachable_share):
            if not math.isfinite(spread):  # they overflow, which is told elsewhere
                continue
            past = self.spreads.setdefault(where, [])
            past[:] = [*past, spread][-_KEPT:]
            last = past[-_LOOKS:]
            rises = past[-1] > _NONE * self.least_spread and growth(past) > _RISING
            is_old = predictions.step >= _AGE and len(last) == _LOOKS
            limit, seen = self.least_spread, max(last)
            first = self.firsts.setdefault(where, spread)
            if what is _EMBEDDINGS and last == sorted(last, reverse=True):  # on their way there
                limit, seen = max(limit, min(_SMALL, _SHRUNK * first)), spread
            limit = _ALIKE if what is _STRANGERS else limit
            if is_old and seen < limit and not rises:
                yield Evidence(
                    where=where,
                    measured=spread,
                    limit=limit,
                    message=f"{what.format(f'{spread:.2g}')}; the limit is {limit:.2g}",
                )

    @rule("OUT102", severity=Severity.WARNING, patience=2, caused_by=["LOS102", "LOS109"])
    def unreachable_targets(self, predictions: Predictions) -> Iterator[Evidence]:
        """The last activation function cannot give the values that the targets have.

        Why it matters:
            However long it trains, an error remains. To come near to the targets, the output is
            driven to its end, where it has no slope.

        Likely causes:
            - A sigmoid, tanh, ReLU or softmax is left over at the end of a regression
            - A ReLU comes before a sigmoid, or products of ReLUs are scores: no answer is a no
            - The state of an LSTM or GRU, or a cosine, is the prediction: they stay within [-1, 1]
            - The targets are not scaled to what the output can give

        How to fix:
            - Remove the activation function from the last layer
            - Put a linear layer after a recurrent one
            - Scale the targets into its range: [-1, 1] for tanh, [0, 1] for sigmoid

        When it is fine:
            The targets that are out of reach are errors of measurement that nobody wants to fit.

        References:
            goodfellow2016deep
        """
        for one in predictions.pairs:
            is_bounded = one.is_of_answers or not one.is_of_classes
            if one.beyond > self.unreachable_share and is_bounded:
                given = _interval("probabilities" if one.is_of_answers else "values", *one.ends)
                yield Evidence(
                    where=one.place,
                    measured=one.beyond,
                    limit=self.unreachable_share,
                    message=f"{one.operation.lower()} gives {given}, the targets "
                    f"are from {one.asked[0]:.3g} to {one.asked[1]:.3g}: an error of "
                    f"{_percent(one.beyond)} of their variance remains; "
                    f"the limit is {_percent(self.unreachable_share)}",
                )

    @rule(
        "OUT103",
        severity=Severity.WARNING,
        patience=2,
        caused_by=[
            "ACT101",
            "ACT102",
            "ACT103",
            "GRD102",
            "GRD103",
            "GRD104",
            "INP101",
            "INP102",
            "LOS107",
            "LRN101",
            "LRN103",
            "OUT104",
            "UPD104",
        ],
    )
    def ignored_input(self, sensitivity: Sensitivity) -> Iterator[Evidence]:
        """The predictions stay the same whatever the input is.

        Why it matters:
            The net can learn nothing but the mean of the targets, or their most frequent class.

        Likely causes:
            - The forward uses another variable than the batch's: a stale or an example input
            - The input is multiplied by zero, masked out, or replaced on its way
            - Nothing comes through: all units of a layer are dead

        How to fix:
            - Follow the input from ``training_step`` on, and print where it stops to matter
            - Use the batch that ``training_step`` is given, not one that was kept

        When it is fine:
            Never, if there is an input to learn from.

        References:
            jacovi2018understanding
        """
        if sensitivity.ignored:
            yield Evidence(
                where=", ".join(sensitivity.inputs),
                measured="the same to the last bit",
                message=f"all {sensitivity.samples} samples were replaced by others, and no "
                "prediction changed in its last bit",
            )

    @rule("OUT104", severity=Severity.ERROR, patience=2)
    def one_unit_softmax(
        self, predictions: Predictions, activations: Activations
    ) -> Iterator[Evidence]:
        """A softmax over a single unit always gives 1: it can say nothing else.

        Why it matters:
            Neither the input nor any weight changes it. The loss is constant, its gradient is 0.

        Likely causes:
            - ``cross_entropy`` or ``Softmax`` on the single output of a binary classifier
            - The softmax is along the wrong dimension, as one over the last of scores (N, T, 1)

        How to fix:
            - Use ``binary_cross_entropy_with_logits`` on the single output, without an activation
            - Or give the net one output for each class
            - Say which dimension has the classes: ``softmax(x, dim=1)``

        When it is fine:
            Never for an output, or for the score of a layer by which a sum is weighed. Attention to
            a single token, and a mixture of one component, are not told.

        References:
            goodfellow2016deep
        """
        for one in predictions.pairs:
            if one.lonely:
                yield Evidence(
                    where=one.place,
                    measured="1 unit",
                    limit="2 units",
                    message=f"the predictions have the shape {one.shape}, and come out of a "
                    f"softmax over a single unit{_at(one.line)}",
                )
        for alone in activations.lonely if not predictions.pairs else ():
            yield Evidence(
                where=alone.where,
                measured="1 unit",
                limit="2 units",
                message=f"a softmax over a single unit, of shape {alone.shape}{_at(alone.line)}",
            )
        for alone in activations.pooling:
            yield Evidence(
                where=alone.where,
                measured="1 unit",
                limit="2 units",
                message=f"weights of shape {alone.shape} come out of a softmax over their single "
                f"unit{_at(alone.line)}, and what they weigh is added up along another axis",
                fixes=("Let the softmax run along the axis that is added up",),
            )

    @rule("OUT105", severity=Severity.ERROR, caused_by=["INP104"])
    def mixed_batch(self, sensitivity: Sensitivity) -> Iterator[Evidence]:
        """What the net answers for one sample depends on the other samples of the batch.

        Why it matters:
            It learns from what it will not have: alone, or among other samples, the same sample
            gets another answer. Training looks fine, and everything after it is wrong.

        Likely causes:
            - ``view`` or ``reshape`` where the axes had to be transposed
            - A softmax over the samples instead of the classes
            - A recurrent net or attention takes the samples for time steps
            - Each batch is standardized by its own spread, or shifted along the samples

        How to fix:
            - Replace ``view`` by ``transpose`` or ``permute``: ``view`` does not move axes
            - Give the softmax the axis of the classes: ``dim=1`` or ``dim=-1``
            - Set ``batch_first=True`` where the data has the samples first

        When it is fine:
            Never by these operations. What mixes samples by means, products or distances, as
            batch norm, in-batch negatives, graphs and attention between samples do, is not told,
            nor is a spread where the samples are put together otherwise than by chance.

        References:
            karpathy2019recipe
        """
        mixing = sensitivity.mixing
        if mixing is not None:
            cause, fix = _blamed(mixing)
            yield Evidence(
                where=str(mixing.line) if mixing.line is not None else mixing.function,
                measured=sensitivity.touched,
                limit=0,
                message=f"one sample was replaced, and the predictions of {sensitivity.touched} "
                f"of {sensitivity.samples - 1} others changed: {mixing.function} got the shape "
                f"{mixing.shape} with the samples along axis {mixing.axis}{_text(mixing)}",
                causes=(cause,),
                fixes=(fix,),
            )


def _spreads(
    predictions: Predictions, activations: Activations, unreachable: float
) -> Iterator[tuple[str, float, str]]:
    """Yields where something should vary between samples, by how much it does, and what it is."""
    for one in predictions.pairs:
        named = one.lonely or one.beyond > unreachable  # by another rule, which tells the cause
        if one.spread is not None and not named:
            yield one.place, one.spread, _LOGITS if one.is_of_classes else _VALUES
    for where, share in activations.fakes:
        yield f"what {where} is given", share, _FAKES
    if predictions.apart is not None:
        yield "the pairs of the loss", predictions.apart, _STRANGERS
    last = [one for one in activations.layers if not one.is_hidden and one.varying is not None]
    if last and not predictions.pairs and not predictions.centered:
        widest = max(last, key=lambda one: one.varying or 0.0)
        yield widest.where, widest.varying or 0.0, _EMBEDDINGS


def _interval(what: str, low: float, high: float) -> str:
    return f"{what} in [{low:g}, {high:g}]".replace("[-inf", "(-inf").replace("inf]", "inf)")


def _percent(share: float) -> str:
    return f"{100 * share:,.0f} %"


def _at(line: object) -> str:
    return f", at {line}" if line is not None else ""


def _text(mixing: Mixing) -> str:
    return f", in `{mixing.line.text}`" if mixing.line is not None and mixing.line.text else ""


def _blamed(mixing: Mixing) -> tuple[str, str]:
    """Returns the cause and the fix for this very operation."""
    name = mixing.function
    if "view" in name or "reshape" in name or name == "unflatten":
        return (
            f"``{name}`` where the axes had to be transposed",
            "Replace it by ``transpose`` or ``permute``: a view does not move axes",
        )
    if name in ("lstm", "gru", "rnn_tanh", "rnn_relu", "multi_head_attention_forward"):
        return (
            "It takes the first axis for time, and the samples are along it",
            "Set ``batch_first=True``",
        )
    if name.startswith(("std", "var")):
        return (
            "Each batch is standardized by itself",
            "Fit mean and spread on the training data once, or use a norm layer",
        )
    return (
        f"``{name}`` runs along the axis of the samples",
        f"Give ``{name}`` the axis that it is meant for: ``dim=-1``",
    )
