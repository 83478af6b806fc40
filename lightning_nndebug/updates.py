"""Updates: does every weight that should learn change, and by a sensible amount?"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from statistics import median

from .core.detector import Detector, rule, state, threshold
from .core.findings import Evidence, Severity
from .core.measurements.ownership import Fault, Orphans, Ownership
from .core.measurements.replicas import Replica, Replicas
from .core.measurements.settings import OptimizerSettings, Settings
from .core.measurements.updates import SampledUpdates, Update
from .core.measurements.weights import InitialWeights, Weight

_SOURCE = "benchmarks/thresholds#updates"
_STEPS = 10  # at least, in which a weight must have changed, or another one have left it behind
_LOOKS = 5  # looks in a row that an update must be out of its band, or weights must run
_FIRST = 3  # steps in which units that are alike may still come apart
_SHARE = 0.05  # of what weights are by now is no long step: they have run away before
_SMALL = 0.2  # gains that nobody chooses: torch's own are 0.58
_DEEP = 3  # of such layers, at least, shrink a signal to nothing
_UNITS = 8  # that are alike, at least, are no mean on purpose
_EARLY = 1000  # steps in which nothing that is well grows so much
_LAYERS = 2  # matrices, at least: a lone one may have to go wherever the targets are
_SHORTENED = 0.5  # of the first steps: such as are longer still do the same
_BEGINNING = 20  # steps, whose length a layer's first size is a measure of
_LEFT = 3.0  # times as large as it was, there is little left of what a layer was
_NOISE = 1e-4  # of the usual gradient: less does not ask a weight to move
_SINGLE = 1e-6  # relative rounding that is finer than that is no half precision
_DEPENDS = 0.5  # an update that grows so much with the weight, in logarithms, is driven by it
_RISE = 1.3  # by which running weights grow in the last looks
_FASTER = 1.25  # times as much a loss falls in the last third of the steps as in the one before
_HISTORY = 15, 120  # looks that tell so: at least, and at most
_ALIKE = 1e-4  # of their size: so far apart, replicas are not by rounding
_ROUNDINGS = 8  # nor by so many of them
_LASTING = 0.99  # a first beta from which on an average is one over a hundred steps and more
_DAMPED, _DECAYED = 0.5, 0.1  # from and below these, steps are much shorter than they seem
_SOFT_EPS, _HARD_EPS = 1e-2, 1e-15  # beyond these, an eps is no rounding guard any more


class UpdateDetector(Detector):
    """Updates: does every weight that should learn change, and by a sensible amount?

    Args:
        largest_update: A step is too long if it moves the weights of a layer by this many times
            what they are to begin with,
        usual_update: or those of the usual layer by this share, until little of it is left,
        smallest_update: and too short if it moves them by less than this share,
        stalled_factor: while it moves those of other layers by this many times more.
        largest_gain: Weights start too large if they amplify independent inputs by this factor,
        smallest_gradient: and too small if several layers shrink them, one after the other, until
            the usual layer gets less than this share of the largest gradient.
        running_factor: Weights run away if they get this many times as large as they were, in the
            first thousand steps of the whole net, or faster and faster; or, if the loss falls
            below zero faster and faster, a tenth of that.
    """

    largest_update: float = threshold(default=1.0, source=_SOURCE)
    usual_update: float = threshold(default=0.25, source=_SOURCE)
    smallest_update: float = threshold(default=1e-6, source=_SOURCE, maximum=1.0)
    stalled_factor: float = threshold(default=1000.0, source=_SOURCE, minimum=1.0)
    largest_gain: float = threshold(default=5.0, source=_SOURCE, minimum=1.0)
    smallest_gradient: float = threshold(default=1e-3, source=_SOURCE, maximum=1.0)
    running_factor: float = threshold(default=30.0, source=_SOURCE, minimum=1.0)

    races: dict[str, list[list[float]]] = state(dict)
    grown: int = state(int)
    descents: dict[str, list[list[float]]] = state(dict)
    falls: dict[str, int] = state(dict)
    strides: list[float] = state(list)
    stride: float = state(float)
    parted: list[str] = state(list)

    @rule("UPD101", severity=Severity.ERROR)
    def not_optimized(self, ownership: Ownership) -> Iterator[Evidence]:
        """Gradients come to these parameters, and no optimizer makes use of them.

        Why it matters:
            They stay as they were initialized for ever. Nothing fails: the rest of the net learns
            around what is a random projection.

        Likely causes:
            - ``configure_optimizers`` lists the parts of the module, and leaves this one out
            - The layer was made, replaced or unfrozen after the optimizer had been made
            - The layer is in a plain list or dict, of which ``parameters()`` does not know
            - The layer is made in ``forward``, anew each time
            - A parameter was reshaped or moved: ``nn.Parameter(x)[None]`` is none any more
            - Several optimizers hold what is not theirs, or are swapped

        How to fix:
            - Pass ``self.parameters()`` to the optimizer, or ``add_param_group`` what is new
            - Use ``nn.ModuleList``, ``nn.ModuleDict`` or ``nn.Parameter`` instead of plain ones
            - If it is meant to be frozen: ``requires_grad_(False)``

        When it is fine:
            Features that are random on purpose; say so by ``requires_grad_(False)``. Parameters
            that get no gradient, such as a teacher's, that somebody else moves, such as an average,
            or that have been trained before, such as a backbone, are never reported.

        References:
            paszke2019pytorch
        """
        for orphans in ownership.orphans:
            if orphans.is_fresh or orphans.is_unfrozen or ownership.stale:
                yield _orphaned(orphans, ownership.stale)
        for fault in ownership.faults:
            yield _faulty(fault)

    @rule(
        "UPD102",
        severity=Severity.WARNING,
        patience=3,
        caused_by=[
            "ACT101",
            "GRD103",
            "LOS107",
            "LRN102",
            "LRN103",
            "MOD104",
            "STR105",
            "UPD101",
            "UPD104",
        ],
    )
    def unchanged_parameter(self, updates: SampledUpdates) -> Iterator[Evidence]:
        """An optimizer steps on these parameters with a gradient, and they are what they were.

        Why it matters:
            To the last bit, they are as they were initialized. They cost memory and time like any
            other, and do not learn.

        Likely causes:
            - The weights are in half precision, which rounds each small update away
            - Somebody writes the old values back: a checkpoint is loaded in every step
            - The optimizer is one of your own, and skips them

        How to fix:
            - Keep the weights in float32, and use ``precision="bf16-mixed"``
            - Load weights once, in ``__init__`` or ``setup``
            - If they are meant to be frozen: ``requires_grad_(False)``

        When it is fine:
            Never, for parameters that are meant to learn. A learning rate of 0, a gradient that is
            missing or nothing beside those of others, single numbers at the end of their range and
            steps that a GradScaler skips are not counted here.

        References:
            micikevicius2018mixed
        """
        stuck = defaultdict(list)
        # A bias before a norm has none but the rounding errors of others for a gradient.
        gradients = [one.gradient for one in updates.updates if one.gradient]
        noise = _NOISE * median(gradients) if gradients else 0.0
        for one in updates.updates:
            is_asked = one.gradient is not None and one.gradient > noise
            if one.age >= _STEPS and not one.moved and is_asked and not _is_excused(one):
                stuck[one.optimizer].append(one)
        for name, ones in stuck.items():
            first = ones[0]
            yield Evidence(
                where=first.name,
                measured="unchanged",
                message=f"{_are(ones)} unchanged, to the last bit, after {first.age} steps of "
                f"{name} with gradients",
                causes=_unchanging(first),
                details={"parameters": [one.name for one in ones]},
            )

    @rule(
        "UPD103",
        severity=Severity.WARNING,
        patience=_LOOKS,
        caused_by=[
            "GRD101",
            "GRD102",
            "GRD106",
            "INP103",
            "LRN101",
            "LRN102",
            "LRN103",
            "LRN104",
            "LRN105",
            "UPD101",
            "UPD104",
        ],
    )
    def update_ratio(self, updates: SampledUpdates) -> Iterator[Evidence]:
        """Steps are out of proportion to the weights that they change.

        Why it matters:
            A healthy step moves the weights of a layer by some thousandth. If it moves them by all
            that they are, they forget with every batch; if by a millionth, the layer is frozen.

        Likely causes:
            - A parameter group has a learning rate of its own that is wrong by orders of magnitude
            - The layer is initialized far too large or too small for its learning rate
            - A factor in the forward, such as a temperature, scales its gradient

        How to fix:
            - Too long: lower the learning rate of this group
            - Too short: raise it, or initialize the layer at the scale of the others

        When it is fine:
            A learning rate that is tiny on purpose, to freeze all but the last layers; then do
            freeze them. Biases, norms, embeddings and nets of one layer are not judged.

        References:
            karpathy2019recipe
        """
        layers = defaultdict(list)
        for one in updates.updates:
            if one.kind == "matrix" and one.gradient and math.isfinite(one.update):
                layers[one.optimizer].append(one)
        everywhere = [one.ratio for ones in layers.values() for one in ones]
        if len(everywhere) < _LAYERS:
            return
        usual = median(everywhere)
        # A norm behind takes away the size: long strides make it grow, and are short ones then.
        sized = [one for ones in layers.values() for one in ones if not one.is_normalized]
        if len(sized) >= _LAYERS:
            yield from self._strides(sized)
        for ones in layers.values():
            long = [one for one in ones if one.update > self.largest_update * _scale(one)]
            long = [one for one in long if one.ratio > _SHARE]
            if long:
                worst = max(long, key=lambda one: one.update / _scale(one))
                share = worst.update / _scale(worst)
                yield Evidence(
                    where=long[0].name,
                    measured=share,
                    limit=self.largest_update,
                    message=f"each step moves {_these(long)} by up to {_short(share)} times what "
                    f"they were to begin with; the limit is {self.largest_update:g}",
                    fixes=(f"Lower the learning rate, {_rate(worst)}, by {_decade(share)} times",),
                    details={"parameters": [one.name for one in long]},
                )
            limit = min(self.smallest_update, usual / self.stalled_factor)
            # Where each layer has a rate of its own, the usual one may be left behind as well.
            rates = [one.rate or 0.0 for one in ones]
            slow = max(rates) / self.stalled_factor
            limits = [self.smallest_update if 0 < rate < slow else limit for rate in rates]
            short = [
                one
                for one, least in zip(ones, limits, strict=True)
                # Exactly 0 is no size: weights that are clipped are put back where they were.
                if one.age >= _STEPS and 0 < one.ratio < least and one.moved
            ]
            if short:
                least = min(short, key=lambda one: one.ratio)
                yield Evidence(
                    where=short[0].name,
                    measured=least.ratio,
                    limit=self.smallest_update,
                    message=f"each step moves {_these(short)} by {least.ratio:.0e} of their size, "
                    f"and those of other layers by {usual:.0e}; the limit is "
                    f"{self.smallest_update:.0e}",
                    causes=_stalling(least),
                    details={"parameters": [one.name for one in short]},
                )

    @rule("UPD104", severity=Severity.WARNING)
    def bad_initialization(
        self, initial: InitialWeights, updates: SampledUpdates
    ) -> Iterator[Evidence]:
        """The weights that training starts from make learning impossible, or very hard.

        Why it matters:
            Units that start alike get the same gradient and stay alike: a layer of a thousand is
            worth one. Two layers of zeros get none at all. Huge weights saturate or explode, and
            in a row of tiny ones nothing is left of the signal, nor of the gradient.

        Likely causes:
            - ``nn.init.constant_``, ``ones_`` or ``zeros_`` is applied to weights, not only biases
            - ``nn.init.normal_`` or ``uniform_`` is left at its default scale of 1
            - One small standard deviation, such as 0.01, for all layers of a deep net
            - Both halves of an adapter are initialized to zero

        How to fix:
            - Remove it: the default initialization of every layer is sound
            - Otherwise ``kaiming_normal_`` for ReLU, ``xavier_normal_`` for tanh
            - Of an adapter, initialize only the second half to zero

        When it is fine:
            The last layer of a branch or of the net, a norm's scale and a gate may well be zero:
            they come free in a step. Weights with a norm behind them, and trained ones, may have
            any size, and small ones are fine where shortcuts or norms bring the gradient past them.

        References:
            glorot2010understanding, he2015delving, hu2022lora
        """
        alike = [one for one in updates.updates if one.is_alike and one.rate != 0]
        same = [one for one in alike if one.age >= _FIRST and one.weight and one.gradient]
        same = [one for one in same if one.kind == "matrix" or one.moved]
        zero = [one for one in alike if one.age >= _STEPS and not one.weight and one.gradient == 0]
        zero = [one for one in zero if one.kind != "embedding"]  # nothing may have been looked up
        fresh = [one for one in initial.weights if one.kind == "matrix" and one.looks_random]
        even = [one for one in fresh if one.is_alike and one.size]
        sized = [one for one in fresh if not (one.is_constant or one.is_normalized)]
        huge = [one for one in sized if one.gain > self.largest_gain]
        tiny = [one for one in sized if one.gain < _SMALL]
        if same or len(even) > 1 or any(one.units >= _UNITS for one in even):
            ones: Sequence[Update | Weight] = same or even
            yield Evidence(
                where=ones[0].name,
                measured="alike",
                message=f"{_are(ones)} the same in all units"
                + (f", and still after {same[0].age} steps" if same else ""),
                causes=("``nn.init.constant_`` or ``ones_`` is applied to weights",),
                details={"parameters": [one.name for one in ones]},
            )
        if len(zero) > 1:
            yield Evidence(
                where=zero[0].name,
                measured="zero",
                message=f"{_are(zero)} zero, and so is their gradient, after {zero[0].age} steps",
                causes=("Two layers in a row are initialized to zero",),
                fixes=("Initialize only the last of them to zero",),
                details={"parameters": [one.name for one in zero]},
            )
        if huge:
            worst = max(huge, key=lambda one: one.gain)
            yield Evidence(
                where=huge[0].name,
                measured=worst.gain,
                limit=self.largest_gain,
                message=f"{_are(huge)} initialized so large that the input is amplified "
                f"{_short(worst.gain)} times; the limit is {self.largest_gain:g} times",
                causes=("``nn.init.normal_`` or ``uniform_`` is left at its default scale",),
                details={"parameters": [one.name for one in huge]},
            )
        share = _usual_gradient(updates.updates) if len(tiny) >= _DEEP else 1.0
        if share < self.smallest_gradient:
            yield Evidence(
                where=tiny[0].name,
                measured=share,
                limit=self.smallest_gradient,
                message=f"{_are(tiny)} initialized so small that each shrinks its input to "
                f"{max(one.gain for one in tiny):.2g} of its size or less, and the usual layer "
                f"gets {share:.0e} of the largest gradient; the limit is "
                f"{self.smallest_gradient:.0e}",
                causes=("One small standard deviation is used for all layers of a deep net",),
                details={"parameters": [one.name for one in tiny]},
            )

    @rule(
        "UPD105",
        severity=Severity.WARNING,
        caused_by=[
            "GRD101",
            "GRD106",
            "INP103",
            "LOS108",
            "LOS109",
            "LRN101",
            "NAN102",
            "NAN103",
            "NAN104",
            "UPD103",
            "UPD104",
        ],
    )
    def diverging_weights(self, updates: SampledUpdates) -> Iterator[Evidence]:
        """Weights grow without end.

        Why it matters:
            Growth that feeds on itself ends in saturated units, in a loss that is all noise, or in
            NaN.

        Likely causes:
            - The loss has no minimum: a term is maximized, or a penalty has the wrong sign
            - The learning rate is so high that each step overshoots farther than the last
            - Nothing bounds a critic or a score: no penalty, no norm, no clipping

        How to fix:
            - Check the sign of each term of the loss
            - Lower the learning rate
            - Add weight decay, a norm layer or a bound on the output

        When it is fine:
            A lone layer on its way to targets that are large: it is reported only if it grows
            the faster the larger it is. Zeros grow from the size that they would usually have.

        References:
            goodfellow2016deep
        """
        wild = [one for one in updates.updates if self._runs(one)]
        layers = [one for one in updates.updates if one.kind == "matrix" and 0 < one.age <= _EARLY]
        is_grown = len(layers) >= _LAYERS and median(map(_growth, layers)) > self.running_factor
        self.grown = self.grown + 1 if is_grown else 0
        if self.grown >= _LOOKS:
            wild = wild or layers
        if not wild:
            yield from self._bottomless(updates)
        else:
            worst = max(wild, key=_growth)
            yield Evidence(
                where=wild[0].name,
                measured=_growth(worst),
                limit=self.running_factor,
                message=f"{_are(wild)} up to {_short(_growth(worst))} times as large as before, "
                f"after {worst.age} steps; the limit is {self.running_factor:g} times",
                details={"parameters": [one.name for one in wild]},
            )

    @rule("UPD106", severity=Severity.INFO)
    def optimizer_audit(self, settings: OptimizerSettings) -> Iterator[Evidence]:
        """The optimizer is set in a way that is seldom meant.

        Why it matters:
            Training works, and is a little worse than it could be, for a reason that no curve
            shows.

        Likely causes:
            - All parameters are in one group, so that biases and norms decay like weights
            - ``Adam(weight_decay=...)`` divides the decay by the size of the gradient
            - A number was taken over from another optimizer

        How to fix:
            - Put biases and norms in a group with ``weight_decay=0``
            - Use ``AdamW`` for decay
            - Leave ``eps`` and ``betas`` as they come

        When it is fine:
            You have compared both, or tune biases or norms alone on purpose. A decay that an
            optimizer comes with is not reported. No more than advice, but for exchanged betas.

        References:
            loshchilov2019decoupled
        """
        if not settings.trainable and settings.frozen:
            yield Evidence(
                where="optimizer",
                measured=0.0,
                limit="above 0",
                message=f"none of {settings.frozen} parameters requires a gradient",
                causes=("All parts of the module are frozen",),
                fixes=("``requires_grad_(True)`` for what is meant to learn",),
            )
        elif not settings.large and settings.frozen:
            yield Evidence(
                where="optimizer",
                measured=settings.trainable,
                limit="a matrix",
                message=f"of {settings.frozen + settings.trainable} parameters, no more than "
                f"{settings.trainable} require a gradient, all of them biases or norms",
                causes=("The loop that freezes the backbone goes on through the head",),
                fixes=("``requires_grad_(True)`` for what is meant to learn, at least the head",),
                severity=Severity.WARNING if settings.drawn else None,
            )
        elif settings.drawn:
            more = f" and {len(settings.drawn) - 1} more" if len(settings.drawn) > 1 else ""
            yield Evidence(
                where=settings.drawn[0],
                measured=len(settings.drawn),
                limit=0,
                message=f"{settings.drawn[0]}{more} do not require a gradient, and are as torch "
                "has drawn them at random: nothing was learned by them, and nothing will be",
                causes=("They were frozen, and no weights were loaded",),
                fixes=("Load pretrained weights, or ``requires_grad_(True)``",),
            )
        for group in settings.groups:
            oddities = list(_oddities(group))
            if oddities:
                yield Evidence(
                    where=group.name,
                    measured=len(oddities),
                    limit=0,
                    message="; ".join(seen for seen, _ in oddities),
                    fixes=tuple(fix for _, fix in oddities),
                    severity=Severity.WARNING if _are_exchanged(group.betas) else None,
                )

    @rule("UPD107", severity=Severity.ERROR)
    def diverged_replicas(self, replicas: Replicas) -> Iterator[Evidence]:
        """The processes train different parameters, where DDP was to keep them alike.

        Why it matters:
            Each process computes gradients of a net of its own, and what is averaged fits none of
            them. Only that of rank 0 is validated and saved.

        Likely causes:
            - A layer was frozen when DDP was set up, and unfrozen later: its gradients stay local
            - A parameter was made after DDP had been set up, or is in a plain list or dict
            - Gradients come past DDP: ``no_sync`` around the last backward, or ``self.net.forward``
              and a backward outside of ``training_step``
            - One process steps, loads weights or draws new ones, and the others do not

        How to fix:
            - Make and unfreeze what is to be trained before DDP is set up: in ``setup``
            - Hold a layer back by a learning rate of 0 instead of ``requires_grad_(False)``
            - Do to parameters on all ranks what you do on one, with the same seed
            - Call ``backward`` on what ``training_step`` has computed, without ``no_sync``

        When it is fine:
            Replicas that drift apart on purpose, as in local SGD, and parts that belong to one
            process, such as experts; then tell DDP to ignore them. Buffers, averages that no
            optimizer holds and what rounding does on unequal machines are never reported.

        References:
            li2020pytorch
        """
        apart = [one for one in replicas.replicas if one.spread > _apart(one)]
        for kind, (cause, fixes) in _PARTINGS.items():
            ones = [one for one in apart if one.kind == kind]
            if ones and kind not in self.parted:
                self.parted.append(kind)
                worst = max(ones, key=lambda one: one.spread)
                yield Evidence(
                    where=ones[0].name,
                    measured=worst.spread,
                    limit=_apart(worst),
                    message=f"{_these(ones)} differ{'s' * (len(ones) == 1)} by up to "
                    f"{worst.spread:.1%} of {'its' if len(ones) == 1 else 'their'} size between "
                    f"{replicas.processes} processes, after {replicas.steps} step"
                    f"{'s' * (replicas.steps > 1)}",
                    causes=cause,
                    fixes=fixes,
                    details={"parameters": [one.name for one in ones]},
                )

    def _strides(self, layers: Sequence[Update]) -> Iterator[Evidence]:
        """Notes a look at all layers, and yields if the usual one has been walked away from."""
        growth = median(map(_growth, layers))
        stride = median(one.update / _scale(one) for one in layers)
        # Later, a layer that has grown for other reasons moves as far.
        if layers[0].age <= _BEGINNING:
            self.strides = [*self.strides, stride][-_LOOKS:]
            if len(self.strides) == _LOOKS:
                self.stride = max(self.stride, min(self.strides))
        is_left = layers[0].age <= _EARLY and growth > _LEFT
        # Some make shorter steps the more they have seen, as Adagrad does, and soon need no help.
        goes_on = stride > _SHORTENED * self.stride
        if is_left and goes_on and self.stride > self.usual_update:
            yield Evidence(
                where=layers[0].optimizer,
                measured=self.stride,
                limit=self.usual_update,
                message=f"each of {_LOOKS} steps has moved the usual layer by {self.stride:.0%} of "
                f"what it was to begin with, and now it is {growth:.1f} times as large; the limit "
                f"is {self.usual_update:.0%}",
                causes=("The learning rate is too high for the first steps",),
                fixes=("Lower the learning rate by 10 times", "Warm it up"),
            )

    def _bottomless(self, updates: SampledUpdates) -> Iterator[Evidence]:
        """Notes a look at the loss of each optimizer, and yields if it has no minimum."""
        for name, loss in updates.losses.items():
            layers = [one for one in updates.updates if one.optimizer == name]
            layers = [one for one in layers if one.kind == "matrix"]
            if not layers or not math.isfinite(loss):
                continue
            descent = self.descents.setdefault(name, [])
            descent.append([float(layers[0].age), loss])
            if len(descent) > _HISTORY[1]:
                del descent[::2]
            growth, limit = median(map(_growth, layers)), self.running_factor / 10
            is_falling = growth > limit and _falls_faster(descent)
            self.falls[name] = self.falls.get(name, 0) + 1 if is_falling else 0
            if self.falls[name] >= _LOOKS:
                yield Evidence(
                    where=layers[0].name,
                    measured=growth,
                    limit=limit,
                    message=f"the usual layer is {_short(growth)} times as large as before, and "
                    f"the loss falls faster and faster, to {loss:.3g}; the limit is {limit:g} "
                    "times where the loss is below zero",
                    details={"parameters": [one.name for one in layers]},
                )

    def _runs(self, one: Update) -> bool:
        """Notes a look at a parameter that has grown, and returns whether it runs away."""
        if one.kind == "embedding" or not math.isfinite(one.update):
            return False
        race = self.races.setdefault(one.name, [])
        race[:] = [*race, [one.weight, one.update]][-_LOOKS:]
        if _growth(one) < self.running_factor:
            del self.races[one.name]
            return False
        (weight, update), (last_weight, last_update) = race[0], race[-1]
        has_grown = all(before[0] < after[0] for before, after in itertools.pairwise(race))
        if len(race) < _LOOKS or not has_grown or not update or not last_update:
            return False
        rise = math.log(last_weight / weight)
        return rise > math.log(_RISE) and math.log(last_update / update) > _DEPENDS * rise


def _falls_faster(descent: Sequence[Sequence[float]]) -> bool:
    """Whether a loss below zero falls ever faster; to a bound it would fall ever more slowly.

    The last third of the steps is held against the one before.
    """
    if len(descent) < _HISTORY[0]:
        return False
    began, now = descent[0][0], descent[-1][0]
    first, middle, last = (
        median(loss for _, loss in sorted(descent, key=lambda one: abs(one[0] - age))[:3])
        for age in (began + (now - began) / 3, began + 2 * (now - began) / 3, now)
    )
    return last < 0 and middle - last > _FASTER * (first - middle) > 0


def _orphaned(orphans: Orphans, stale: int) -> Evidence:
    many = f"{len(orphans.parameters)} trainable parameters" if len(orphans.parameters) > 1 else ""
    what = many or "a trainable parameter"
    causes: tuple[str, ...]
    fixes: tuple[str, ...]
    if orphans.is_remade:
        return Evidence(
            where=orphans.name,
            measured="made anew",
            message=f"made anew in each of {orphans.steps} steps, with weights drawn at random: "
            "what it learns is thrown away with it",
            causes=("The layer is made in ``forward`` or in the step",),
            fixes=("Make it in ``__init__``, and keep it as an attribute",),
            details={"parameters": list(orphans.parameters)},
        )
    if orphans.is_hidden:
        seen = "in no optimizer: it is in a plain list, dict, function or attribute of the module"
        causes = (
            "``parameters()`` does not see what a plain list, dict, function or attribute holds",
        )
        fixes = (
            "Use ``nn.ModuleList``, ``nn.ModuleDict``, ``nn.ParameterList`` or ``nn.Parameter``",
        )
    elif stale:
        seen = f"in no optimizer, which holds {stale} that are not part of the module"
        causes = ("The layer was replaced after the optimizer had been made",)
        fixes = ("Make the optimizer in ``configure_optimizers``, of ``self.parameters()``",)
    elif orphans.is_unfrozen:
        seen = "in no optimizer, though unfrozen during the run"
        causes = ("The optimizer was made of what was trainable at the start",)
        fixes = ("``optimizer.add_param_group({'params': ...})`` when unfreezing",)
    else:
        seen = "in no optimizer"
        causes, fixes = (), ()
    return Evidence(
        where=orphans.name,
        measured="in no optimizer",
        message=f"{what} with gradients in {orphans.steps} steps, {seen}",
        causes=causes,
        fixes=fixes,
        details={"parameters": list(orphans.parameters)},
    )


def _faulty(fault: Fault) -> Evidence:
    n = fault.batches
    told = {
        "twice": (
            f"in {n} of {n} batches it applies the gradient that {fault.other} has applied already",
            "Parameters are in two optimizers, which both step after one backward",
            "Give each parameter to one optimizer",
        ),
        "opposed": (
            f"in {n} of {n} batches it moves what {fault.other} holds the other way",
            "It was given ``self.parameters()``, and trains the adversary to lose",
            "Give each optimizer the parameters of its own net",
        ),
        "starved": (
            f"in {n} of {n} steps it has no gradients; they are there when {fault.other} steps",
            "The optimizers are swapped: each holds the parameters of the other's loss",
            "Step each optimizer right after the backward of its own loss",
        ),
        "idle": (
            f"in {n} batches it has not stepped once, though gradients come",
            "``optimizer.step()`` is missing in manual optimization",
            "Call ``self.optimizers().step()`` after ``self.manual_backward(loss)``",
        ),
    }
    seen, cause, fix = told[fault.kind]
    return Evidence(fault.optimizer, fault.kind, message=seen, causes=(cause,), fixes=(fix,))


# What parts replicas, and how to keep them together, by what DDP does for the parameter.
_PARTINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "hidden": (
        ("It is in a plain list, dict or attribute of the module: DDP does not know of it",),
        ("Use ``nn.ModuleList``, ``nn.ModuleDict``, ``nn.ParameterList`` or ``nn.Parameter``",),
    ),
    "added": (
        ("It was made after DDP had been set up, which then does not average its gradients",),
        ("Make it in ``__init__``, ``setup`` or ``configure_model``",),
    ),
    "unfrozen": (
        ("It was frozen when DDP was set up, and unfrozen later: its gradients stay local",),
        (
            "Unfreeze it before DDP is set up: in ``setup``",
            "Hold it back by a learning rate of 0 instead of ``requires_grad_(False)``",
        ),
    ),
    "synced": ((), ()),
}


def _apart(one: Replica) -> float:
    return max(_ALIKE, _ROUNDINGS * one.rounding)


def _is_excused(one: Update) -> bool:
    """Whether a weight has a reason not to move: a number at its bound, or too low a rate.

    Both LRN102 and LRN103 have an eye on rates that even float32 rounds away.
    """
    step = (one.rate or 0.0) * max(1.0, one.gradient or 0.0)
    is_drowned = not one.update and one.rounding < _SINGLE and step < 10 * one.rounding * one.weight
    return one.numel == 1 or one.rate == 0 or is_drowned


def _unchanging(one: Update) -> tuple[str, ...]:
    if one.update:
        return ("Somebody writes the old values back after each step",)
    if one.rounding > _SINGLE:
        return ("The weights are in half precision, which rounds each small update away",)
    return ("The optimizer is one of your own, and skips them",)


def _stalling(one: Update) -> tuple[str, ...]:
    if one.weight > 10 * _default(one):
        return ("The layer is initialized far too large for its learning rate",)
    return (f"The learning rate of this group, {_rate(one)}, is wrong by orders of magnitude",)


def _default(one: Update) -> float:
    return 1 / (3 * math.sqrt(one.fan_in))


def _scale(one: Update) -> float:
    """What the weights are to begin with, or would be if they had not been zero."""
    return max(one.start, _default(one))


def _usual_gradient(updates: Sequence[Update]) -> float:
    """Returns the norm of the gradient of the usual matrix, and of the first, to the largest one.

    The larger of the two, since shortcuts bring it to the first. Of the very first step alone:
    later on, weights are not what they were initialized to.
    """
    norms = {one.name: (one.gradient or 0.0) * math.sqrt(one.numel) for one in updates}
    layers = [norms[one.name] for one in updates if one.kind == "matrix" and not one.age]
    reached = [one for one in layers if one]
    if len(reached) < _DEEP or not all(map(math.isfinite, norms.values())):
        return 1.0
    return max(median(reached), reached[0]) / max(norms.values())


def _growth(one: Update) -> float:
    return one.weight / _scale(one)


def _are_exchanged(betas: Sequence[float]) -> bool:
    """Whether a gradient counts for many steps after its square has been forgotten."""
    return len(betas) == 2 and betas[0] >= _LASTING and 5 * (1 - betas[0]) < 1 - betas[1]  # noqa: PLR2004


def _oddities(group: Settings) -> Iterator[tuple[str, str]]:
    """Yields what is odd, and what would be usual."""
    is_adaptive = len(group.betas) == 2  # noqa: PLR2004
    if group.weight_decay and is_adaptive and group.is_torchs and not group.decouples:
        yield (
            f"{group.kind} divides its weight_decay={group.weight_decay:g} by the gradient's size",
            "Use ``AdamW``, which decays all weights alike",
        )
    if group.weight_decay and not group.is_usual and 0 < group.decayed < group.parameters:
        yield (
            f"weight_decay={group.weight_decay:g} also pulls {group.decayed} biases and norms to 0",
            "Put them in a group with ``weight_decay=0``",
        )
    if group.eps is not None and is_adaptive and not _HARD_EPS <= group.eps < _SOFT_EPS:
        yield f"eps={group.eps:g} is no rounding guard", "Set ``eps=1e-8``"
    if is_adaptive and group.betas[0] > group.betas[1]:
        yield (
            f"betas={group.betas} average the gradient for longer than its square",
            "Set ``betas=(0.9, 0.999)``",
        )
    if is_adaptive and group.is_torchs and (group.rate or 0.0) >= 1.0:
        yield f"{group.kind} with lr={group.rate:g}", "Set a learning rate near 1e-3"
    if group.momentum >= 1.0:
        yield f"momentum={group.momentum:g} never forgets", "Set ``momentum=0.9``"
    if group.momentum and _DAMPED <= group.dampening < 1:
        yield (
            f"dampening={group.dampening:g} leaves {1 - group.dampening:.2g} of each step",
            "Leave ``dampening`` at 0, or raise the learning rate by as much",
        )
    if group.left < _DECAYED:
        yield (
            f"lr_decay leaves {group.left:.1%} of the learning rate when the run ends",
            "Leave ``lr_decay`` at 0: Adagrad shortens its steps by itself",
        )


def _these(ones: Sequence[Update | Weight | Replica]) -> str:
    rest = len(ones) - 1
    return ones[0].name if not rest else f"{ones[0].name} and {rest} other{'s' * (rest > 1)}"


def _are(ones: Sequence[Update | Weight]) -> str:
    return f"{_these(ones)} {'are' if len(ones) > 1 else 'is'}"


def _rate(one: Update) -> str:
    return f"{one.rate:g}" if one.rate is not None else "found by the optimizer"


def _decade(share: float) -> str:
    return f"{10 ** math.ceil(math.log10(100 * share)):,}"


def _short(number: float) -> str:
    """46415.9 -> 46,000."""
    return f"{float(f'{number:.2g}'):,.0f}" if 10.0 <= number < 1e7 else f"{number:.2g}"  # noqa: PLR2004
