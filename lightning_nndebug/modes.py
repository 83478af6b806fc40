"""Modes: does each module train while training and evaluate while validating?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from .core.detector import Detector, rule, state, threshold, vital
from .core.findings import Evidence, Severity
from .core.measurements.blank_norms import BlankNorms
from .core.measurements.both_modes import BothModes
from .core.measurements.dropouts import ActiveDropouts
from .core.measurements.graphs import LostGraph
from .core.measurements.modes import Modes, Stray
from .core.measurements.norms import NormDrift

# Whoever calls eval() in one of these wants that part to be in eval mode while it trains.
_ON_PURPOSE = ("on_train_start", "on_train_epoch_start", "on_train_batch_start")

# Statistics that cannot settle in the planned run are known to be wrong. Then a fifth of the share
# is enough, if the loss is this many times that in train mode.
_LAGGING, _TIMES = 0.2, 2.0

# Statistics that can settle run after weights that learn fast, and catch up when these slow down:
# they are no fault as long as each look finds no more than so much of what the last one found, and
# less than all that was learned.
_CLOSING = 0.75

# The share of their input that dropouts by hand may leave to what comes behind, unscaled.
_SCALED = 0.8


class ModeDetector(Detector):
    """Watches which modules are in train and which in eval mode, and whether that was meant.

    Only modules that the mode makes a difference to are judged: dropout with p > 0, batch norm,
    and classes whose code asks for ``self.training``. Parts that are frozen may be in any mode.

    Args:
        norm_drift: How far running statistics may move in a frozen part of the net, or from batch
            to batch in any, in standard deviations.
        share_lost: The share of all that was learned that may be lost by switching norms and
            dropouts to eval mode, on one and the same batch. 1 is a net that knows nothing.

    Logged:
        nndebug/modes/share_lost_in_eval: That share; negative where eval mode does better.
    """

    norm_drift: float = threshold(default=0.2, source="benchmarks/thresholds#norm_drift")
    share_lost: float = threshold(default=0.5, source="benchmarks/thresholds#train_eval")

    last_lost: float = state(float)

    @rule("MOD101", severity=Severity.ERROR)
    def eval_while_training(self, modes: Modes) -> Iterator[Evidence]:
        """A part of the net is trained in eval mode.

        Why it matters:
            Dropout drops nothing, and batch norm neither uses nor updates the statistics of the
            batch: the net overfits, or learns with statistics that do not fit it. Nothing crashes.

        Likely causes:
            - a pretrained net that its library returns in eval mode, as from_pretrained does:
              since Lightning 2.2, fit leaves every module in the mode it is in
            - eval() for a sample or a metric in the middle of training, without train() after it
            - on_validation_model_train is overridden and no longer restores the modes
            - an earlier run that was interrupted while it validated

        How to fix:
            - call train() on the part named here before the fit, for example in on_fit_start
            - put train() after every eval() of your own, in a finally clause
            - if it should be frozen, freeze its parameters as well: requires_grad_(False)

        When it is fine:
            When it is meant: a batch norm that keeps its pretrained statistics. Then call eval() in
            on_train_epoch_start, or override train(); both are understood, as are frozen parts. A
            norm that has no statistics yet normalizes nothing in eval mode, and is reported.

        References:
            - Lightning-AI/pytorch-lightning#18951, #20105, #20986
        """
        if not modes.training:
            return
        picked = [stray for stray in modes.strays if stray.is_leaf and not stray.parameters]
        for stray in modes.strays:
            one_by_one = stray in picked and len(picked) > 1  # nobody does so by accident
            if not (one_by_one or _is_meant(stray)):
                cause = _WHY_IN_EVAL[stray.since].format(line=stray.line)
                yield _evidence(stray, "in eval mode while it trains", cause)
        blank = [one for one in modes.strays if _is_blank(one)]
        for stray in blank[:1]:
            more = f" (and {len(blank) - 1} more)" if len(blank) > 1 else ""
            one = _evidence(
                stray, f"in eval mode while it trains{more}, with no statistics", _BLANK
            )
            yield replace(one, severity=Severity.WARNING, fixes=_THAWED)

    @rule("MOD102", severity=Severity.ERROR, caused_by=["UPD101"])
    def train_while_validating(self, modes: Modes) -> Iterator[Evidence]:
        """A part of the net is validated in train mode.

        Why it matters:
            Validation sees dropout and the statistics of its own batches: its scores are those of
            another net. Batch norm even learns its running statistics from validation data.

        Likely causes:
            - train() is called in validation_step, or at the end of it
            - on_validation_model_eval is overridden and leaves a part in train mode
            - train() is overridden, and does not pass the mode on: eval() calls it, too
            - a copy in a plain list or attribute, which eval() on the module does not come to
            - dropout was switched on for a look at the uncertainty, and never off again

        How to fix:
            - remove that call of train(): Lightning restores the modes after validation
            - in on_validation_model_eval, call eval() on everything
            - call eval() on a copy when it is made

        When it is fine:
            Monte Carlo dropout: put only the dropout modules into train mode, and average over
            several passes. That is understood, as is a part whose dropout alone is on.

        References:
            - Lightning-AI/pytorch-lightning#18951
            - arXiv:1506.02142
        """
        if modes.training:
            return
        dropouts = [one for one in modes.strays if one.effects == {"noise"} and one.is_leaf]
        if dropouts and all(one.passes == 1 and not one.is_kept for one in dropouts):
            # One pass of each batch shows no uncertainty; but somebody may want a single sample.
            yield replace(_evidence(dropouts[0], *_left_on(dropouts)), severity=Severity.WARNING)
        for stray in modes.strays:
            # Nobody sets a leaf to train mode by accident; code behind `if self.training` may be
            # wanted, as in torchvision's detectors, which have no loss in eval mode.
            if not (stray.is_leaf or stray.is_kept or stray.effects <= {"code"}):
                cause = _WHY_IN_TRAIN if stray.since == "hidden" else _OVERRIDDEN
                if stray.line is not None:
                    cause = f"train() was called at {stray.line}"
                yield _evidence(stray, "in train mode in validation", cause)

    @rule("MOD103", severity=Severity.WARNING, patience=2)
    def drifting_frozen_norm(self, drift: NormDrift) -> Iterator[Evidence]:
        """The parameters of this part are frozen, but its running statistics move.

        Why it matters:
            What a frozen part computes in validation changes from step to step, and differs from
            what the rest of the net was trained on.

        Likely causes:
            - requires_grad_(False), or an optimizer without these parameters, freezes weights but
              not the running statistics of batch norm
            - it was put into eval mode, and train() on the whole takes it out again
            - train() is overridden to keep it in eval mode, and nobody calls it: since Lightning
              2.2, fit leaves every module in the mode it is in

        How to fix:
            - call eval() on this part in on_train_epoch_start
            - or leave the parameters of its norms trainable

        When it is fine:
            When the statistics are meant to adapt to new data while the weights stay. They may move
            a little, unless the part was in eval mode when the run began.

        References:
            - Lightning-AI/pytorch-lightning#18951
            - arXiv:1603.04779
        """
        for part in drift.parts:
            limit = 0.0 if part.is_roused else self.norm_drift
            if part.shift > limit:
                yield Evidence(
                    part.name or "the whole module",
                    part.shift,
                    limit,
                    message=f"the statistics of {part.norms} norms have moved by {part.shift:.2g} "
                    f"standard deviations, the limit is {limit:g}",
                    causes=(_ROUSED,) if part.is_roused else (),
                )

    @rule("MOD104", severity=Severity.ERROR)
    def grad_disabled(self, lost: LostGraph) -> Iterator[Evidence]:
        """The training step ran with gradients turned off.

        Why it matters:
            The loss of the data leads back to no parameter: the backward raises, or trains nothing,
            unless it is a penalty on the weights.

        Likely causes:
            - torch.no_grad or torch.inference_mode as a decorator of training_step or forward
            - set_grad_enabled(False), never turned on again
            - Trainer.fit is called inside of torch.inference_mode

        How to fix:
            - remove it there, and put it around the inference alone
            - use it as a context manager, which ends by itself

        When it is fine:
            Never where the loss goes backward. Parts of a net that run without gradients are not
            reported, as long as others do not.

        References:
            - https://docs.pytorch.org/docs/stable/notes/autograd.html#locally-disable-grad-doc
        """
        if lost.inference:
            yield Evidence("training_step", "the loss was made in inference mode")
        elif lost.outside:
            yield Evidence(
                "training_step", "gradients were off around the step: with them, it has a graph"
            )
        elif lost.off and (lost.penalty or not lost.on):
            what = "all operations on trainable parameters, but for a penalty on them,"
            what = what if lost.penalty else f"all {lost.off} operations on trainable parameters"
            first = f", the first at {lost.first}" if lost.first else ""
            switch = f"; they were turned off at {lost.switch}" if lost.switch else ""
            yield Evidence(
                "training_step",
                f"{what} ran with gradients off{first}{switch}",
            )

    @rule(
        "MOD105",
        severity=Severity.WARNING,
        patience=2,
        caused_by=["CLS102", "CLS103", "MOD103", "MOD106", "STR101", "STR104"],
    )
    def train_eval_disagreement(self, both: BothModes | BlankNorms) -> Iterator[Evidence]:
        """On the very same batch, the net does well in train mode and badly in eval mode.

        Why it matters:
            Validation, and later use, see the net in eval mode: most of what was learned is not
            there. It is no overfitting, for the batch is the same.

        Likely causes:
            - the momentum of batch norm is too small for this run: running statistics lag behind
            - or it is near 1: they are those of the last batch alone
            - batches of one domain each, or of very few samples
            - dropout by hand that does not divide by 1 - p
            - a moving average of the weights that leaves out the statistics of batch norm

        How to fix:
            - use the default momentum of 0.1, which in PyTorch is the share of the new batch
            - shuffle, and make the batches larger; or use GroupNorm or LayerNorm
            - use torch.nn.Dropout
            - copy the buffers as well, or go through the training data once more: ``update_bn``

        When it is fine:
            While the data are being exchanged, for a few steps. Two looks in a row must show it,
            and the second no less of it where statistics have the time to settle.

        References:
            - arXiv:2105.07576
            - arXiv:1801.05134
        """
        if isinstance(both, BlankNorms):
            yield from _without_statistics(both, self.norm_drift)
            return
        if (kept := math.prod(both.unscaled.values())) < _SCALED:
            yield Evidence(
                next(iter(both.unscaled)),
                kept,
                _SCALED,
                message=f"{len(both.unscaled)} dropouts by hand drop units in training alone, do "
                f"not scale the rest: what follows gets {1 / kept:.2g} times as much in eval mode",
                causes=(_UNSCALED,),
                fixes=("divide by 1 - p in training, or use torch.nn.Dropout",),
            )
            return
        if both.wobble > self.norm_drift:
            yield Evidence(
                ", ".join(both.norms),
                both.wobble,
                self.norm_drift,
                message=f"running means are off by {both.wobble:.2g} standard deviations, by "
                f"chance; the limit is {self.norm_drift:g}",
                causes=(_FORGETFUL,),
            )
            return
        share, limit = share_lost(both), self.share_lost
        by_norms = both.eval_norms - both.train > 0.5 * (both.eval - both.train)
        if by_norms and both.settling < 1.0 and both.eval > _TIMES * both.train > 0.0:
            limit *= _LAGGING  # there is no time for it to get better
        is_closing = share < min(_CLOSING * self.last_lost, 1.0) and both.settling >= 1.0
        self.last_lost = 0.0 if is_closing else share  # once: the next look has to be well
        if not share > limit or (by_norms and is_closing):
            return
        yield Evidence(
            ", ".join(both.norms if by_norms else both.noises),
            share,
            limit,
            message=f"loss {both.train:.3g} in train mode and {both.eval:.3g} in eval mode, on the "
            f"same batch; it began at {both.initial:.3g}",
            causes=tuple(_causes(both)) if by_norms else (),
            details={"train": both.train, "eval": both.eval, "initial": both.initial},
        )

    @rule("MOD106", severity=Severity.WARNING, caused_by=["MOD102", "UPD101"])
    def functional_dropout(self, active: ActiveDropouts) -> Iterator[Evidence]:
        """Dropout is active in validation, though the module that calls it is in eval mode.

        Why it matters:
            Validation scores are noisy and too low, and so will be every prediction.

        Likely causes:
            - F.dropout without training=self.training: its default is to drop
            - scaled_dot_product_attention with dropout_p > 0, whatever the mode
            - nn.Dropout that is made in forward, or kept in a plain list: eval() cannot reach it
            - training=True in the call, or as the default of a flag of forward
            - a DropPath, or a random mask of one's own, that does not ask for self.training

        How to fix:
            - pass training=self.training
            - pass dropout_p=self.p if self.training else 0.0
            - make an nn.Dropout in __init__, and keep it as an attribute or in an nn.ModuleList

        When it is fine:
            Monte Carlo dropout: say training=True in the call, and average over several passes.
            That is understood.

        References:
            - https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.dropout.html
            - arXiv:1506.02142
        """
        for call in active.calls:
            if not (call.is_explicit and call.is_repeated):
                owner = f"{call.module} ({call.kind})" if call.module else call.kind
                yield Evidence(
                    str(call.line),
                    "active",
                    message=f"`{call.line.text}` drops units, while {owner} is in eval mode",
                    causes=_UNREGISTERED if call.is_unregistered else (),
                )

    @vital
    def share_lost_in_eval(self, both: BothModes) -> float:
        """The share of what was learned that is lost in eval mode, on the same batch."""
        return share_lost(both)


_WHY_IN_EVAL = {
    "start": "it was in eval mode when the run began, as from_pretrained returns nets: since "
    "Lightning 2.2, fit leaves every module in the mode it is in",
    "call": "eval() was called at {line}, and train() not after it",
    "validation": "on_validation_model_train is overridden, and does not restore it",
    "unknown": "",
}
_OVERRIDDEN = "on_validation_model_eval or train() is overridden, and leaves it in train mode"
_WHY_IN_TRAIN = "it is in a plain list or attribute, which eval() on the module does not come to"
_ONCE = "dropout was switched on, as for Monte Carlo samples, and not off again"
_BLANK = "norms are kept in eval mode, as in a pretrained net, and this one starts from scratch"
_THAWED = ("leave norms in train mode until they have statistics, or use GroupNorm",)
_ROUSED = "it was in eval mode when the run began, and a call of train() has taken it out"
_FORGETFUL = "the momentum is near 1, and batches are small: the last one is all that they hold"
_UNSCALED = "dropout by hand that does not divide by 1 - p"
_UNREGISTERED = ("an nn.Dropout made in forward or kept in a plain list: no module knows of it",)


def _without_statistics(blank: BlankNorms, limit: float) -> Iterator[Evidence]:
    """Norms whose weights were learned elsewhere, and whose statistics were left behind there."""
    if max(blank.off.values(), default=0.0) > limit:
        name, off = max(blank.off.items(), key=lambda one: one[1])
        more = f" (and {len(blank.off) - 1} more)" if len(blank.off) > 1 else ""
        yield Evidence(
            name,
            off,
            limit,
            message=f"validation norms by a mean of 0 and a variance of 1{more}: no batch has ever "
            f"gone into these statistics, and what comes is off by {off:.2g} standard deviations",
            causes=("the weights were copied or averaged, and the buffers were not",),
            fixes=("copy the buffers as well, or go through the training data: ``update_bn``",),
        )


def share_lost(both: BothModes) -> float:
    """Returns the share of the progress since the beginning of the run that eval mode takes back.

    Progress that does not stand out from the spread of the first losses is no progress.
    """
    progress = max(both.initial - both.train, 3 * both.spread)
    lost = both.eval - both.train
    return lost / progress if progress > 0 and math.isfinite(progress) else 0.0


def _is_meant(stray: Stray) -> bool:
    """Whether somebody wants this part to be in eval mode while it trains."""
    if stray.is_kept:
        return True
    if stray.effects == {"norm"} and (stray.is_leaf or stray.is_partly_frozen):
        return True
    called_in = stray.line.function if stray.line is not None else ""
    return called_in in _ON_PURPOSE and not stray.is_whole


def _is_blank(stray: Stray) -> bool:
    """Whether norms are in eval mode on purpose, and have no statistics that could be kept."""
    return stray.is_fresh and not stray.is_partly_frozen and _is_meant(stray)


def _left_on(dropouts: list[Stray]) -> tuple[str, str]:
    """Returns what is wrong with dropouts that a batch goes through once, and why it may be."""
    line = next((one.line for one in dropouts if one.line is not None), None)
    more = f" (and {len(dropouts) - 1} more)" if len(dropouts) > 1 else ""
    cause = f"train() was called at {line}: {_ONCE}" if line is not None else _ONCE
    return f"in train mode in validation{more}, and the batch goes through it once", cause


def _evidence(stray: Stray, fault: str, cause: str) -> Evidence:
    counts = ", ".join(f"{number} {kind}" for kind, number in sorted(stray.parts.items()))
    return Evidence(
        stray.name or stray.kind,
        f"{counts} {fault}",
        causes=(cause,) if cause else (),
        details={
            "kind": stray.kind,
            "parts": dict(stray.parts),
            "since": stray.since,
            "line": None if stray.line is None else str(stray.line),
        },
    )


def _causes(both: BothModes) -> Iterable[str]:
    """What is known of this very case; nothing if that is nothing."""
    lag = 1 / both.momentum if both.momentum else math.inf
    if both.batches < 3 * lag < math.inf:
        yield (
            f"momentum {both.momentum:g} averages over some {lag:.0f} batches, and there were "
            f"{both.batches}"
        )
