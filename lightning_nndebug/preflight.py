"""Preflight: can the module learn one batch at all? Opt-in, for it costs some hundred steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from .core.detector import Detector, rule, threshold
from .core.findings import Evidence, Finding, Severity
from .core.measurements.rehearsal import GradientCheck, Rehearsal, SmallerBatch
from .core.trainer import trainer_class

_UNKNOWN = 0.95  # of a loss that has no known floor may be left: then nothing at all was learned
_JUMP = 10.0  # times the loss before: an update that has thrown the net away
_STUCK = 0.97  # of the loss is left with the user's optimizer: it does not get on


class PreflightDetector(Detector):
    """Rehearses with one batch, after the first step, and leaves nothing behind.

    It is no part of ``NNDebug()``: add it to the Trainer, or call ``lightning_nndebug.check``. Runs
    with manual optimization, several optimizers or several processes are left alone.

    Args:
        steps: How many steps our own Adam is given to learn the batch by heart.
        left: The share of the loss, above its floor, that may be left then.
    """

    steps: int = threshold(default=100, source="benchmarks/results/preflight.md", minimum=1)
    left: float = threshold(default=0.2, source="benchmarks/results/preflight.md", maximum=1.0)

    @rule(
        "PRE101",
        severity=Severity.WARNING,
        caused_by=["ACT", "GRD", "INP", "LOS", "LRN101", "MOD", "OUT", "UPD"],
    )
    def cannot_overfit_one_batch(self, rehearsal: Rehearsal) -> Iterator[Evidence]:
        """The module cannot learn a single batch by heart.

        Why it matters:
            What cannot be learned with one batch cannot be learned with many.

        Likely causes:
            - the output cannot express the targets: a softmax, sigmoid or relu too much
            - a part of the net is frozen or detached, or does not see the input
            - samples of the batch are mixed up, by a view or a mean over the batch
            - targets that were not normalized

        How to fix:
            - give the loss what it takes: logits to cross_entropy
            - look for findings of the other detectors in the same run
            - normalize the targets of a regression

        When it is fine:
            A net that is too small on purpose, or a loss that is no measure of fit.

        References:
            - http://karpathy.github.io/2019/04/25/recipe/
        """
        limit = self.left if rehearsal.has_floor else _UNKNOWN
        by = f"in {rehearsal.steps} steps on one batch"
        if rehearsal.jump > _JUMP:
            message = (
                f"the first update has multiplied the loss of its batch by {rehearsal.jump:.3g}"
            )
            yield Evidence(
                "optimizer", rehearsal.jump, _JUMP, message, ("the learning rate is far too high",),
                ("lower the learning rate: see LRN101",),
            )  # fmt: skip
        elif not rehearsal.own <= limit:
            message = f"{rehearsal.own:.0%} of the loss is left {by} with Adam(lr=0.003)"
            yield Evidence("module", rehearsal.own, limit, message)
        elif math.isinf(rehearsal.users) or rehearsal.users > _STUCK:
            message = (
                f"{rehearsal.own:.0%} of the loss is left {by} with Adam(lr=0.003), and "
                f"{rehearsal.users:.0%} with {rehearsal.optimizer} as it is configured"
            )
            yield Evidence(
                "optimizer", rehearsal.users, _STUCK, message,
                ("the learning rate is far too low, or far too high",),
                ("the module is well: move the learning rate", "see LRN101 and LRN102"),
            )  # fmt: skip

    @rule("PRE102", severity=Severity.ERROR)
    def wrong_gradient(self, check: GradientCheck) -> Iterator[Evidence]:
        """The backward of an autograd function is not the derivative of its forward.

        Why it matters:
            Training follows another loss than the one that is shown, often without a sign.

        Likely causes:
            - a factor, a sign or a case was forgotten in backward
            - what was saved for backward has been changed since
            - gradients are returned in another order than the arguments

        How to fix:
            - correct the backward, and hold it against torch.autograd.gradcheck
            - or leave the backward out: write the forward in plain torch

        When it is fine:
            When it is meant. Straight-through estimators, surrogates of step functions and
            identities with another gradient are understood, and not reported.

        References:
            - https://pytorch.org/docs/stable/autograd.html#numerical-gradient-checking
        """
        for one in check.wrong:
            yield Evidence(
                one.function,
                one.analytic,
                one.numeric,
                f"the derivative by argument {one.argument} along a random direction is "
                f"{one.analytic:.4g} by its backward, and {one.numeric:.4g} by finite differences",
            )

    @rule("PRE103", severity=Severity.WARNING)
    def fixed_batch_size(self, batch: SmallerBatch) -> Iterator[Evidence]:
        """The step works for one batch size alone.

        Why it matters:
            It fails at the last batch of an epoch, in validation, or with the first sample in use.

        Likely causes:
            - the batch size is written out in a view, a reshape or a tensor made in the step

        How to fix:
            - take it from the batch: x.view(len(x), -1), torch.zeros(len(x), ...)

        When it is fine:
            Where a sampler makes batches of a fixed composition, as for metric learning.

        References:
            - benchmarks/results/preflight.md
        """
        if batch.error:
            line = batch.line
            code = f" at `{line.text}`" if line is not None else ""
            where = f"{line.file.rpartition('/')[2]}:{line.number}" if line is not None else "step"
            message = (
                f"{batch.size} samples are no problem, {batch.smaller} are{code}: {batch.error}"
            )
            yield Evidence(where, float(batch.smaller), float(batch.size), message)


def check(module: Any, data: Any, *, steps: int = 100) -> list[Finding]:
    """Rehearses a module with one batch, for tests of your own.

    ``assert not lightning_nndebug.check(MyModule(), loader)``. A copy of the module is trained for
    two steps, of which the first may set things up, and learns a batch of them by heart.

    Args:
        module: A LightningModule; it is left as it is.
        data: A DataLoader, a LightningDataModule, or a single batch.
        steps: How many steps it is given to learn the batch by heart.

    Returns:
        The findings, the leading one first; an empty list if all is well.
    """
    detector = PreflightDetector(steps=steps)
    trainer = trainer_class(module)(
        max_steps=2, limit_val_batches=0, num_sanity_val_steps=0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[detector], devices=1,
    )  # fmt: skip
    is_whole = isinstance(data, DataLoader) or hasattr(data, "train_dataloader")
    batches: Any = [data]
    source = data if is_whole else DataLoader(batches, batch_size=None)
    key = "datamodule" if hasattr(data, "train_dataloader") else "train_dataloaders"
    trainer.fit(copy.deepcopy(module), **{key: source})
    return detector.findings
