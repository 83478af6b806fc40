"""Class balance: do the batches show the classes the way the task needs them?"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..core.detector import Detector, rule, state, threshold, vital
from ..core.findings import Evidence, Severity
from ..core.measurements.class_counts import ClassCounts
from ..core.measurements.label_stream import LabelStream
from ..core.measurements.loss_calls import LabelCalls
from ..core.measurements.scores import spelled
from ..core.statistics import absence, homogeneity, spent
from .encoding import Made, made_alike, misencoded
from .neglect import LOOKS, SETTLED, Progress, given_up, neglected, take_up, told

_STEPS = 16  # optimizer steps before the order of labels is judged
_IN_ORDER = 1e-3  # the chance below which pure steps are said to come in order, not at random
_FEW = 100  # labels; fewer have no distribution to speak of
_SEVERAL, _COUNTED, _CLEAR = 4, 30, 2.0  # classes, labels of each, and times from least to most
_EQUAL = 0.05  # of the smallest share, by which shares of weights and sizes may differ
_ALIKE, _LEVELS = 1.2, 3  # times, by which equal sizes may differ, and sizes that are not equal
_IDLE = 20  # times as many outputs as classes: they are those of something else
_BEFORE = 2  # looks that are enough when the run is over, for a class of which
_DOUBTED = 0.3  # of the probability that chance would give it is left
_IDENTITIES = 20  # with more classes than that, validation may have others, on purpose
_RANKS = re.compile(
    r"(^|[^a-z])(au(c|roc|prc?)|roc_?(auc)?|pr|m?ap|average_?precision|n?dcg|mrr)($|[^a-z])"
)

_MISPLACED = (
    "The sampler that draws rare classes more often is that of validation",
    "Give it to the loader of the training data",
)


class ClassBalanceDetector(Detector):
    """Class balance: do the batches show the classes the way the task needs them?

    Labels are found by themselves: they are the tensor of the batch that goes into a
    classification loss. Regression, vocabularies and labels that no loss gets are left alone. What
    is kept are counts, for up to 1,000 classes: 10 MB at most.

    Args:
        target_key: Where the targets are in a batch, such as ``"labels"``, ``1`` or
            ``"boxes.label"``. None finds them.
        target_fn: A function from a batch to its targets, for batches that no key describes.
        imbalance_ratio: A class is rare if another one is so many times as large, and still is
            after the weights of the loss.
        purity_limit: By how much more often two samples of a step may be of one class than any two
            samples: 0 is random, 1 means that every step has a single class.
        shift_limit: Which share of the labels may belong to other classes in validation than in
            training (the total variation distance of the two distributions).
        false_alarms: The chance of a false alarm that the tests of order and distribution may take
            in a whole run, however often they look.

    Logged:
        mean_recall: Mean over the classes of the share of their samples that is recognized.
    """

    target_key: str | int | None = None
    target_fn: Callable[[Any], Any] | None = None
    imbalance_ratio: float = threshold(
        default=10.0, source="benchmarks/thresholds#class_balance", minimum=1.0
    )
    purity_limit: float = threshold(
        default=0.25, source="benchmarks/thresholds#class_balance", maximum=1.0
    )
    shift_limit: float = threshold(
        default=0.3, source="benchmarks/thresholds#class_balance", maximum=1.0
    )
    false_alarms: float = threshold(
        default=1e-4, source="benchmarks/thresholds#class_balance", maximum=1.0
    )

    progress: Progress = state(dict)
    explained: dict[str, str] = state(dict)
    made: Made = state(dict)

    @rule("CLS101", severity=Severity.WARNING)
    def imbalanced_classes(self, counts: ClassCounts) -> Iterator[Evidence]:
        """A class is so rare that the net does without it, and neither loss nor sampler helps it.

        Why it matters:
            The loss hardly notices the class, so never predicting it is nearly optimal. Accuracy
            stays high and hides it.

        Likely causes:
            - The data are imbalanced, and the loss weighs every sample alike
            - Its weights are the frequencies of the classes, not their inverse
            - They are in the order of another list than the class numbers
            - A filter, a crop or a join has dropped most samples of the class

        How to fix:
            - Weight the loss by ``weight=`` or, for yes and no, by ``pos_weight=``
            - Draw rare classes more often: ``WeightedRandomSampler``
            - Watch recall per class, not accuracy

        When it is fine:
            Only the ranking or the probability counts, as for click rates: log an AUC and this rule
            is silent. Where each sample has several labels, it waits for the end of the run, and
            tells without a warning. Rare classes that are being learned, weighted or focal losses
            and balanced samplers are never reported.

        References:
            he2009imbalanced, buda2018imbalance
        """
        take_up(self.progress, counts)
        target, progress = counts.target, self.progress
        answers = target.form == "multilabel"
        if not answers and (turned := _turned(progress["shown"], target.weight)) is not None:
            size, weight = turned
            yield Evidence(
                where=target.name,
                measured=weight,
                limit=1.0,
                message=f"the largest class is {size:.1f} times as frequent as the rarest, and "
                f"weighs {weight:.1f} times as much in the loss: the rarer a class, the less",
                causes=("The weights are the frequencies of the classes, not their inverse",),
                fixes=("Invert them: weight = counts.sum() / counts",),
            )
            return
        is_all = counts.passes and not counts.resampled
        if is_all and (displaced := _displaced(progress["train"], target.weight)) is not None:
            number, share, heavier = displaced
            yield Evidence(
                where=target.name,
                measured=heavier,
                limit=_CLEAR,
                message="the weights of the loss are the inverse sizes of the classes, in another "
                f"order: class {number}, {share:.1%} of the labels, weighs {heavier:.2g} times "
                "what its size asks for",
                causes=("They are sorted by size, as value_counts() and most_common() are",),
                fixes=("Count by class number: torch.bincount(labels, minlength=classes)",),
            )
            return
        if (preferred := _preferred(counts.draws)) is not None:
            size, weight = preferred
            yield Evidence(
                where=target.name,
                measured=weight,
                limit=1.0,
                message=f"the sampler knows {len(counts.draws)} groups of samples; the largest is "
                f"{size:.1f} times as large as the smallest, and each of its samples is drawn "
                f"{weight:.1f} times as often: the rarer a group, the less",
                causes=("The weights are the frequencies of the classes, not their inverse",),
                fixes=("Invert them: weights = 1 / counts[labels]",),
            )
            return
        if target.reweighted or (answers and target.weight is not None):
            return
        if (answers or target.classes == 2) and _ranks(counts.metrics):  # noqa: PLR2004
            return
        ratios = _ratios(progress["shown"], target.weight)
        lost = neglected(progress, target)
        if answers:  # each label has a pace of its own, and together they seem to rest
            lost = given_up(progress, target) if counts.is_last else []
        elif counts.is_last:  # nothing more will come
            lost = sorted(
                {
                    *neglected(progress, target, looks=1, stalls=1),
                    *neglected(progress, target, looks=2),
                    *given_up(progress, target),
                }
            )
        rare = [c for c in lost if ratios[c] >= self.imbalance_ratio]
        if rare and (counts.is_last or counts.batches >= SETTLED * progress["since"]):
            worst = max(rare, key=lambda c: float(ratios[c]))
            yield Evidence(
                where=target.name,
                measured=float(ratios[worst]),
                limit=self.imbalance_ratio,
                message=f"{told(progress, target, rare, worst)}; the largest class is "
                f"{ratios[worst]:.0f} times its size, the limit is {self.imbalance_ratio:g}",
                details={"classes": rare, "labels": progress["shown"].tolist()},
                # Tags that are about to be learned look like this, too.
                severity=Severity.INFO if answers else None,
            )

    @rule("CLS102", severity=Severity.WARNING, caused_by=["INP102", "INP201"])
    def single_class_batches(self, stream: LabelStream) -> Iterator[Evidence]:
        """A batch holds far fewer classes than the epoch does.

        Why it matters:
            Each update pulls all predictions towards the class at hand and undoes the one before;
            batch statistics are those of one class.

        Likely causes:
            - A sampler or a file format groups samples by class
            - The data are sorted by class and not shuffled, and batches are as large as a class
            - Each batch comes from one source, and sources have their own classes

        How to fix:
            - Mix the classes within a batch: ``DataLoader(shuffle=True)`` or a shuffling sampler
            - For streams, shuffle the files and use a shuffle buffer larger than a class

        When it is fine:
            Batches with equally many samples of each of several classes (for contrastive losses)
            and many classes in small batches are never reported.

        References:
            moran1948interpretation, ioffe2015batch
        """
        if self._is_grouped(stream) and stream.order_p >= _IN_ORDER and stream.regular < 0.5:  # noqa: PLR2004
            yield from self._explain("CLS102", stream, stream.purity)

    @rule("CLS103", severity=Severity.WARNING)
    def ordered_labels(self, stream: LabelStream) -> Iterator[Evidence]:
        """The classes come one after the other: the training data are not shuffled.

        Why it matters:
            The net learns the class at hand and forgets the others, and the loss at any moment is
            that of one class.

        Likely causes:
            - The data are sorted by class and ``shuffle=False``
            - An iterable dataset reads its files in order
            - The shuffle buffer is smaller than a class

        How to fix:
            - ``DataLoader(shuffle=True)``
            - Shuffle once when the data are written, and the order of the files in every epoch

        When it is fine:
            You study continual learning, or classes arrive in time and must be learned in order.

        References:
            mantel1967detection, mccloskey1989catastrophic
        """
        error = spent(self.false_alarms, stream.look)
        alone = stream.order >= self.purity_limit and stream.order_p < error
        alone = alone and stream.steps >= _STEPS
        if alone or (self._is_grouped(stream) and stream.order_p < _IN_ORDER):
            yield from self._explain("CLS103", stream, stream.order)

    @rule("CLS104", severity=Severity.WARNING, caused_by=["INP102"])
    def missing_class(self, counts: ClassCounts | LabelCalls) -> Iterator[Evidence]:
        """A class that is asked for never occurs in training.

        Why it matters:
            The net cannot learn it, and every sample of it in validation is a sure error. Where all
            labels are one class, the loss is perfect, and says nothing.

        Likely causes:
            - The labels were spoilt on their way, as by a division or a comparison of other types
            - The data are sorted and were split without shuffling
            - The split is by group, and the class is in few groups
            - The last layer was made for another task
            - Two class maps: names got other numbers in training than in validation

        How to fix:
            - Split in a stratified way: ``train_test_split(stratify=y)``
            - Make the class map once, from all the data

        When it is fine:
            Validation asks for what is unknown, as in open-set recognition. A class so rare that
            chance may have kept it out of training is never reported.

        References:
            fisher1922interpretation
        """
        if isinstance(counts, LabelCalls):
            yield from made_alike(counts, self.made)
            return
        take_up(self.progress, counts)
        target, shown = counts.target, self.progress["train"]
        is_all = counts.passes and shown.sum() >= _FEW and not counts.resampled
        is_one = int((shown > 0).sum()) == 1 and target.form in ("index", "one_hot", "binary")
        if is_all and is_one and not target.reweighted:
            yield Evidence(
                where=target.name,
                measured=1.0,
                limit=2.0,
                message=f"all {int(shown.sum()):,} training labels are of class "
                f"{int(shown.argmax())}, of the {target.classes} that the loss tells apart",
            )
            return
        heard = self.progress["shown"]
        if target.form == "multilabel" and counts.passes and heard[0] >= _FEW and not shown.any():
            yield Evidence(
                where=target.name,
                measured=0.0,
                limit=1.0,
                message=f"no sample of training has any of the {target.classes} labels",
            )
            return
        used = int(((shown > 0) | (counts.validation > 0)).sum())
        is_index = target.is_single and target.form == "index"
        if is_all and is_index and _IDLE * used <= target.classes:  # 0 where that is not known
            yield Evidence(
                where=target.name,
                measured=float(used),
                limit=target.classes / _IDLE,
                message=f"the loss tells {target.classes} classes apart, and only {used} of them "
                "occur",
                causes=("The last layer is that of another task, such as the classes of ImageNet",),
                fixes=(f"Give the last layer {used} outputs",),
            )
            return
        if not _comparable(counts):
            return
        train, validation = self.progress["train"], counts.validation
        inside, outside = int(train.sum() / counts.passes), int(validation.sum())
        error = spent(self.false_alarms, counts.look) / max(1, int((validation > 0).sum()))
        missing = [
            c
            for c in ((train == 0) & (validation > 0)).nonzero().flatten().tolist()
            if absence(int(validation[c]), inside, outside) < error
        ]
        if missing:
            names = ", ".join(map(str, missing[:8])) + ", ..." * (len(missing) > 8)  # noqa: PLR2004
            yield Evidence(
                where=counts.target.name,
                measured=float(len(missing)),
                limit=0.0,
                message=f"{int(validation[missing].sum())} of {outside:,} validation labels are of "
                f"class {names}, and none of {inside:,} training labels is",
                details={"classes": missing},
            )

    @rule("CLS105", severity=Severity.ERROR)
    def invalid_label(self, calls: LabelCalls) -> Iterator[Evidence]:
        """The labels are not encoded as the loss expects them.

        Why it matters:
            At best the loss raises an error, on a GPU one that names neither line nor label. At
            worst it takes them, and what is learned is something else.

        Likely causes:
            - Classes are counted from 1
            - A marker for "unknown" or "border", such as -1 or 255, is not ignored
            - Yes and no are -1 and 1, or 0 and 255; or 0 and 1 where a margin wants -1 and 1
            - A mask of 0 and 1 was divided by 255, as its image was
            - The net has fewer outputs than there are classes
            - Letters are counted from 0, and 0 is the blank of CTC

        How to fix:
            - Number the classes from 0 to C - 1, as ``int64``
            - Pass the marker as ``ignore_index``
            - Turn yes and no into 1.0 and 0.0; for a margin, into 1.0 and -1.0

        When it is fine:
            Never. Markers that are ignored or masked and soft labels are not reported.

        References:
            paszke2019pytorch
        """
        for call in calls.calls:
            if found := misencoded(call):
                message, fix = found
                yield Evidence(
                    where=str(call.place or call.line or call.function),
                    measured=message,
                    message=f"{message}; {call.function}" + f" at {call.line}" * bool(call.line),
                    fixes=(fix,),
                    details={"lowest": call.lowest, "highest": call.highest},
                )

    @rule("CLS106", severity=Severity.WARNING)
    def label_shift(self, counts: ClassCounts) -> Iterator[Evidence]:
        """Training and validation have the classes in very different proportions.

        Why it matters:
            Validation then measures another task: its loss, its accuracy and the checkpoint that
            they choose say little about what is being learned.

        Likely causes:
            - The data are sorted, by class or by time, and were split without shuffling
            - ``limit_val_batches`` cuts off all but the first classes of a sorted set
            - Training and validation come from different sources
            - The sampler that balances the classes went to the wrong loader

        How to fix:
            - Shuffle before you split, or split in a stratified way
            - If the two must differ, weight the validation metrics by class

        When it is fine:
            One of the two is balanced on purpose; that is recognized and never reported. Or the
            world has changed, and you want to see by how much.

        References:
            pearson1900criterion, lipton2018detecting
        """
        take_up(self.progress, counts)
        known = self.progress["train"] > 0  # the others are a matter of CLS104
        train, validation = self.progress["train"][known], counts.validation[known]
        if (
            not _comparable(counts)
            or counts.resampled
            or not counts.target.is_single
            or min(train.sum(), validation.sum()) < _FEW
            or (_is_balanced(train, validation) and not _is_misplaced(counts))
        ):
            return
        p, q = train / train.sum(), validation / validation.sum()
        shift = float((p - q).abs().sum() / 2)
        # What has been seen in several passes is evidence once.
        chance = homogeneity(train / counts.passes, validation)
        if shift >= self.shift_limit and chance < spent(self.false_alarms, counts.look):
            numbers, worst = known.nonzero().flatten().tolist(), int((q - p).abs().argmax())
            yield Evidence(
                where=counts.target.name,
                measured=shift,
                limit=self.shift_limit,
                message=f"{shift:.0%} of the labels would have to be of another class, the limit "
                f"is {self.shift_limit:.0%}; class {numbers[worst]} is {p[worst]:.1%} of training "
                f"and {q[worst]:.1%} of validation",
                causes=_MISPLACED[:1] if _is_misplaced(counts) else (),
                fixes=_MISPLACED[1:] if _is_misplaced(counts) else (),
                details={"classes": numbers, "train": p.tolist(), "validation": q.tolist()},
            )

    @rule(
        "CLS107",
        severity=Severity.WARNING,
        caused_by=[
            "ACT101",
            "CLS101",
            "CLS102",
            "CLS103",
            "CLS104",
            "CLS105",
            "GRD103",
            "GRD104",
            "LOS102",
            "LOS104",
            "LRN101",
            "LRN102",
            "OUT101",
            "UPD101",
        ],
    )
    def neglected_class(self, counts: ClassCounts) -> Iterator[Evidence]:
        """A class that is not rare is never predicted, long after others have been learned.

        Why it matters:
            Its recall is 0, which the accuracy over all classes hides.

        Likely causes:
            - Its weight in the loss is tiny
            - Its labels contradict each other: the same inputs have another class elsewhere
            - Its output is cut off or masked, or its bias was set far below the others

        How to fix:
            - Print the confusion matrix: which class takes its place?
            - Look at the weights of the loss, and at samples of both classes

        When it is fine:
            The class cannot be told from another one by these inputs. Classes that are on their way
            and classes of weight 0 are never reported.

        References:
            sokolova2009systematic
        """
        take_up(self.progress, counts)
        target, progress = counts.target, self.progress
        sizes = _ratios(progress["shown"], None)
        ratios = _ratios(progress["shown"], target.weight)
        lost = [
            c
            for c in neglected(progress, target, stalls=LOOKS)
            # The rarer a class, the longer it takes: one that is too rare is a matter of CLS101.
            if (target.reweighted or ratios[c] < self.imbalance_ratio)
            and counts.batches >= (1 + SETTLED) * float(sizes[c]) * progress["since"]
        ]
        if counts.is_last and not lost:
            # Its samples are trusted to be of it less than by somebody who does not look at them.
            doubted = neglected(progress, target, _BEFORE, _BEFORE)
            shares = progress["shown"] / progress["shown"].sum()
            lost = [
                c
                for c in doubted
                if (target.reweighted or ratios[c] < self.imbalance_ratio)
                and progress["trust"][c] < _DOUBTED * float(shares[c])
            ]
        if lost and progress["learned"] > 1:
            yield Evidence(
                where=target.name,
                measured=0.0,
                message=told(progress, target, lost, lost[0]),
                details={"classes": lost},
            )

    @vital
    def mean_recall(self, counts: ClassCounts) -> float | None:
        """The mean over the classes of the share of their samples that is recognized."""
        table = counts.validation_table if counts.validation.sum() else counts.train_table
        seen, hits = table[0], table[1]
        return float((hits / seen)[seen > 0].mean()) if seen.sum() else None

    def _is_grouped(self, stream: LabelStream) -> bool:
        pure = stream.purity >= self.purity_limit
        pure = pure and stream.purity_p < spent(self.false_alarms, stream.look)
        return pure and stream.steps >= _STEPS

    def _explain(self, code: str, stream: LabelStream, measured: float) -> Iterator[Evidence]:
        """Leaves the word to the rule that was first to explain the order of the labels."""
        if self.explained.setdefault(stream.target.name, code) != code:
            return
        total = sum(stream.counts)
        any_two = sum(n * (n - 1) for n in stream.counts) / (total * (total - 1))
        within, near = (any_two + one * (1 - any_two) for one in (stream.purity, stream.order))
        yield Evidence(
            where=stream.target.name,
            measured=measured,
            limit=self.purity_limit,
            message=f"two samples are of one class in {any_two:.0%} of all cases, within a step in "
            f"{within:.0%} and in steps in a row in {near:.0%} ({stream.steps} steps)",
            details={"purity": stream.purity, "order": stream.order, "steps": stream.steps},
        )


def _comparable(counts: ClassCounts) -> bool:
    """Tells whether the labels of training and validation are all there, and mean the same."""
    if not counts.passes or not counts.validation.sum() or counts.target.form == "soft":
        return False
    # Faces to verify, products to retrieve: there, validation has classes of its own.
    return len(counts.train) <= _IDENTITIES or bool(counts.validation_table[0].sum())


def _is_misplaced(counts: ClassCounts) -> bool:
    """Tells whether validation got what balances the classes, and training nothing of the kind."""
    return counts.is_drawn and counts.target.weight is None and not counts.target.reweighted


def _is_balanced(train: Tensor, validation: Tensor) -> bool:
    """Tells whether one of the two was balanced on purpose, as by resampling before training."""
    sizes = [float(one.sum() ** 2 / (one**2).sum()) for one in (train, validation)]
    return max(sizes) >= 0.95 * len(train) and bool((validation > 0).all())


def _ratios(shown: Tensor, weight: tuple[float, ...] | None) -> Tensor:
    """Returns by how many times each class is outweighed, in number and in the loss."""
    sizes = shown.max() / shown.clamp_min(1e-9)
    if weight is None:
        return sizes
    weights = torch.ones_like(shown)
    weights[-len(weight) :] = torch.tensor(weight, dtype=shown.dtype)  # pos_weight is that of "yes"
    effective = shown * weights
    return torch.minimum(sizes, effective.max() / effective.clamp_min(1e-9))


def _turned(shown: Tensor, weight: tuple[float, ...] | None) -> tuple[float, float] | None:
    """Returns how much larger and heavier the largest class is, if weights grow with sizes.

    Where classes are few they may do so by chance: there, they must be the sizes themselves.
    """
    if weight is None or len(weight) not in (1, len(shown)):
        return None
    sizes, order = shown.sort()
    weights = torch.ones_like(shown)
    weights[-len(weight) :] = torch.tensor(weight, dtype=shown.dtype)  # as in _ratios
    weights = weights[order]
    size, heavier = (float(one[-1] / one[0].clamp_min(1e-9)) for one in (sizes, weights))
    grows = bool((weights.diff() >= 0).all()) and bool(weights[0] > 0)
    if len(shown) < _SEVERAL:
        shares = weights / weights.sum() - sizes / sizes.sum()
        grows = grows and bool(shares.abs().max() < _EQUAL * sizes[0] / sizes.sum())
    is_clear = sizes[0] >= _COUNTED and min(size, heavier) >= _CLEAR
    return (size, heavier) if grows and is_clear else None


def _displaced(shown: Tensor, weight: tuple[float, ...] | None) -> tuple[int, float, float] | None:
    """Returns the class whose weight is most in excess, if weights are inverse sizes of others.

    With it, its share of the labels and the excess. Sizes of a few levels have such weights by
    chance: a cost that was meant.
    """
    if weight is None or len(weight) != len(shown) or float(shown.min()) < _COUNTED:
        return None
    weights, ordered = torch.tensor(weight, dtype=shown.dtype), shown.sort().values
    if int((ordered[1:] > _ALIKE * ordered[:-1]).sum()) < _LEVELS - 1:
        return None
    for power in (1.0, 0.5):  # in use are the inverse and its root
        scale = weights.sort(descending=True).values * ordered**power
        excess = weights * shown**power / scale.median()
        is_same = float(scale.min()) > 0 and float(scale.max() / scale.min()) <= _ALIKE
        if is_same and int((excess >= _CLEAR).sum()) and int((excess <= 1 / _CLEAR).sum()):
            worst = int(excess.argmax())
            return worst, float(shown[worst] / shown.sum()), float(excess[worst])
    return None


def _preferred(draws: tuple[tuple[int, float], ...]) -> tuple[float, float] | None:
    """Returns how much larger the largest group is, and how much more often its samples come."""
    if len(draws) < _SEVERAL or min(one for pair in draws for one in pair) <= 0:
        return None
    grows = all(
        few < many and light < heavy for (few, light), (many, heavy) in itertools.pairwise(draws)
    )
    size, heavier = draws[-1][0] / draws[0][0], draws[-1][1] / draws[0][1]
    is_clear = draws[0][0] >= _COUNTED and min(size, heavier) >= _CLEAR
    return (size, heavier) if grows and is_clear else None


def _ranks(metrics: tuple[str, ...]) -> bool:
    """Tells from what the user logs whether only the order of the predictions counts."""
    return any(_RANKS.search(spelled(name)) for name in metrics)
