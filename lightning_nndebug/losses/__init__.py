"""Losses: is the net asked the right question, and does it learn to answer?"""

from __future__ import annotations

from collections.abc import Iterator

from ..core.detector import Detector, rule, state
from ..core.findings import Evidence, Severity
from ..core.measurements.graphs import LostGraph
from ..core.measurements.loss_inputs import LossInputs
from .misuse import broadcast, mismatch
from .unsuitable import (
    Labels,
    accuracy_of_quantities,
    flipped,
    squared_classes,
    unbounded_answers,
    where,
)


class LossDetector(Detector):
    """Losses: is the net asked the right question, and does it learn to answer?

    Listens to the loss functions of a few steps, and compares what they were given with what they
    want, and what they return with the loss of the best constant prediction. Losses that are
    written by hand are judged by the graph that they leave.
    """

    labels: Labels = state(dict)

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
                    message=f"{told[0]}, at {one.call.line}",
                    causes=(f"{one.call.line.text}" if one.call.line else "",)[
                        : bool(one.call.line)
                    ],
                    fixes=(told[1],),
                    details={"made_by": one.call.made_by, "shape": list(one.call.shape)},
                )

    @rule("LOS103", severity=Severity.ERROR)
    def broadcast_loss(self, found: LossInputs) -> Iterator[Evidence]:
        """Every prediction is compared with every target, not with its own.

        Why it matters:
            The net learns to predict the mean of the targets for every input: that is the best
            answer to the question it is asked. The loss falls, and looks like one.

        Likely causes:
            - The net returns (N, 1), and the targets are (N,)

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

    @rule("LOS107", severity=Severity.ERROR)
    def detached_loss(self, lost: LostGraph) -> Iterator[Evidence]:
        """The loss does not lead back to any parameter: something has cut its graph.

        Why it matters:
            The backward raises, or it trains nothing at all.

        Likely causes:
            - ``detach``, ``item`` or ``data`` on the way from the net to the loss
            - The loss is made of ``argmax`` or of a comparison, which have no gradient
            - The loss was computed by numpy or put into a new ``torch.tensor``

        How to fix:
            - Compute the loss from what the net returns, without ``detach``, ``item`` or ``data``
            - Use a loss of the scores, such as ``cross_entropy``, and not the accuracy
            - Keep ``item`` and ``detach`` for what is logged

        When it is fine:
            Never where the loss goes backward. Where gradients are turned off, MOD104 tells it.

        References:
            humbatova2020taxonomy, https://docs.pytorch.org/docs/stable/notes/autograd.html
        """
        if lost.inference or lost.outside or (lost.off and not lost.on):
            return
        told = f"; the last cut is {lost.cutter} at {lost.cut}" if lost.cut else ""
        yield Evidence(
            where="training_step",
            measured="no graph",
            message=f"the loss has no graph{told}",
            details={"line": str(lost.cut), "by": lost.cutter} if lost.cut else {},
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
            - An accuracy for a regression, which is always near 0

        How to fix:
            - Classes: ``cross_entropy``; yes and no: ``binary_cross_entropy_with_logits``
            - Quantities: ``mse_loss`` or ``huber_loss``, and a mean absolute error as the metric
            - Minimize the loss

        When it is fine:
            The classes are ranks, and their distances mean something: then declare them as
            floating point numbers. An adversary that maximizes a loss is not reported as long as
            something else is minimized beside it.

        References:
            goodfellow2016deep, humbatova2020taxonomy
        """
        yield from flipped(found)
        yield from squared_classes(found, self.labels)
        yield from unbounded_answers(found)
        yield from accuracy_of_quantities(found)
