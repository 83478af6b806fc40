"""Activations: do the units answer, can they still change, and does their scale hold with depth?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from .core.detector import Detector, rule, state, threshold, vital
from .core.findings import Evidence, Severity
from .core.measurements.activations import Activation, Activations, Layer

_SOURCE = "benchmarks/thresholds#activations"
_WIDTH = 16  # inputs from which on as many live units are room enough for them
_DEPTH = 3  # layers, at least, for a scale to drift
_SURE = 1.64  # standard errors: a chance of one in twenty
_AGE = 10  # steps in which a net may leave what it was initialized with
_ALL_FLAT = 0.9  # of the inputs, which learning alone does not come to
_NEARLY = 0.8  # of draws that are flat by chance alone: more than a temperature in use makes
# Why a softmax between layers is sure of one choice from the beginning, and what helps.
_SHARP = (
    (
        "Attention scores are not divided by the root of the width, or multiplied by it",
        "The temperature is near 0",
    ),
    (
        "Divide the scores by ``sqrt(width)``, as ``F.scaled_dot_product_attention`` does",
        "Begin with a temperature of 1",
    ),
)
# Likewise, a gate that is open or shut.
_SHUT = (
    (
        "Biases of gates begin so far below 0 that nothing comes through, or ever opens them",
        "The inputs of gates are too large: some are open from the first step on, others shut",
    ),
    ("Begin with gates ajar: a bias of -1 to -4", "Scale what they are given"),
)


class ActivationDetector(Detector):
    """Activations: do the units answer, can they still change, and does their scale hold?

    Looks at fourteen of the first 100 batches, and rarely later. Modules (``nn.ReLU``) and calls
    (``F.relu``) are the same to it. What is not being trained is not judged.

    Args:
        dead_share: The share of a layer's units that may be dead.
        flat_share: The share of what goes into tanh, sigmoid, softmax and the like that may be
            where they have lost 99 % of their slope.
        drift_decades: By how many powers of ten the scale of layers may drift with depth,
        smallest_std: if it ends below this standard deviation,
        largest_std: or above this one.

    Logged:
        dead: The largest share of dead units of any layer.
        flat: The largest share of flat inputs of any layer.
    """

    dead_share: float = threshold(default=0.7, source=_SOURCE, maximum=1.0)
    flat_share: float = threshold(default=0.5, source=_SOURCE, maximum=1.0)
    drift_decades: float = threshold(default=0.8, source=_SOURCE)
    smallest_std: float = threshold(default=0.1, source="glorot2010understanding")
    largest_std: float = threshold(default=10.0, source="glorot2010understanding")

    well: list[str] = state(list)

    @vital
    def dead(self, activations: Activations) -> float | None:
        """The largest share of dead units of any layer."""
        shares = [one.idle / one.units for one in activations.calls if one.idle is not None]
        return max(shares, default=None)

    @vital
    def flat(self, activations: Activations) -> float | None:
        """The largest share of flat inputs of any layer."""
        shares = [one.flat for one in _hidden(activations) if one.flat is not None]
        return max(shares, default=None)

    @rule(
        "ACT101",
        severity=Severity.WARNING,
        patience=2,
        caused_by=[
            "ACT103",
            "GRD101",
            "GRD102",
            "INP101",
            "INP103",
            "LOS109",
            "LRN101",
            "NAN102",
            "NAN103",
            "NAN104",
            "UPD104",
        ],
    )
    def dead_units(self, activations: Activations) -> Iterator[Evidence]:
        """Most units of a layer answer no sample, and so can never learn to.

        Why it matters:
            A unit whose input is negative for all samples gives 0 and gets no gradient. It stays
            so for ever: the layer is as narrow as what is left of it.

        Likely causes:
            - One step was too long: the learning rate is too high, or there is no warm-up
            - Biases are initialized far below 0
            - The inputs are far from standardized, such as all positive or in the thousands

        How to fix:
            - Initialize biases with 0, and weights with ``kaiming_normal_``
            - Lower the learning rate, or warm it up
            - Standardize the inputs, or put a norm layer before the activation
            - Replace ``ReLU`` by ``LeakyReLU`` or ``GELU``

        When it is fine:
            A few dead units are normal, and in a wide dictionary, such as that of a sparse
            autoencoder, many: as long as more units live than each has inputs, nothing is told.

        References:
            maas2013rectifier, he2015delving, lu2019dying
        """
        sick = [one for one in _hidden(activations) if self._is_dead(one)]
        for first in sick[:1]:  # those behind it get nothing to answer to
            share = (first.idle or 0) / first.units
            yield Evidence(
                where=first.where,
                measured=share,
                limit=self.dead_share,
                message=f"{first.idle} of {first.units} units are idle for each of the last "
                f"{first.rows:,} samples and positions, before {_call(first)}; "
                f"the limit is {self.dead_share:.0%}{_others(sick)}",
                details={"dead": {one.where: one.idle for one in sick}},
            )

    @rule(
        "ACT102",
        severity=Severity.WARNING,
        patience=4,
        caused_by=["GRD101", "INP103", "LOS102", "LRN101", "NAN102", "UPD104", "UPD105"],
    )
    def saturated_units(self, activations: Activations) -> Iterator[Evidence]:
        """Most of what goes into a layer's activation function is where it is flat.

        Why it matters:
            In the flat ends the slope is below 1 % of its steepest, so hardly any gradient comes
            through: the layers before stay as they are, and the units act as switches.

        Likely causes:
            - The inputs are not scaled: raw pixels, features in the hundreds, a sum over positions
            - Weights are initialized too large for the number of inputs
            - One step was too long: the learning rate is too high

        How to fix:
            - Standardize the inputs to mean 0 and standard deviation 1
            - Initialize with ``xavier_normal_``, whose scale goes with the number of inputs
            - Put a norm layer before the activation, or replace it by ``ReLU`` or ``GELU``
            - Lower the learning rate

        When it is fine:
            Where units are meant to be switches, as in hashing. Outputs are never judged, and what
            has become flat while it learned, as attention often does, only if nearly all of it has.
            Gates (a result that multiplies something) may learn to decide, and may begin open or
            nearly shut: they are reported if, from the first step on, some were open and the others
            shut, or all of them so far shut that nothing comes through. Samples of a Gumbel softmax
            are reported if nearly all were sure from the first step on; hard ones never.

        References:
            glorot2010understanding, lecun2012efficient
        """
        sick = [one for one in activations.calls if self._is_flat(one, activations.step)]
        for first in sick[:1]:
            is_drawn = first.function == "gumbel_softmax"
            limit = max(_ALL_FLAT, self.flat_share) if is_drawn else self.flat_share
            yield Evidence(
                where=first.where,
                measured=first.flat or 0.0,
                limit=limit,
                message=f"{first.flat:.0%} of what {_call(first)} gets is where it is flat; "
                f"the limit is {limit:.0%}{_others(sick)}",
                causes=_advice(first)[0],
                fixes=_advice(first)[1],
                details={"flat": {one.where: one.flat for one in sick}},
            )

    @rule(
        "ACT103",
        severity=Severity.WARNING,
        patience=12,  # nets as torch initializes them may need ten to find their scale
        caused_by=[
            "GRD101",
            "INP103",
            "LRN101",
            "NAN102",
            "NAN103",
            "NAN104",
            "STR103",
            "UPD104",
            "UPD103",
            "UPD105",
        ],
    )
    def scale_drift(self, activations: Activations) -> Iterator[Evidence]:
        """The scale of the layers' answers shrinks or grows with depth, far out of bounds.

        Why it matters:
            Each layer multiplies by the same wrong factor. Where the scale dies, the last layers
            see nothing but their own biases; where it explodes, outputs and loss are huge, and no
            learning rate suits all layers.

        Likely causes:
            - Weights are initialized with one fixed standard deviation, such as 0.01 or 1
            - A gain that fits another activation function
            - A deep net has neither norm layers nor shortcuts

        How to fix:
            - Initialize to keep the variance: ``kaiming_normal_`` for ReLU, ``xavier_normal_`` else
            - Add batch or layer norm
            - Remove the fixed factor between layers, if there is one

        When it is fine:
            Hardly ever, if it is so from the beginning and lasts for 75 steps. Outputs, whose scale
            is that of the targets, and layers with norms between them or behind them are not
            compared.

        References:
            glorot2010understanding, he2015delving, mishkin2016all
        """
        chain = _chain(activations.layers)
        dead = {one.where for one in activations.calls if self._is_dead(one)}
        if not chain or any(one.where in dead and one.std >= self.smallest_std for one in chain):
            return  # units that die where the scale is well are a matter of ACT101
        first, last, drift = _drift(chain)
        out = last.std < self.smallest_std if drift < 0 else last.std > self.largest_std
        out = out and abs(drift) > self.drift_decades
        # What comes later was learned: large targets, for one, make the last layers grow.
        if not self._was_well(f"ACT103 {chain[0].where}", not out):
            yield Evidence(
                where=chain[-1].where,  # the same in each look
                measured=last.std,
                limit=self.smallest_std if drift < 0 else self.largest_std,
                message=f"the standard deviation goes from {first.std:.2g} at {first.where} to "
                f"{last.std:.2g} at {last.where}, in {len(chain)} layers; the limits are "
                f"{self.smallest_std:g} and {self.largest_std:g}",
                details={"std": {one.where: one.std for one in chain}},
            )

    def _is_flat(self, one: Activation, step: int) -> bool:
        if one.flat is None or not (one.is_hidden or one.is_gate):
            return False
        if not one.is_hidden and one.function != "gumbel_softmax":
            return not self._was_well(f"ACT102 gate {one.where}", one.flat <= self.flat_share)
        if one.function == "gumbel_softmax":  # chance alone is sure of many, and that passes
            cold = not self._was_well(f"ACT102 {one.where}", one.flat <= _NEARLY)
            return cold and one.flat > max(_ALL_FLAT, self.flat_share)
        # A net may well learn to decide, and some of its units with it.
        is_well = one.flat <= self.flat_share and step >= _AGE
        learned = self._was_well(f"ACT102 {one.where}", is_well)
        return one.flat > (max(_ALL_FLAT, self.flat_share) if learned else self.flat_share)

    def _was_well(self, place: str, is_well: bool) -> bool:
        """Returns whether a place was ever well, up to now."""
        if is_well and place not in self.well:
            self.well.append(place)
        return place in self.well

    def _is_dead(self, one: Activation) -> bool:
        share = self.dead_share
        # Of few units, so many may be dead by the chance of their initialization.
        chance = _SURE * math.sqrt(one.units * share * (1 - share))
        if one.idle is None or one.idle < min(share * one.units + chance, one.units):
            return False
        return not _WIDTH <= one.inputs <= one.units - one.idle


def _hidden(activations: Activations) -> list[Activation]:
    return [one for one in activations.calls if one.is_hidden]


def _chain(layers: Sequence[Layer]) -> list[Layer]:
    """Returns the hidden layers that have no norm between them, nor one behind them.

    What shrinks or grows before a norm, as in a branch of a transformer, is mended by it.
    """
    last = max((one.normed for one in layers), default=0)
    chain = [one for one in layers if one.is_hidden and one.normed == last]
    is_finite = all(math.isfinite(one.std) for one in chain)
    return chain if is_finite and len(chain) >= _DEPTH else []


def _drift(chain: Sequence[Layer]) -> tuple[Layer, Layer, float]:
    """Returns where a chain begins and ends, and by how many decades it grows between.

    It grows if all of its last quarter is above all of its first, and shrinks if all of its last
    quarter is below the largest of its first: biases let it shrink no further.
    """
    quarter = max(1, len(chain) // 4)
    first = max(chain[:quarter], key=_std)
    lowest, highest = (pick(chain[-quarter:], key=_std) for pick in (min, max))
    last = lowest if _std(lowest) > _std(first) else highest
    return first, last, math.log10(_std(last) / _std(first))


def _std(one: Layer) -> float:
    return max(one.std, 1e-30)


def _call(one: Activation) -> str:
    return f"{one.function} at {one.line}" if one.line is not None else one.function


def _advice(one: Activation) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns what may have made it flat, and what helps, if that is known."""
    if "softmax" in one.function:
        return _SHARP
    return _SHUT if one.is_gate and not one.is_hidden else ((), ())


def _others(sick: Sequence[Activation]) -> str:
    if len(sick) == 1:
        return ""
    return f"; and so it is after {', '.join(one.where for one in sick[1:4])}"
