"""NaN and infinity: the first one, and the operation it came from."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..core.detector import Detector, rule, threshold, vital
from ..core.findings import Evidence, Severity
from ..core.measurements.autopsy import Autopsy
from ..core.measurements.precision import Magnitudes, ScalerSteps
from ..core.tracer import Culprit, TensorSummary
from .advice import advice

# Half precision ends here; beyond the other, the weights of a float32 run have diverged.
_HALF_LIMIT = 65504.0
_SINGLE_LIMIT = 1e15


class NonFiniteDetector(Detector):
    """Finds the first NaN or infinity in a run, and the operation that made it.

    A canary looks at the loss and at the gradients of biases and norms before every update, and at
    all gradients every ten. When it dies, the step is run again in a sandbox under a tracer that
    follows non-finite values back to their origin. Halting comes before the bad update.

    Args:
        headroom: The share of half precision's range (65504) that activations may fill.
        skipped_updates: How many updates in a row a GradScaler may skip; it needs about 16 to find
            its scale from the default of 65536.
        skipped_share: The share of all updates that it may skip, now and then, in the long run.
        skip_bad_steps: How many updates with non-finite gradients to leave out, on all ranks
            together, before the next one is an error. This changes the training; 0 leaves it be.
        repro_mb: The largest ``nan_repro.pt`` to write, in megabytes; 0 writes none.

    Logged:
        nndebug/nonfinite/scale: The scale of the GradScaler, if there is one.
    """

    headroom: float = threshold(default=0.5, source="IEEE 754-2019, binary16", maximum=1.0)
    skipped_updates: int = threshold(
        default=24, source="torch.amp.GradScaler: init_scale 2**16, backoff 0.5"
    )
    skipped_share: float = threshold(
        default=0.2, source="torch.amp.GradScaler: one in growth_interval=2000", maximum=1.0
    )
    skip_bad_steps: int = threshold(default=0, source="off: the observer changes nothing")
    repro_mb: float = threshold(default=512.0, source="a disk's worth of one checkpoint")

    @rule("NAN101", severity=Severity.ERROR)
    def non_finite_input(self, autopsy: Autopsy) -> Iterator[Evidence]:
        """The batch holds NaN or infinity, and it reached the loss.

        Why it matters:
            One bad value makes the loss, then every gradient, then every weight NaN.

        Likely causes:
            - missing values in the data, read as NaN
            - a division by a standard deviation of 0 when the features were normalized
            - a broken file or a failed augmentation

        How to fix:
            - clean the sample named here, or drop it in the dataset
            - fill missing values before they become tensors
            - normalize by std + 1e-8

        When it is fine:
            Never, if it reaches the loss: values that are masked out before are not reported.

        References:
            - feasibility: 50 of 50 planted causes named by replay
        """
        if autopsy.skipped or (culprit := autopsy.culprit) is None:
            return
        if culprit.kind == "input":
            (values,) = culprit.inputs[:1]
            first = f", the first at {list(culprit.first_bad)}" if culprit.first_bad else ""
            message = f"{_count(values)} in {values.dtype}{list(values.shape)}{first}"
            yield _evidence(culprit.name or "batch", message, autopsy)

    @rule(
        "NAN102",
        severity=Severity.ERROR,
        caused_by=["GRD101", "INP103", "LOS102", "LRN101", "NAN101", "UPD104"],
    )
    def non_finite_forward(self, autopsy: Autopsy) -> Iterator[Evidence]:
        """An operation of the forward pass made the loss NaN or infinite.

        Why it matters:
            The update that follows would make every weight NaN; nothing after it can be used.

        Likely causes:
            - a log, root, division or exponential outside of its domain
            - a learning rate so high that the activations have diverged

        How to fix:
            - keep the input of the named operation in its domain
            - clip the gradients, or lower the learning rate

        When it is fine:
            Infinite masks and distances that never reach the loss are not reported.

        References:
            - feasibility: 50 of 50 planted causes named by replay
        """
        if autopsy.skipped or not autopsy.in_loss:
            return
        if (culprit := autopsy.culprit) is None:
            if not autopsy.parameters:
                yield _unseen("loss", f"the loss is {autopsy.loss:g}", autopsy)
        elif culprit.kind in ("forward", "backward", "outside", "constant"):
            yield _operation(culprit, autopsy)

    @rule(
        "NAN103",
        severity=Severity.ERROR,
        caused_by=["NAN101", "NAN102", "GRD101", "INP103", "LOS102", "LRN101", "UPD104"],
    )
    def non_finite_gradient(self, autopsy: Autopsy) -> Iterator[Evidence]:
        """The loss is finite, but an operation of the backward pass spoilt a gradient.

        Why it matters:
            The loss looks healthy in this step; the weights are NaN after it.

        Likely causes:
            - a root, norm or power at 0, where its derivative is infinite
            - torch.where around an undefined value: the derivative still flows through

        How to fix:
            - add a small eps inside the root or the norm
            - make the input safe before the operation, not its result after it

        When it is fine:
            Overflow under a GradScaler, which then lowers its scale, is not reported.

        References:
            - feasibility: 50 of 50 planted causes named by replay
        """
        if autopsy.skipped:
            return
        culprit = autopsy.culprit
        if _came_by_gradient(autopsy):
            message = (
                "not finite, and neither is the optimizer's mean of its gradients: one of an "
                "earlier batch was not"
            )
            yield _evidence(autopsy.parameters[0], message, autopsy)
            return
        if autopsy.in_loss:
            return
        if autopsy.scaled and (culprit is None or culprit.overflow):
            return  # the scaler will find a smaller scale, or NAN106 tells that it does not
        if culprit is None:
            if not (autopsy.parameters or autopsy.statistics):
                where = autopsy.gradients[0] if autopsy.gradients else "gradients"
                yield _unseen(where, "the gradient is not finite", autopsy)
        elif culprit.kind in ("forward", "backward", "outside", "constant"):
            yield _operation(culprit, autopsy)

    @rule(
        "NAN104",
        severity=Severity.ERROR,
        caused_by=["GRD101", "LRN101", "NAN101", "NAN102", "NAN103"],
    )
    def non_finite_parameter(self, autopsy: Autopsy) -> Iterator[Evidence]:
        """A parameter or buffer is not finite itself: the last update, or other code, spoilt it.

        Why it matters:
            The gradients before the last update were finite, so this batch is not to blame.

        Likely causes:
            - an optimizer without eps that divides by a second moment of 0
            - a learning rate so high that the weights overflow
            - another callback, or a hook, that writes to the weights
            - a batch that was not finite: its update was left out, but batch norm has seen it

        How to fix:
            - give the optimizer an eps of 1e-8
            - lower the learning rate
            - load the last good checkpoint: this run cannot recover

        When it is fine:
            A buffer of -inf that masks is not reported.

        References:
            - feasibility: 50 of 50 planted causes named by replay
        """
        if autopsy.skipped or _came_by_gradient(autopsy):
            return
        if autopsy.statistics:
            yield _spoilt(autopsy)
        culprit = autopsy.culprit
        if culprit is not None and culprit.kind in ("parameter", "buffer"):
            where, values = culprit.name or culprit.kind, culprit.inputs[:1]
            message = f"{culprit.kind} with {_count(values[0])}" if values else culprit.kind
        elif culprit is None and autopsy.parameters:
            where, message = autopsy.parameters[0], "parameter that is not finite"
        else:
            return
        notes = (
            f"; its optimizer: {', '.join(autopsy.optimizer_notes)}"
            if autopsy.optimizer_notes
            else ""
        )
        causes: tuple[str, ...] = ()
        if any("exactly where" in note for note in autopsy.optimizer_notes):
            causes = ("the optimizer has no eps and divides by a second moment of 0",)
        yield _evidence(where, message + notes, autopsy, causes)

    @rule(
        "NAN105",
        severity=Severity.WARNING,
        patience=2,
        caused_by=["ACT103", "GRD101", "INP103", "LRN101", "UPD104"],
    )
    def near_overflow(self, magnitudes: Magnitudes) -> Iterator[Evidence]:
        """Activations have almost used up the range of their number format.

        Why it matters:
            The next larger batch overflows to infinity, and the step is lost or the loss is NaN.

        Likely causes:
            - half precision without a normalization between the layers
            - weights that have diverged

        How to fix:
            - use Trainer(precision="bf16-mixed"): bfloat16 reaches as far as float32
            - normalize before the named layer, or scale its output down
            - lower the learning rate

        When it is fine:
            A layer whose output is scaled down at once, as the logits of some losses are.

        References:
            - IEEE 754-2019: binary16 ends at 65504
        """
        for name, largest, kind in zip(
            magnitudes.modules, magnitudes.largest, magnitudes.formats, strict=True
        ):
            limit = self.headroom * _HALF_LIMIT if kind == "float16" else _SINGLE_LIMIT
            if largest > limit:
                message = (
                    f"the largest activation is {largest:.3g} in {kind}, the limit is {limit:.3g}"
                )
                yield Evidence(name, largest, limit, message)
                return  # what follows in the forward pass is its consequence

    @rule("NAN106", severity=Severity.WARNING, caused_by=["NAN105"])
    def skipped_steps(self, scaler: ScalerSteps) -> Iterator[Evidence]:
        """The GradScaler skips one update after the other, or a large part of all.

        Why it matters:
            A skipped update costs its whole step, without an error; if all are, nothing is learned.

        Likely causes:
            - gradients that are NaN whatever the scale
            - gradients too large for half precision
            - a GradScaler of your own, whose scale grows after a few steps

        How to fix:
            - use Trainer(precision="bf16-mixed")
            - leave the GradScaler's growth_interval at 2000
            - normalize the loss, by mean instead of sum for example
            - look for NAN103 in the same run

        When it is fine:
            A few skipped updates at the start and one every 2000 are how a GradScaler works.

        References:
            - torch.amp.GradScaler
        """
        if scaler.skipped >= self.skipped_updates:
            message = f"{scaler.skipped} updates skipped in a row, the scale is {scaler.scale:.3g}"
            yield Evidence(
                "GradScaler", float(scaler.skipped), float(self.skipped_updates), message
            )
        elif scaler.share > self.skipped_share:
            message = f"{scaler.share:.0%} of the last updates skipped, the scale is "
            message += f"{scaler.scale:.3g}; the limit is {self.skipped_share:.0%}"
            yield Evidence("GradScaler", scaler.share, self.skipped_share, message)

    @vital
    def scale(self, scaler: ScalerSteps) -> float:
        """The scale of the GradScaler."""
        return scaler.scale


def _came_by_gradient(autopsy: Autopsy) -> bool:
    """Whether a parameter was spoilt by a gradient that nobody has looked at."""
    kind = autopsy.culprit.kind if autopsy.culprit else "parameter"
    return autopsy.had_bad_gradients and kind == "parameter"


def _operation(culprit: Culprit, autopsy: Autopsy) -> Evidence:
    at = culprit.at
    op = f"backward of {culprit.node}" if culprit.node else culprit.op.strip("_")
    where = " · ".join(
        part
        for part in (culprit.module, f"{at.file.rpartition('/')[2]}:{at.line}" if at else "")
        if part
    )
    seen = "; ".join(_describe(one) for one in culprit.inputs) or "no tensor"
    code = f" in `{at.expression or at.code}`" if at else ""
    message = f"{op}{code} got {seen}"
    if not autopsy.in_loss and math.isfinite(autopsy.loss):
        message += "; the loss was still finite"
    found = advice(culprit)
    return _evidence(where or op, message, autopsy, (found.cause,), found.fixes)


def _unseen(where: str, message: str, autopsy: Autopsy) -> Evidence:
    if not autopsy.replayed:
        why = "the step could not be run again here"
    elif autopsy.exact:
        why = "run again, all operations were finite: a kernel or an extension made it"
    else:
        why = "run again, the step did not show it: it depends on state that cannot be put back"
    return _evidence(where, f"{message}; {why}", autopsy)


def _spoilt(autopsy: Autopsy) -> Evidence:
    more = f" and {len(autopsy.statistics) - 1} more" if len(autopsy.statistics) > 1 else ""
    return _evidence(
        autopsy.statistics[0],
        f"running statistics{more} that are not finite, while parameters and gradients are: in "
        "eval mode, the answer is NaN",
        autopsy,
        ("a batch that was not finite went through the net, and only its update was left out",),
        ("look at the batch before the net does", "load the last good checkpoint"),
    )


def _evidence(
    where: str,
    message: str,
    autopsy: Autopsy,
    causes: tuple[str, ...] = (),
    fixes: tuple[str, ...] = (),
) -> Evidence:
    if autopsy.modified:
        message += f"; the step has written to {', '.join(autopsy.modified)}"
    if autopsy.culprit is not None and autopsy.culprit.degraded:
        message += f" ({autopsy.culprit.degraded})"
    if autopsy.repro:
        fixes = (*fixes, f"run it again: python {autopsy.repro[:-3]}.py") if fixes else fixes
    details = {
        "culprit": autopsy.culprit.to_dict() if autopsy.culprit else None,
        "gradients": list(autopsy.gradients),
        "parameters": list(autopsy.parameters),
        "exact": autopsy.exact,
        "repro": autopsy.repro,
    }
    measured = autopsy.loss if math.isfinite(autopsy.loss) else str(autopsy.loss)
    return Evidence(where, measured, "finite", message, causes, fixes, details)


def _describe(one: TensorSummary) -> str:
    parts = [f"{one.name} {one.dtype}{list(one.shape)}".strip()]
    if one.min is not None and one.max is not None:
        parts.append(f"in [{one.min:.3g}, {one.max:.3g}]")
    if bad := _count(one):
        parts.append(f"with {bad}")
    elif one.zeros:
        parts.append(f"with {one.zeros} zeros" if one.zeros > 1 else "with a zero")
    return " ".join(parts)


def _count(one: TensorSummary) -> str:
    counts = [f"{number} {word}" for number, word in ((one.nan, "NaN"), (one.inf, "Inf")) if number]
    return " and ".join(counts)
