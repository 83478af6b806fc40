"""Gradients: do they arrive, and in a size that the optimizer can use?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median

from .core.detector import Detector, rule, state, threshold, vital
from .core.findings import Evidence, Severity
from .core.measurements.flow import GradientFlow
from .core.measurements.gradients import Gradients
from .core.measurements.losses import Loss
from .core.measurements.noise import GradientNoise
from .core.measurements.reach import Cut, Reach
from .core.measurements.zeroing import Zeroing

_SOURCE = "benchmarks/thresholds#gradient_flow"
_YOUNG = 95  # steps in which a deep net may well free itself, and most do,
_STUCK = 35  # or at least begin to: from here on the loss of those has left
_PLATEAU = 0.95  # this share of the first one
_FLOWS = 3  # looks in a row that the flow must be sick
_PATIENCE = 3  # times as long as the run is, for a signal that comes back
_HOPELESS = 10.0  # times smaller is enough, if it leaves the loss no hope
_LOOKS = 10  # looks in a row that a gradient must be too large, or clipped too much
_RECENT, _EARLIER, _HISTORY = 5, 20, 60  # looks that may be a jump, and before them: from, to
_ROUNDING = 1e-5  # of the usual elasticity; float32 keeps 1e-7 of what it adds up
_COMMON = 0.01  # of it, in a layer before
_FAINT = 25  # looks in a row
_TAKEN = (
    "What they give is added right before a norm that takes it away, as that of each channel",
    "Add it behind the norm, or let it scale and shift what the norm gives",
)
_STEPS = 5  # at least must have been watched before never is never
_MANY = 0.5  # of the steps that get an old gradient as well: those zero at other times
_BY_NORM = "Set ``gradient_clip_algorithm='norm'``, or clip at a typical entry of the gradient"


class GradientDetector(Detector):
    """Gradients: do they arrive, and in a size that the optimizer can use?

    Args:
        exploding_decades: A gradient explodes if a relative change of some weights may change the
            loss by this many powers of ten more, relatively,
        growing_decades: or if it grows by this many powers of ten from last layers to first ones,
        jumping_factor: or if, per loss, it stays this many times larger than it ever was.
        vanishing_decades: A gradient vanishes if it is this many powers of ten smaller in the first
            layers than where it is largest.
        varying_share: The signal is lost if less than this share of what the last layers get and
            give varies from sample to sample.
        clipping_factor: Clipping takes over if it makes each update this many times smaller.
        noise_factor: A batch does not fit if what its samples agree on in the gradient is this many
            times less, or more, than the noise that is left after averaging over them.

    Logged:
        norm: The norm of the gradients of the first optimizer, before clipping.
    """

    exploding_decades: float = threshold(default=2.3, source=_SOURCE)
    growing_decades: float = threshold(default=3.0, source=_SOURCE)
    jumping_factor: float = threshold(default=100.0, source=_SOURCE, minimum=1.0)
    vanishing_decades: float = threshold(default=2.5, source=_SOURCE)
    varying_share: float = threshold(default=0.01, source=_SOURCE, maximum=1.0)
    clipping_factor: float = threshold(default=100.0, source=_SOURCE, minimum=1.0)
    noise_factor: float = threshold(default=10.0, source="mccandlish2018empirical", minimum=1.0)

    scales: dict[str, float] = state(dict)
    histories: dict[str, list[dict[str, float]]] = state(dict)
    steepest: dict[str, str] = state(dict)
    flows: list[dict[str, float]] = state(list)
    began: float = state(float)
    squeezes: dict[str, list[float]] = state(dict)
    faint: dict[str, int] = state(dict)

    @vital
    def norm(self, gradients: Gradients) -> float | None:
        """The norm of the gradients of the first optimizer, before clipping."""
        return gradients.total if gradients.is_first else None

    @rule(
        "GRD101",
        severity=Severity.WARNING,
        caused_by=["ACT103", "GRD106", "INP103", "LOS109", "LRN101", "UPD104"],
    )
    def exploding_gradient(self, gradients: Gradients, loss: Loss) -> Iterator[Evidence]:
        """The gradient is so large that hardly any step along it is short enough.

        Why it matters:
            Where a tiny change of the weights changes the loss a lot, a gradient says nothing of
            the place that a step leads to. Training jumps about, stalls, or ends in NaN.

        Likely causes:
            - A recurrent net multiplies by the same large matrix at every time step
            - Weights are initialized too large, or attention logits are not scaled
            - Something is divided by, or a logarithm or root taken of, a number near 0

        How to fix:
            - Initialize smaller: orthogonal with gain 1 for recurrent weights, Kaiming for ReLU
            - Add norm layers, divide attention logits by sqrt(width), standardize the inputs
            - Clip: ``Trainer(gradient_clip_val=1.0)``

        When it is fine:
            Hardly ever. It is not judged by the norm, which has the units of the loss, but by how
            much the loss depends on the weights. A loss that can be negative has no scale, and is
            held against its own past alone.

        References:
            pascanu2013difficulty, bengio1994learning, glorot2010understanding
        """
        if gradients.loss is not loss or not math.isfinite(gradients.total):
            return
        history = self._remember(gradients)
        name, recent = gradients.optimizer, history[-_LOOKS:]
        excess = min(one["excess"] for one in recent)
        growth = min((one["growth"] for one in self.flows), default=0.0)
        jump = _jump(history)
        if len(recent) == _LOOKS and excess > self.exploding_decades:
            largest = gradients.steepest.name if gradients.steepest else name
            yield Evidence(
                where=self.steepest.setdefault(name, largest),
                measured=excess,
                limit=self.exploding_decades,
                message=f"1 % of change in these weights may change the loss by "
                f"{_percent(10**excess / 100)}, in {_LOOKS} looks in a row; the limit is "
                f"{_percent(10**self.exploding_decades / 100)}",
            )
        elif growth > self.growing_decades:
            yield Evidence(
                where=name,
                measured=growth,
                limit=self.growing_decades,
                message=f"it grows {_short(10**growth)} times from the last layers to the first; "
                f"the limit is {_short(10**self.growing_decades)} times",
            )
        elif jump > self.jumping_factor:
            yield Evidence(
                where=name,
                measured=jump,
                limit=self.jumping_factor,
                message=f"in {_RECENT} looks in a row it is {_short(jump)} times what it ever was, "
                f"and the loss is no lower; the limit is {_short(self.jumping_factor)} times",
            )

    @rule(
        "GRD102",
        severity=Severity.WARNING,
        caused_by=[
            "ACT102",
            "ACT103",
            "GRD104",
            "INP103",
            "INP204",
            "LOS102",
            "LRN101",
            "LRN102",
            "LRN103",
            "UPD104",
        ],
    )
    def vanishing_gradient(self, flow: GradientFlow, loss: Loss) -> Iterator[Evidence]:
        """The gradient dies on its way to the first layers, so they hardly learn.

        Why it matters:
            The first layers stay as they were initialized, and all others must make do with what
            random features let through. More depth makes the net worse.

        Likely causes:
            - Many layers of sigmoid or tanh, whose slopes multiply to almost nothing
            - Weights are initialized too small: every layer shrinks what it gets
            - A recurrent net is to remember what came many time steps ago
            - A deep plain net has neither shortcuts nor norm layers

        How to fix:
            - Replace ``Sigmoid`` and ``Tanh`` between layers by ``ReLU`` or ``GELU``
            - Initialize to keep the variance: ``kaiming_normal_`` for ReLU, ``xavier_normal_`` else
            - Add residual connections, and batch or layer norm

        When it is fine:
            The first layers are pretrained and need no more than a nudge. What frees itself within
            a hundred steps, a recurrent net that learns without the distant past, and branches
            behind a gate that is shut on purpose (zero-init, LayerScale, LoRA), do not fire.

        References:
            hochreiter1998vanishing, glorot2010understanding, he2015delving
        """
        flows = self._lately(flow, loss)
        decades = max(one["decades"] for one in flows)
        if self._explodes():
            return
        if (layer := flow.fading) is not None and self._forgets(flow):
            fading = max(one["fading"] for one in flows)
            yield Evidence(
                where=layer.name,
                measured=fading,
                limit=-self.vanishing_decades,
                message=f"it is {_short(10**-fading)} times smaller at the first time steps than "
                f"where it is largest, and the loss has stayed; the limit is "
                f"{_short(10**self.vanishing_decades)} times",
                causes=("What happened so many time steps ago is multiplied away on its way back",),
                fixes=(
                    "Use an LSTM or GRU; start its forget gate open, with a bias of 1 or more",
                    "Shorten the way: attention, pooling over time, shorter sequences",
                ),
            )
        if self._is_young(flow) or decades >= -self.vanishing_decades:
            return
        first, *others = flow.reached
        largest = max(others, key=lambda one: one.gradient or 0.0)
        ratio = (largest.gradient or 0.0) / (first.gradient or 1.0)
        yield Evidence(
            where=first.name,
            measured=decades,
            limit=-self.vanishing_decades,
            message=f"it is {_short(ratio)} times smaller than at {largest.name}; "
            f"the limit is {_short(10**self.vanishing_decades)} times",
            details={"gradients": {one.name: one.gradient for one in flow.reached}},
        )

    @rule(
        "GRD103",
        severity=Severity.ERROR,
        caused_by=["ACT101", "LOS107", "MOD104", "STR105", "UPD104"],
    )
    def missing_gradient(self, reach: Reach | Gradients) -> Iterator[Evidence]:
        """These parameters take part in each step, but no gradient ever comes to them.

        Why it matters:
            The optimizer was given them, the forward uses them, and they will stay as they were
            initialized for ever. Nothing fails: the rest of the net learns around them.

        Likely causes:
            - ``detach()``, ``.data``, ``.item()``, ``torch.tensor(x)`` or numpy in the forward
            - A forward under ``torch.no_grad()``
            - A step without a slope: ``argmax``, ``round``, ``sign``, a comparison
            - A term is missing in the loss, or a connection in the net
            - What they give is added to whole channels right before a norm that takes the mean of
              each away: all that comes back is rounding

        How to fix:
            - Remove what cuts the graph between these parameters and the loss
            - If they are meant to be frozen: ``requires_grad_(False)``, and not in the optimizer

        When it is fine:
            They are trained by other means. What the loss does not depend on is reported only if it
            is called all the same, for half of the run: no idle expert, no head for later, no term
            with weight 0. Nor are averages of other parameters, or modules that run in eval mode
            without gradients.

        References:
            paszke2019pytorch
        """
        if isinstance(reach, Gradients):
            yield from self._rounded(reach)
            return
        for cut in reach.cuts:
            yield Evidence(
                where=cut.name,
                measured="exactly 0" if cut.is_zero else "none",
                message=_told(cut),
                causes=_causes(cut),
                details={"parameters": list(cut.parameters)},
            )

    @rule(
        "GRD104",
        severity=Severity.WARNING,
        caused_by=["ACT101", "ACT102", "ACT103", "GRD102", "INP101", "INP103", "LRN101", "UPD104"],
    )
    def lost_signal(self, flow: GradientFlow, loss: Loss) -> Iterator[Evidence]:
        """What the last layers get is the same for every sample: the input is lost on the way.

        Why it matters:
            The net can learn no more than a constant, and nothing in the gradients tells.

        Likely causes:
            - A recurrent net forgets: the input came many time steps before the output that is used
            - Weights are initialized too small, so that biases outweigh the signal
            - A pooling takes the mean over much more than the signal
            - Blocks of a transformer do not add what they were given: attention makes all alike

        How to fix:
            - Shorten the way: pool over time instead of taking the last step, or add attention
            - Use an LSTM with a forget bias of 1, or orthogonal recurrent weights
            - Add residual connections or norm layers

        When it is fine:
            The output is not meant to depend on the input yet. Samples that are all alike, and the
            offset of the output layer, are not counted.

        References:
            hochreiter1998vanishing, schoenholz2017deep, poole2016exponential
        """
        flows, before = self._lately(flow, loss), flow.signal_before or 0.0
        if told := self._alike(flow):
            yield told
        signal = max(one["signal"] for one in flows)
        is_lost = signal < self.varying_share and before >= 5 * self.varying_share
        if self._is_young(flow) or not is_lost or _comes_back(flows, "signal", self.varying_share):
            return
        if max(one["decades"] for one in flows) < -self.vanishing_decades or self._explodes():
            return  # the gradient is the cause that can be treated
        first, *_, last = flow.layers
        yield Evidence(
            where=last.name,
            measured=signal,
            limit=self.varying_share,
            message=f"{_percent(signal)} of what it gets and gives varies between samples, after "
            f"{_percent(before)} at {first.name}; the limit is {_percent(self.varying_share)}",
            details={"varying": {one.name: one.out_of for one in flow.layers}},
        )

    @rule("GRD105", severity=Severity.WARNING, caused_by=["GRD101", "INP103", "LRN101", "UPD104"])
    def always_clipped(self, gradients: Gradients) -> Iterator[Evidence]:
        """Clipping does not do what it is for: it shrinks every update, or none.

        Why it matters:
            Clipping is a safety net for rare steps. If it shrinks all of them by a large factor, it
            is the learning rate, and may be too low a one for as many steps as are planned; if it
            comes before the backward or after the step, there is no net.

        Likely causes:
            - The limit has other units than the gradient: targets or inputs are not scaled
            - The loss is a sum over samples, pixels or tokens rather than a mean
            - The limit was meant for the other algorithm, by norm or by value, or another model

        How to fix:
            - Standardize inputs and targets, or take the mean of the loss
            - Set ``gradient_clip_val`` to a typical norm: see ``nndebug/gradients/norm``

        When it is fine:
            Normalized gradient descent on purpose. A gradient that is a few times too long at every
            step is healthy, and optimizers of Adam's kind do not care for its length at all: for
            them only a clipped gradient that drowns in their ``eps`` counts.

        References:
            pascanu2013difficulty, zhang2020why
        """
        if gradients.clipped_early:
            yield Evidence(
                where="training_step",
                measured=gradients.clipped_early,
                message=f"{gradients.clipped_early} clips nothing: Lightning goes backward when "
                "training_step has returned",
                causes=("The loop was taken over from plain PyTorch",),
                fixes=("Remove the call, and set ``Trainer(gradient_clip_val=...)``",),
            )
        if gradients.clipped_late:
            yield Evidence(
                where="training_step",
                measured=gradients.clipped_late,
                message=f"{gradients.clipped_late} clips nothing: the step was made before it, and "
                "the gradients are zeroed before the next one",
                causes=("Two lines are in the wrong order",),
                fixes=("Clip between the backward and the step",),
            )
        if (squeeze := _squeeze(gradients)) is None:
            return
        seen = self.squeezes.setdefault(gradients.optimizer, [])
        seen[:] = [*seen, squeeze][-_EARLIER - _LOOKS :]
        least = min(seen[-_LOOKS:])
        prospect, limit, left = _prospect(gradients), self.clipping_factor, ""
        if prospect < 1.0 < prospect * least / 2:
            limit = _HOPELESS
            left = f", which leaves {_percent(prospect)} of the loss to fall in all planned steps"
        # In the first looks a gradient is often long, and soon no more.
        if len(seen) > _EARLIER and least > limit:
            norm, clip = _short(gradients.total), f"{gradients.clip:.3g}"
            clipping = f"clipping a norm of {norm} to {clip}"
            if gradients.is_clipped_by_value:
                clipping = f"clipping each number leaves at most {clip} of a norm of {norm}, and"
            yield Evidence(
                where=gradients.optimizer,
                measured=least,
                limit=limit,
                message=f"{clipping} makes updates {_short(least)} times smaller, in {_LOOKS} "
                f"looks in a row{left}; the limit is {_short(limit)} times",
                fixes=(_BY_NORM,) if gradients.is_clipped_by_value else (),
            )

    @rule("GRD106", severity=Severity.ERROR)
    def never_zeroed(self, zeroing: Zeroing) -> Iterator[Evidence]:
        """Gradients are zeroed never, or too early: the optimizer does not get those it should.

        Why it matters:
            Without zeroing, each step follows the sum of all gradients since the beginning, which
            is momentum without end: the loss overshoots and diverges. Zeroed between backward and
            step, there is nothing to follow at all; zeroed in each batch, nothing accumulates.

        Likely causes:
            - ``optimizer.zero_grad()`` is missing in manual optimization
            - ``optimizer_zero_grad`` is overridden and does not zero, or not for every step
            - ``zero_grad()`` zeroes another optimizer or another module

        How to fix:
            - Call ``optimizer.zero_grad()`` before ``self.manual_backward(loss)``, for every step
            - To accumulate, call it after ``optimizer.step()`` alone, not in every batch

        When it is fine:
            You carry gradients over from step to step on purpose. Accumulating over several batches
            before one step, and leftovers that are zeroed before the next backward, do not fire.

        References:
            paszke2019pytorch
        """
        for one in zeroing.optimizers:
            if one.steps >= _STEPS and one.carried == one.steps:
                yield Evidence(
                    where=one.optimizer,
                    measured="never",
                    message=f"in {one.steps} of {one.steps} steps the gradient was added to that"
                    " of the step before",
                )
            elif one.steps >= _STEPS and one.carried >= _MANY * one.steps:
                yield Evidence(
                    where=one.optimizer,
                    measured="too seldom",
                    message=f"in {one.carried} of {one.steps} steps the gradient was added to that"
                    " of the step before, and in the others it was not",
                    causes=("Gradients are zeroed at some batches, and every batch steps",),
                    fixes=(
                        "Zero them for every step",
                        "To accumulate, leave both to ``Trainer(accumulate_grad_batches=...)``",
                    ),
                )
            elif one.steps >= _STEPS and one.lost == one.steps:
                yield Evidence(
                    where=one.optimizer,
                    measured="too early",
                    message=f"in {one.steps} of {one.steps} steps a gradient came, and was gone"
                    " when the optimizer stepped",
                    causes=("``zero_grad()`` is called between backward and step",),
                    fixes=(
                        "Keep the order: ``zero_grad()``, ``manual_backward(loss)``, ``step()``",
                    ),
                )
            elif one.steps >= _STEPS and one.discarded == one.steps:
                yield Evidence(
                    where=one.optimizer,
                    measured="too often",
                    message=f"in {one.steps} of {one.steps} steps only the gradient of the last"
                    " batch was left, of several that came since the step before",
                    causes=("``zero_grad()`` is called in every batch, and ``step()`` is not",),
                    fixes=("Call ``zero_grad()`` right after ``step()``, and nowhere else",),
                )

    @rule("GRD107", severity=Severity.INFO)
    def noisy_gradient(self, noise: GradientNoise) -> Iterator[Evidence]:
        """The batch of an update is far smaller, or far larger, than its gradient has use for.

        Why it matters:
            The gradient noise scale says how many samples average their differences away. A batch
            far below it takes steps that are mostly chance; far above it, twice the samples make
            hardly a better step. It is known where an update accumulates several batches.

        Likely causes:
            - The batch is as large as memory allows, or as small, not as large as is of use
            - The labels are noisy, or the loss is as low as they let it be

        How to fix:
            - Change ``accumulate_grad_batches`` or the batch size
            - Against noise, a smaller learning rate does the same as a larger batch

        When it is fine:
            Time or memory matter more to you than the number of samples. Late in training the noise
            scale grows by itself.

        References:
            mccandlish2018empirical
        """
        least, most = noise.signal - 2 * noise.error, noise.signal + 2 * noise.error
        most_noise, least_noise = (
            noise.noise + sign * 2 * noise.noise_error for sign in (1.0, -1.0)
        )
        if most * self.noise_factor < least_noise:
            yield Evidence(
                where=noise.optimizer,
                measured=most / least_noise,
                limit=1 / self.noise_factor,
                message="too small: of the squared gradient of an update, at most "
                f"{_percent(max(0.0, most) / least_noise)} of what is noise is signal; the limit "
                f"is {_percent(1 / self.noise_factor)}",
            )
        elif least > self.noise_factor * max(most_noise, 0.0):
            yield Evidence(
                where=noise.optimizer,
                measured=least / max(most_noise, 1e-30),
                limit=self.noise_factor,
                message=f"too large: its noise is {_short(least / max(most_noise, 1e-30))} times "
                f"less than its signal, and the limit is {_short(self.noise_factor)}; half the "
                "samples would make nearly the same step",
                fixes=("Accumulate fewer batches, or make them smaller",),
            )

    def _alike(self, flow: GradientFlow) -> Evidence | None:
        """Tells of attention that has nothing to choose from, as the first layer of it had."""
        shares = [share for _, share in flow.choices]
        alike = max(one["choice"] for one in self.flows)
        if not shares or flow.age < _STUCK or _comes_back(self.flows, "choice", self.varying_share):
            return None
        if alike >= self.varying_share or shares[0] < 5 * self.varying_share or self._explodes():
            return None
        line, share = flow.choices[-1]
        return Evidence(
            where=str(line) if line else "attention",
            measured=alike,
            limit=self.varying_share,
            message=f"{_percent(share)} of what the last of {len(shares)} layers of attention is "
            f"given varies between positions, after {_percent(shares[0])} at the first; the limit "
            f"is {_percent(self.varying_share)}",
            causes=(
                "Blocks return what attention says, and do not add it to what they were given",
            ),
            fixes=("Add it: ``x = x + attention(norm(x))``",),
        )

    def _rounded(self, gradients: Gradients) -> Iterator[Evidence]:
        """Weights whose gradient is what rounding leaves of zero, between others that learn."""
        matrices = [one for one in gradients.parameters if one.is_matrix and one.elasticity]
        usual = median(one.elasticity for one in matrices) if len(matrices) > 2 else 0.0  # noqa: PLR2004
        faint = []
        for number, one in enumerate(matrices):
            # Where a gradient dies on its way, the layers before get even less.
            is_between = any(it.elasticity > _COMMON * usual for it in matrices[:number])
            is_faint = one.elasticity < _ROUNDING * usual and is_between
            self.faint[one.name] = self.faint.get(one.name, 0) + 1 if is_faint else 0
            if self.faint[one.name] >= _FAINT:
                faint.append(one)
        if faint:
            most = max(one.elasticity for one in faint) / usual
            yield Evidence(
                where=faint[0].name,
                measured=most,
                limit=_ROUNDING,
                message=f"the loss depends on {faint[0].name}"
                + (f" and {len(faint) - 1} more" if len(faint) > 1 else "")
                + f" no more than {most:.0e} times as much as on the usual layer: that is rounding",
                causes=_TAKEN[:1],
                fixes=_TAKEN[1:],
                severity=Severity.WARNING,
                details={"parameters": [one.name for one in faint]},
            )

    def _remember(self, gradients: Gradients) -> Sequence[dict[str, float]]:
        """Notes a look, and returns the history of its optimizer."""
        name, loss = gradients.optimizer, gradients.objective
        # A loss that can be negative has no scale: nothing exceeds it.
        scale = math.inf if loss <= 0.0 else max(loss, self.scales.get(name, 0.0))
        self.scales[name] = scale
        history = self.histories.setdefault(name, [])
        reached = sum(bool(one.norm) for one in gradients.parameters)
        if history and reached > max(one["reached"] for one in history):
            history.clear()  # something was unfrozen, or is used for the first time
        ratio = (
            gradients.steepest.elasticity / max(loss, 0.1 * scale) if gradients.steepest else 0.0
        )
        look = {
            "norm": gradients.total,
            "loss": loss,
            "reached": reached,
            "excess": math.log10(ratio) if ratio > 0.0 else -math.inf,
        }
        history[:] = [*history, look][-_HISTORY:]
        return history

    def _explodes(self) -> bool:
        """Whether the last look at any optimizer says that its gradient explodes."""
        last = [history[-1]["excess"] for history in self.histories.values() if history]
        return max(last, default=-math.inf) > self.exploding_decades

    def _is_young(self, flow: GradientFlow) -> bool:
        """Whether it is too early to tell: sooner not, where the loss has not moved at all."""
        is_stuck = min(one["loss"] for one in self.flows) > _PLATEAU * self.began > 0
        return flow.age < (_STUCK if is_stuck else _YOUNG)

    def _forgets(self, flow: GradientFlow) -> bool:
        """Whether nothing is learned from the past: many do without it, and their loss falls."""
        is_stuck = min(one["loss"] for one in self.flows) > _PLATEAU * self.began > 0
        fading = max(one["fading"] for one in self.flows)
        return flow.age >= _YOUNG and is_stuck and fading < -self.vanishing_decades

    def _lately(self, flow: GradientFlow, loss: Loss) -> Sequence[dict[str, float]]:
        """Notes a look at the flow, and returns the last ones; all is well before the first."""
        well = {"age": -1.0, "decades": 0.0, "signal": 1.0, "growth": 0.0, "fading": 0.0}
        well["choice"] = 1.0
        well["loss"] = loss.value
        self.began = self.began or loss.value
        self.flows = self.flows or [well] * _FLOWS
        if self.flows[-1]["age"] != flow.age:
            seen = {"decades": flow.decades, "signal": flow.signal, "growth": flow.growth}
            seen |= {"fading": flow.fading.fading if flow.fading else None}
            seen |= {"choice": flow.choices[-1][1] if flow.choices else None}
            known = {name: value for name, value in seen.items() if value is not None}
            self.flows = [*self.flows[1:], {**well, **known, "age": float(flow.age)}]
        return self.flows


def _comes_back(flows: Sequence[dict[str, float]], what: str, limit: float) -> bool:
    """Whether a signal, growing as it does, reaches the limit before long."""
    first, last = flows[0], flows[-1]
    if not 0 < first[what] < last[what]:
        return False
    pace = math.log(last[what] / first[what]) / (last["age"] - first["age"])
    return math.log(limit / last[what]) < _PATIENCE * pace * last["age"]


def _jump(history: Sequence[dict[str, float]]) -> float:
    """Returns how many times what it ever was the norm is, per loss; 0 if that means nothing.

    Where the loss has fallen, a plateau was left; where it has grown as much, the run diverges.
    """
    earlier, recent = history[:-_RECENT], history[-_RECENT:]
    if len(earlier) < _EARLIER:
        return 0.0
    usual = median(abs(one["loss"]) for one in earlier)
    has_fallen = median(one["loss"] for one in recent) < median(one["loss"] for one in earlier)
    if has_fallen or not usual:
        return 0.0
    before, now = (
        [one["norm"] / max(abs(one["loss"]), 0.1 * usual) for one in part]
        for part in (earlier, recent)
    )
    return min(now) / max(before) if max(before) else 0.0


def _squeeze(gradients: Gradients) -> float | None:
    """Returns how many times smaller clipping makes the update; None if that cannot be known.

    An optimizer that divides a gradient g by its own size plus eps makes g / (g + eps) of it.
    """
    clip, eps, total = gradients.clip, gradients.eps, gradients.total
    if clip is None or eps is None or not math.isfinite(total):
        return None
    factor = max(1.0, total / clip)
    if math.isinf(eps) or not total:
        return factor
    size = total / math.sqrt(gradients.entries)
    return (size + factor * eps) / (size + eps)


def _prospect(gradients: Gradients) -> float:
    """Returns by which share of itself the loss may fall in all planned steps, as they are clipped.

    Along the gradient, as it is now; inf where that is not known.
    """
    objective, stride, clip = gradients.objective, gradients.stride, gradients.clip
    if stride is None or clip is None or not objective > 0.0:
        return math.inf
    return stride * clip * gradients.total / objective


_STRAND = (
    "``h[0]`` is the state of the first layer, and ``h[-1]`` that of one direction of the last: "
    "take ``h[-1]`` of stacked layers, and ``h[-2:]`` of two directions"
)


def _told(cut: Cut) -> str:
    if cut.is_discarded and cut.is_strand:
        return f"computed in {cut.steps} steps, but the loss does not depend on this layer"
    if cut.is_discarded:
        return f"called, but no gradient in {cut.steps} steps: the loss does not depend on it"
    gradient = "a gradient of exactly 0" if cut.is_zero else "no gradient"
    changes = "breaks" if math.isinf(cut.change) else f"changes by {_percent(cut.change)}"
    return f"{gradient} in {cut.steps} steps, though the loss {changes} when they are moved"


def _causes(cut: Cut) -> tuple[str, ...]:
    if cut.is_strand and cut.is_discarded:
        return (_STRAND,)
    if cut.no_grad:
        return ("It runs under ``torch.no_grad()`` or ``torch.inference_mode()``",)
    if cut.is_discarded:
        return ("What it returns is used nowhere: a term of the loss, or a connection, is missing",)
    if cut.is_zero:
        return (
            "A step without a slope follows: ``round``, ``sign``, ``floor``, a far ``clamp``",
            "The units that follow are dead or saturated for every sample",
        )
    return (
        "``detach()``, ``.data``, ``.item()``, ``torch.tensor(x)`` or numpy follows",
        "``argmax`` or a comparison follows, which have no gradient",
    )


def _percent(share: float) -> str:
    return f"{_short(100 * share)} %"


def _short(number: float) -> str:
    """46415.9 -> 46,000."""
    return f"{float(f'{number:.2g}'):,.0f}" if 10.0 <= number < 1e7 else f"{number:.2g}"  # noqa: PLR2004
