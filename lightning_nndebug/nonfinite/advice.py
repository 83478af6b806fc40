"""What to say of an operation that made a NaN or an infinity: why, and what to try."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..core.tracer import Culprit, TensorSummary

# Beyond this, whatever overflows is a consequence: the weights or activations have diverged.
_DIVERGED = 1e15


@dataclass(frozen=True)
class Advice:
    """Why it happened, and what to try."""

    cause: str
    fixes: tuple[str, ...]


def advice(culprit: Culprit) -> Advice:
    """Returns the advice for an operation, from its name and the values that it got."""
    diverged = _largest(culprit.inputs) > _DIVERGED and not any(
        abs(value) > _DIVERGED for value in culprit.scalars.values()
    )
    if culprit.overflow and not diverged:
        return Advice(culprit.overflow, _overflow_fixes(culprit))
    if diverged:
        return Advice(
            "the values that came in are beyond 1e15: weights or activations have diverged before",
            (
                "lower the learning rate",
                "clip the gradients: Trainer(gradient_clip_val=1.0)",
                "warm the learning rate up",
            ),
        )
    for matches, found in _TABLE:
        if matches(culprit):
            return found
    return Advice(
        "the operation is not defined for these values", ("keep its input away from them",)
    )


def _overflow_fixes(culprit: Culprit) -> tuple[str, ...]:
    formats = {one.dtype for one in (*culprit.inputs, *culprit.outputs)}
    if formats & {"float16", "bfloat16"}:
        return (
            "compute this line in float32: torch.autocast(device_type, enabled=False)",
            "scale its input down",
            'use Trainer(precision="bf16-mixed"): bfloat16 reaches as far as float32',
        )
    if culprit.op.startswith("exp") or "exp" in culprit.op:
        return ("use torch.logsumexp, log_softmax or softplus instead of exp", "clamp its input")
    return ("scale the input of this line down", "normalize before it", "lower the learning rate")


def _largest(inputs: tuple[TensorSummary, ...]) -> float:
    ends = [abs(end) for one in inputs for end in (one.min, one.max) if end is not None]
    return max(ends, default=0.0)


def _op(*names: str) -> Callable[[Culprit], bool]:
    def matches(culprit: Culprit) -> bool:
        op = culprit.op.strip("_")
        return any(op == name or op.startswith(f"{name}_") for name in names)

    return matches


def _node(*names: str) -> Callable[[Culprit], bool]:
    def matches(culprit: Culprit) -> bool:
        return culprit.node is not None and any(culprit.node.startswith(name) for name in names)

    return matches


def _masked(culprit: Culprit) -> bool:
    """A softmax whose row is -inf throughout."""
    return _op("softmax", "log_softmax", "safe_softmax", "scaled_dot_product")(culprit) and (
        culprit.contributor is not None or any(one.inf for one in culprit.inputs)
    )


def _where_trap(culprit: Culprit) -> bool:
    """A gradient of 0 out of ``where`` meets an infinite derivative: 0 * inf, or 0 / 0."""
    return (
        culprit.node is not None and _op("mul", "div")(culprit) and culprit.values.get("self") == 0
    )


def _infinities_meet(culprit: Culprit) -> bool:
    """Infinity minus infinity: a mask minus its own maximum."""
    return _op("sub", "add", "rsub")(culprit) and (
        culprit.contributor is not None or sum(one.inf for one in culprit.inputs) > 0
    )


def _kind(kind: str) -> Callable[[Culprit], bool]:
    def matches(culprit: Culprit) -> bool:
        return culprit.kind == kind

    return matches


_EPS = "add a small eps inside: "
_TABLE: tuple[tuple[Callable[[Culprit], bool], Advice], ...] = (
    (
        _kind("outside"),
        Advice(
            "it was there before PyTorch saw it: in an attribute, or made by numpy or an extension",
            ("check it with torch.isfinite where it enters", "look at the code that computes it"),
        ),
    ),
    (
        _kind("constant"),
        Advice(
            "the code itself writes a value that is not finite, and nothing masks it",
            ("write a large finite number instead: torch.finfo(x.dtype).min", "check the mask"),
        ),
    ),
    (
        _where_trap,
        Advice(
            "torch.where drops the bad value, but its derivative comes back as 0 * inf",
            ("make the input safe before the operation: f(torch.where(ok, x, 1.0))",),
        ),
    ),
    (
        _infinities_meet,
        Advice(
            "infinity minus infinity: a mask of -inf met its own maximum",
            ("mask with torch.finfo(x.dtype).min instead of -inf", "mask after the subtraction"),
        ),
    ),
    (
        _masked,
        Advice(
            "every entry of a softmax's row is masked with -inf: 0 divided by 0",
            (
                "leave at least one entry of each row unmasked",
                "replace the row after the softmax: nan_to_num",
            ),
        ),
    ),
    (
        _node("Sqrt"),
        Advice("the derivative of sqrt at 0 is infinite", (_EPS + "sqrt(x + 1e-8)",)),
    ),
    (
        _node("Norm", "LinalgVectorNorm", "CdistBackward", "EuclideanDist"),
        Advice(
            "the derivative of a norm at the zero vector is not defined",
            (_EPS + "sqrt((x * x).sum(-1) + 1e-8)", "train on the squared norm"),
        ),
    ),
    (
        _node("Hypot", "Atan2"),
        Advice(
            "the derivative at the origin is not defined", ("keep one of the two inputs off 0",)
        ),
    ),
    (
        _node("Acos", "Asin"),
        Advice(
            "the derivative at -1 and 1 is infinite",
            ("clamp the input to [-1 + 1e-6, 1 - 1e-6]", "use atan2 of sine and cosine"),
        ),
    ),
    (
        _node("Pow"),
        Advice(
            "the derivative of a power below 1 at 0 is infinite",
            (_EPS + "(x + 1e-8) ** p", "clamp the base from below"),
        ),
    ),
    (
        _node("Log"),
        Advice(
            "the derivative of log at 0 is infinite",
            (_EPS + "log(x + 1e-8)", "use log_softmax or logsigmoid"),
        ),
    ),
    (
        _node("Div", "Reciprocal", "Rsqrt"),
        Advice(
            "a division by 0 in the backward",
            (_EPS + "a / (b + 1e-8)", "clamp the denominator from below"),
        ),
    ),
    (
        _node("Std", "Var"),
        Advice(
            "the derivative of a standard deviation at 0 is infinite",
            (_EPS + "sqrt(x.var() + 1e-8)",),
        ),
    ),
    (
        _op("log", "log2", "log10", "log1p", "xlogy"),
        Advice(
            "log of 0 or of a negative number",
            (
                "use log_softmax, logsigmoid or cross_entropy on the raw outputs",
                _EPS + "log(x + 1e-8)",
            ),
        ),
    ),
    (
        _op("div", "true_divide", "reciprocal", "rsqrt", "remainder", "fmod"),
        Advice("division by 0", (_EPS + "a / (b + 1e-8)", "clamp the denominator from below")),
    ),
    (
        _op("sqrt"),
        Advice(
            "sqrt of a negative number",
            ("clamp the input at 0", "look for the rounding that made it negative"),
        ),
    ),
    (
        _op("acos", "asin", "acosh", "atanh", "erfinv", "logit", "digamma"),
        Advice("the input is outside of the function's domain", ("clamp the input to its domain",)),
    ),
    (
        _op("pow"),
        Advice(
            "a negative base with a fractional exponent, or 0 with a negative one",
            ("clamp the base from below", "take abs() of the base first"),
        ),
    ),
    (
        _op("std", "var", "std_mean", "var_mean"),
        Advice(
            "the spread of a single sample: 0 divided by 0",
            ("use unbiased=False", "take more samples"),
        ),
    ),
    (
        _op("mean", "nanmean"),
        Advice("the mean of nothing: 0 divided by 0", ("skip the empty selection: if mask.any()",)),
    ),
    (
        _op("nll_loss", "cross_entropy", "nll_loss2d"),
        Advice(
            "every label of the batch is ignored, so the mean is over nothing",
            ("skip such batches", 'use reduction="sum" and divide by the count, at least 1'),
        ),
    ),
    (
        _op("exp", "exp2", "expm1", "sinh", "cosh"),
        Advice(
            "exp of a large number",
            ("use torch.logsumexp, log_softmax or softplus instead", "clamp its input"),
        ),
    ),
    (
        _op("empty", "new_empty"),
        Advice("memory that was never written to", ("use torch.zeros instead of torch.empty",)),
    ),
    (
        _op("native_batch_norm", "cudnn_batch_norm", "native_layer_norm", "native_group_norm"),
        Advice(
            "a normalization of values without spread, and no eps",
            ("give the norm layer an eps of 1e-5",),
        ),
    ),
    (
        _op("mul"),
        Advice(
            "0 times infinity",
            (
                "find the infinity: look at the operation named beside it",
                "clamp before the product",
            ),
        ),
    ),
)
