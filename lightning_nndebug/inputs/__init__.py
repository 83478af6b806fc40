"""Inputs: do the data get to the net, and are they what the net is meant to learn from?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..core.detector import Detector, rule, state, threshold
from ..core.findings import Evidence, Severity
from ..core.measurements.axes import Axes
from ..core.measurements.doubles import Doubles
from ..core.measurements.features import Likeness
from ..core.measurements.first_layers import FirstLayer, FirstLayers
from ..core.measurements.leaks import Leaks
from ..core.measurements.learned import Learned
from ..core.measurements.loaders import TrainLoader
from ..core.measurements.lookups import UntrainedRows
from ..core.measurements.padding import Padding
from ..core.measurements.processors import Processor
from ..core.measurements.rows import Rows
from ..core.measurements.samples import Overlap, Samples
from ..core.measurements.succession import Succession
from ..core.statistics import homogeneity
from .axes import (
    askew,
    exchanged_sides,
    misplaced_masks,
    read_across,
    recut,
    scrambled_images,
    scrambled_sequences,
    turned_images,
)
from .pretrained import unnormalized
from .relatedness import are_distinct, faded, leak, relations, row_number
from .skew import OFTEN, emptied, filled, is_chance, skew, steps

_BATCHES = 8  # in a row must show it, before a batch or its samples are called the same,
_ALIKE = 128  # and so many samples, before those of a batch are: most of them may be blank
_PAIRS = 8  # of batches that follow one another, likewise
_SAME = 0.4  # of the batches equal to the one before: two workers with the same data make it a half
_ROUNDS = 8  # times that an epoch shows the same few samples,
_SMALLER = 4  # times less than validation has: usual are times more
_FEWER = 2  # of which there are at least so many times less than validation has
_LOOKS = 3  # at the first layers
_DOMINANT = 10.0  # times as large as the median column
_COLUMNS = 2  # that are empty, and as many that are not,
_USUAL = 0.5  # of whose samples no single value is that of more
_SEEN = 64  # samples, before copies are counted
_BLANKS = 32  # samples without content, and as many with,
_ALIKE_LABELS = 0.01  # whose labels are the same, but for chance
_SINGLE = 0.9  # of them come once, where those of other processes are compared
_UNEVEN = 2.0  # times as many copies in one class as in another: somebody has chosen,
_ONCE = 0.1  # and at least so many more
_STEADY = 0.85  # of the samples come as often in the next epoch: their copies are in the data
_CHANCE = 1e-6  # of an order, or of repetitions, as clear as that in random data
_BY_CLASS = 0.1  # of the variance of a class label lies between batches
_RELATED = 200  # samples, before labels are called unrelated
_OTHERS = 64  # samples that are not of the largest class, likewise
_UNRELATED = 2.5  # standard deviations of what random labels give, by each likeness of samples,
_UNLEARNED = 2.0  # and by predictions
_WEAK = 0.28  # the correlation that predictions may have all the same: two deviations above theirs
_GAP = 10.0  # interquartile ranges between the medians of a column
_WIDTH = 30.0  # times as wide
_FEW = 10  # samples of validation, at least
_ALL = 0.9  # of the samples of both are the same
_NATURAL = 2.0  # times as large as chance explains
_RARE = 3.0  # equal pairs that there may be where none was seen
_NOISES = 3.0  # standard deviations by which a count may be off
_AWAY = 100.0  # standard deviations between all channels and 0
_FLAT = 1e-6  # of a mean: a smaller deviation is rounding
_EITHER = 2  # classes, before and after a limit
_UNTRAINED = 0.5  # of what validation looks up was never looked up before,
_NEWCOMERS = 0.05  # and so much at most of what a late step of training does
_TINY = 0.01  # the largest value of inputs that were scaled twice


class InputDetector(Detector):
    """Inputs: do the data get to the net, and are they what the net is meant to learn from?

    Inputs are found by themselves: the tensors of a batch that are neither target, mask, length nor
    number of a sample. Samples are told apart by fingerprints of 8 bytes, of which some 65,000 are
    kept; no loader is ever iterated. All that is kept takes 40 MB at most, whatever the data.

    Args:
        input_key: Where the inputs are in a batch, such as ``"image"`` or ``0``. None finds them.
        target_key: Where the targets are, likewise.
        target_fn: A function from a batch to its targets, for batches that no key describes.
        sample_id_key: What tells samples apart, if the batch has numbers for them. None takes the
            inputs, which augmentation makes new at every visit.
        scale_limit: The root mean square that the values of a column or channel may have.
        copies_limit: Which share of the samples of an epoch may be copies of others.
        overlap_limit: Which share of the samples of validation may be samples of training.
        order_limit: Which share of the variance of a value may lie between batches.
        skew_limit: How far apart training and validation may be in the median column
            (Bhattacharyya distance): 0.35 is a shift by 1.7 deviations, or a factor of 3.8 between
            them.
        mismatch_shift: By how many running standard deviations the mean of a channel may be off
            where a pretrained net first normalizes, in the median,
        mismatch_spread: and by what factor its standard deviation.
        least_samples: How many different samples a class should have.
        padding_limit: Which share of the positions may be padding.
    """

    input_key: str | int | None = None
    target_key: str | int | None = None
    target_fn: Callable[[Any], Any] | None = None
    sample_id_key: str | int | None = None
    scale_limit: float = threshold(default=30.0, source="benchmarks/thresholds#inputs")
    copies_limit: float = threshold(default=0.2, source="benchmarks/thresholds#inputs", maximum=1.0)
    overlap_limit: float = threshold(
        default=0.01, source="benchmarks/thresholds#inputs", maximum=1.0
    )
    order_limit: float = threshold(default=0.25, source="benchmarks/thresholds#inputs", maximum=1.0)
    skew_limit: float = threshold(default=0.35, source="benchmarks/thresholds#inputs")
    mismatch_shift: float = threshold(default=1.5, source="benchmarks/thresholds#inputs")
    mismatch_spread: float = threshold(
        default=2.5, source="benchmarks/thresholds#inputs", minimum=1.0
    )
    least_samples: float = threshold(default=5.0, source="hestness2017deep")
    padding_limit: float = threshold(default=0.5, source="krell2021efficient", maximum=1.0)

    looked: int = state(int)  # at samples of training

    @rule("INP101", severity=Severity.ERROR)
    def constant_input(self, samples: Samples, doubles: Doubles) -> Iterator[Evidence]:
        """Every sample of every batch has the same input: there is nothing to tell them apart by.

        Why it matters:
            The best that the net can do is to answer with the mean of the targets.

        Likely causes:
            - The file was not found or not decoded, and a blank stands in for it
            - ``__getitem__`` does not use its index
            - A mask, a crop or a normalization turns everything into a constant
            - The tensor was allocated and never filled, or only some of its columns were

        How to fix:
            - Look at a few samples as the loader returns them
            - Check the path, the index and the last transform before the batch

        When it is fine:
            The net is meant to learn a constant. Columns of zeros between others may be padding,
            and are told without a warning. A few constant columns, or those at the end that make a
            table wider, border pixels, masks and batches of fewer than four samples are never
            reported.

        References:
            goodfellow2016deep
        """
        if samples.alike < max(_BATCHES, _ALIKE / samples.size):
            if doubles.rows is not None and doubles.rows.look > self.looked:
                self.looked = doubles.rows.look
                yield from _unfilled(doubles.rows)
            return
        what = f"in {samples.alike} batches in a row, all {samples.size} samples are the same"
        if samples.blank >= _BATCHES:
            value = "one value" if math.isnan(samples.value) else f"{samples.value + 0.0:g}"
            what = f"in {samples.blank} batches in a row, every value is {value}"
        yield Evidence(where=samples.name, measured=what, message=what)

    @rule("INP102", severity=Severity.ERROR)
    def repeated_batch(self, samples: Samples, loader: TrainLoader) -> Iterator[Evidence]:
        """The loader gives the same batch, or the same few, again and again.

        Why it matters:
            The net learns these few samples by heart and never sees the others, while the training
            loss looks excellent.

        Likely causes:
            - A sampler, a cache or ``collate_fn`` returns what it returned before
            - The random generator is seeded again for every batch
            - An ``IterableDataset`` gives every worker all the data
            - All workers draw from the same seed

        How to fix:
            - Check the indices that the sampler yields
            - Split a stream between the workers: ``torch.utils.data.get_worker_info()``
            - Seed once, and each worker differently: ``worker_init_fn``

        When it is fine:
            One batch holds all the data, or ``overfit_batches`` asks for it: both are known.
            Several that are ready-made are only reported where validation has more samples. Blank
            batches, and small ones of few categories, which repeat by nature, are never reported.

        References:
            paszke2019pytorch
        """
        if _are_few(samples, loader):
            others = samples.overlap.distinct if samples.overlap is not None else 0
            yield Evidence(
                where=samples.name,
                measured=samples.distinct,
                message=f"the {samples.seen:,} samples of this epoch are {samples.distinct} "
                f"different ones, where validation has {others:,}",
                details={"seen": samples.seen, "distinct": samples.distinct},
            )
            return
        is_meant = not loader.collates or (loader.samples or math.inf) <= samples.size
        if is_meant or samples.pairs < _PAIRS or samples.alike >= _BATCHES:
            return
        share = samples.same / samples.pairs
        if share > _SAME and samples.same >= _PAIRS / 2 and _by_chance(samples) < _CHANCE:
            several = loader.workers > 1 and loader.is_stream
            yield Evidence(
                where=samples.name,
                measured=share,
                limit=_SAME,
                message=f"{samples.same} of {samples.pairs} batches are equal to the one before",
                causes=(f"Each of the {loader.workers} workers goes through all the data",)
                if several
                else (),
                fixes=("Split the stream by ``torch.utils.data.get_worker_info()``",)
                if several
                else (),
                details={"same": samples.same, "pairs": samples.pairs, "sampler": loader.sampler},
            )

    @rule("INP103", severity=Severity.WARNING, patience=_LOOKS)
    def unscaled_input(self, first: FirstLayers) -> Iterator[Evidence]:
        """The first layer gets values of a size that its weights were not initialized for.

        Why it matters:
            Initialization and learning rates assume values around 1. With larger ones the first
            updates are wild, activations saturate, and a dominant column hides all others.

        Likely causes:
            - Images are 0..255
            - Columns of a table are in their own units
            - The data are scaled twice, or the scaling was forgotten in this loader
            - Mean and deviation belong to other units: 0..255 for images that are 0..1

        How to fix:
            - Images: divide by 255, subtract the mean and divide by the standard deviation
            - Tables: ``StandardScaler``, fitted on the training data alone
            - Or let ``nn.BatchNorm1d`` take the raw columns

        When it is fine:
            The weights of the first layer were made for this scale. Inputs that a norm or an
            embedding takes and what the step scales by itself are never reported.

        References:
            lecun2012efficient
        """
        for layer in first.layers:
            if not layer.is_weighing or layer.is_normed or not layer.means:
                continue
            if found := _scale(layer, self.scale_limit):
                size, message = found
                yield Evidence(
                    where=layer.place or layer.name,
                    measured=size,
                    limit=self.scale_limit,
                    message=f"{layer.name} ({layer.kind}) gets {message}",
                    details={"low": layer.low, "high": layer.high, "layer": layer.name},
                )

    @rule("INP106", severity=Severity.WARNING)
    def duplicate_samples(
        self, samples: Samples, loader: TrainLoader, doubles: Doubles
    ) -> Iterator[Evidence]:
        """Within one epoch, the same samples come more than once.

        Why it matters:
            They count for more than others without anybody having decided so, an epoch is shorter
            than it seems, and a random split puts copies of training samples into validation.

        Likely causes:
            - The files were read twice, or a join has multiplied the rows
            - ``__getitem__`` maps several indices to one sample
            - An ``IterableDataset`` gives every worker all the data
            - Several processes go through the same data, for want of a ``DistributedSampler``
            - Files that cannot be read become blank samples

        How to fix:
            - Remove the copies: ``torch.unique(dim=0)``, ``DataFrame.drop_duplicates()``
            - Compare ``len(dataset)`` with the number of samples that you know of
            - Split a stream between the workers: ``torch.utils.data.get_worker_info()``

        When it is fine:
            Blank samples that have labels of their own, samplers that draw with replacement, data
            sets that are concatenated with themselves, copies of rare classes, and rows of a few
            categories, which repeat by nature, are never reported.

        References:
            lee2022deduplicating
        """
        if samples.seen < _SEEN or not loader.collates:
            return
        # Rows of few categories repeat within a process, too.
        is_told = doubles.ranks > 1 and loader.replaces is not True
        if is_told and samples.distinct > _SINGLE * samples.seen:
            yield _told_of_all(samples, loader, doubles.ranks)
            return
        if doubles.rows is not None:
            yield from _blanks(doubles.rows, self.copies_limit)
        if not samples.is_whole or doubles.rows is None:
            return
        if samples.same > _SAME * samples.pairs or samples.alike >= _BATCHES:
            return  # whole batches come again
        copies = 1 - samples.distinct / samples.seen
        evenly = len(samples.often) == 1
        several = loader.is_stream and loader.workers > 1 and evenly and copies > 0
        # A data set that draws at random by itself has other copies in every epoch, and one that
        # holds everything equally often is repeated, to make its epochs longer.
        fixed = (samples.steady or 0.0) > _STEADY and not evenly
        once = loader.replaces is False and fixed and not _is_oversampled(samples)
        once = once and copies > self.copies_limit
        if (several or once) and are_distinct(doubles.rows.train):
            times = max(samples.often)
            yield Evidence(
                where=samples.name,
                measured=copies,
                limit=self.copies_limit,
                message=f"{copies:.0%} of the samples of an epoch are copies of others, the limit "
                f"is {self.copies_limit:.0%}; the most frequent one came {times} times",
                causes=(f"Each of the {loader.workers} workers goes through all the data",)
                if several
                else (),
                fixes=("Split the stream by ``torch.utils.data.get_worker_info()``",)
                if several
                else (),
                details={"seen": samples.seen, "distinct": samples.distinct},
            )

    @rule("INP201", severity=Severity.WARNING, caused_by=["CLS103"])
    def unshuffled_training(
        self, succession: Succession, loader: TrainLoader, first: FirstLayers
    ) -> Iterator[Evidence]:
        """Training data come in an order that means something, and nobody shuffles them.

        Why it matters:
            Each batch pulls the net towards its own corner of the data and away from the one
            before; batch statistics are those of that corner.

        Likely causes:
            - ``shuffle=False``, the default of ``DataLoader``, and data sorted by a column, by the
              target, by source or by time
            - A sampler that goes through the data in order

        How to fix:
            - ``DataLoader(shuffle=True)``
            - For streams: shuffle once when the data are written, and the files in every epoch

        When it is fine:
            The net carries its state from batch to batch (if a recurrent module gets a state, this
            is known), or learns online. Data that were shuffled once and for all and windows that
            slide over a series are never reported. An order of the classes is a matter of CLS103.

        References:
            bottou2012stochastic
        """
        known = loader.shuffles is False and not (loader.is_stream or succession.slides)
        is_target = succession.target > succession.inputs
        value = succession.target if is_target else succession.inputs
        chance = succession.target_p if is_target else succession.inputs_p
        ordered = value > self.order_limit and chance < _CHANCE
        if not (known and ordered) or first.carries_state or succession.labels > _BY_CLASS:
            return
        yield Evidence(
            where=loader.sampler,
            measured=value,
            limit=self.order_limit,
            message=f"{value:.0%} of the variance of {'the target' if is_target else 'an input'} "
            f"lies between batches rather than within them, the limit is {self.order_limit:.0%}, "
            f"and {loader.sampler} does not shuffle",
            details={"batches": succession.batches, "p": chance},
        )

    @rule("INP202", severity=Severity.WARNING, caused_by=["CLS106", "INP104", "INP106", "INP203"])
    def train_val_skew(self, rows: Rows | UntrainedRows) -> Iterator[Evidence]:
        """The inputs of validation have other values than those of training.

        Why it matters:
            The net is tested on what it has never seen: the validation loss is high from the start,
            and no training will lower it.

        Likely causes:
            - The transforms of training and validation differ: one of them does not normalize
            - Each set was normalized by its own statistics, or one of them twice
            - A column has another unit, order, encoding or filling of gaps in one of the files
            - The images of one of them are transposed, rotated or flipped
            - Users, items or words of validation do not occur in training, and have no row of
              their own that was learned

        How to fix:
            - Use the same normalization for both, with the statistics of training
            - Compare one row of each, column by column
            - Split within each user, or describe new ones by what is known of them

        When it is fine:
            Validation asks how far the net extrapolates. Augmentation of the training data, which
            changes values less than this, is not reported; of several sets, the first one counts.
            A series may have another level at another time: only its steps are compared.

        References:
            bhattacharyya1943measure, breck2019data
        """
        if isinstance(rows, UntrainedRows):
            yield from _looked_up(rows)
            return
        if rows.validation is None:
            return
        yield from turned_images(rows)
        train, validation = (steps(one, rows.lag) for one in (rows.train, rows.validation))
        found = skew(train, validation, is_image=rows.is_image)
        if found is None:
            return
        told = ""
        measured, limit = found.distance, self.skew_limit
        if measured > limit:
            told = f"the median column is off by {found.shift:.3g} deviations and spreads "
            told += f"{found.ratio:.3g} times as wide: a Bhattacharyya distance of {measured:.3g}"
        elif found.gap > _GAP:
            measured, limit = found.gap, _GAP
            told = (
                f"column {found.column * rows.step} is off by {measured:.3g} interquartile ranges"
            )
        elif found.width > _WIDTH:
            measured, limit = found.width, _WIDTH
            told = f"column {found.widest * rows.step} spreads {measured:.3g} times as wide"
        elif not (rows.is_image or rows.lag):
            yield from _refilled(rows)
        if told and not is_chance(found, train, validation, is_image=rows.is_image):
            yield Evidence(
                where=rows.name,
                measured=measured,
                limit=limit,
                message=f"{told}, the limit is {limit:g} ({len(train)} samples of training, "
                f"{len(validation)} of validation{', from moment to moment' * bool(rows.lag)})",
                details={"distance": found.distance, "shift": found.shift, "ratio": found.ratio},
            )

    @rule("INP203", severity=Severity.ERROR)
    def train_val_overlap(self, leaks: Leaks) -> Iterator[Evidence]:
        """The net is shown the answers: samples of validation, or the target itself.

        Why it matters:
            What looks like learning is looking up. The scores are excellent, and on new data, where
            there is nothing to look up, the net fails.

        Likely causes:
            - The data were augmented, oversampled or windowed first, and split afterwards
            - The same file is read for both, or the random split differs between two calls
            - A column was made from the target, or the target was left in the table
            - The index of a file that is sorted by class was read as a column
            - A category is encoded as the mean of its targets, the sample's own among them
            - A language model has no causal mask, or its targets are not shifted

        How to fix:
            - Split first, then augment and oversample the training part
            - Remove copies before the split; split by patient, user or document
            - Drop the column that holds the target
            - Attend with ``is_causal=True``; let position t predict token t + 1

        When it is fine:
            All of the training data are validated, or of several sets one is a part of them: that
            is taken for intention, and not reported. Whole sequences are to be restored from a
            code. Rows of few categories, which repeat by nature, are not reported, nor are the few
            copies that a table has, if training has as many as chance brings to validation.

        References:
            kaufman2012leakage, kapoor2023leakage
        """
        yield from self._seen_before(leaks)
        yield from _given_away(leaks)
        yield from _told_in_training(leaks)
        yield from _foreseen(leaks)

    @rule("INP104", severity=Severity.WARNING, patience=2)
    def swapped_axes(self, axes: Axes) -> Iterator[Evidence]:
        """The dimensions of the input are in another order than the layer takes them.

        Why it matters:
            Nothing fails, since the sizes fit by chance or by ``view``. But channels are mixed with
            pixels, or samples with time: the net reads across what belongs apart.

        Likely causes:
            - Images come as (N, H, W, C), and ``view`` made (N, C, H, W) of them
            - ``batch_first=False``, the default of ``nn.LSTM`` and ``nn.TransformerEncoder``, and
              samples come first
            - ``Conv1d`` takes (N, features, time), and time comes first
            - ``view`` or ``reshape`` where two dimensions are to be exchanged
            - Height and width are exchanged where images are resized, or made of bytes
            - Masks are drawn at (x, y), or mirrored without their images, always or by chance

        How to fix:
            - Move the channels, do not cut anew: ``x.permute(0, 3, 1, 2)``
            - Say ``batch_first=True``, or transpose before and after

        When it is fine:
            Attention is meant to go from sample to sample; training has only landscapes, and
            validation portraits.

        References:
            paszke2019pytorch
        """
        if axes.first is not None:
            yield from scrambled_images(axes.first)
            yield from scrambled_sequences(axes.first)
            yield from recut(axes.first)
            yield from read_across(axes.first)
            yield from askew(axes.first)
        if axes.rows is not None:
            yield from misplaced_masks(axes.rows)
        yield from exchanged_sides(axes)

    @rule("INP105", severity=Severity.WARNING, patience=_LOOKS)
    def pretrained_mismatch(self, first: FirstLayers, processor: Processor) -> Iterator[Evidence]:
        """A pretrained net gets inputs of another scale than those it was trained on.

        Why it matters:
            Its filters answer to values that never come: much of what was learned is lost, and
            frozen layers cannot make up for it.

        Likely causes:
            - The normalization of the pretrained weights was left out, or applied twice
            - Images are 0..255 or 0..1 where the weights expect mean 0 and deviation 1
            - The channels are in another order: BGR for RGB

        How to fix:
            - Use the transforms that come with the weights: ``weights.transforms()``,
              ``AutoImageProcessor.from_pretrained``, ``timm.data.create_transform``

        When it is fine:
            The new data are of another kind, such as radiographs, and all layers are trained. Nets
            whose frozen layers some code can free later are not judged until it has; those without
            running statistics only if an image processor or their weights' own transforms are an
            attribute of the module, the data module or the data set.

        References:
            ioffe2015batch
        """
        norm = first.norm
        if norm is None or norm.was_fresh:
            yield from unnormalized(first, processor)
            return
        if norm.thaws:
            return
        factor = max(norm.ratio, 1 / max(norm.ratio, 1e-9))
        if norm.shift <= self.mismatch_shift and factor <= self.mismatch_spread:
            return
        by_shift = norm.shift > self.mismatch_shift
        yield Evidence(
            where=norm.name,
            measured=norm.shift if by_shift else factor,
            limit=self.mismatch_shift if by_shift else self.mismatch_spread,
            message=f"in the median channel, what {norm.name} gets is off by {norm.shift:.3g} of "
            f"its running standard deviations (the limit is {self.mismatch_shift:g}) and spreads "
            f"{norm.ratio:.3g} times as wide (the limit is {self.mismatch_spread:g})",
            details={"shift": norm.shift, "ratio": norm.ratio},
        )

    @rule(
        "INP204",
        severity=Severity.WARNING,
        caused_by=["CLS105", "INP101", "INP102", "INP104", "LRN101", "MOD101"],
    )
    def unrelated_labels(self, likeness: Likeness, learned: Learned) -> Iterator[Evidence]:
        """The labels seem to have nothing to do with the inputs.

        Why it matters:
            No net and no learning rate can predict them; what the training loss gains is memory.

        Likely causes:
            - Inputs and labels were shuffled, sorted or filtered apart from each other
            - Labels were joined by position instead of by key
            - The images and the labels, or masks, are listed in different orders

        How to fix:
            - Look at ten samples with their labels
            - Join by key; apply every permutation to both

        When it is fine:
            The task is hard: in a parity, near neighbours differ too, and it is learned late.
            Labels that have anything to do with the raw values, with the words of a text, with what
            the untrained net makes of them, or with its later predictions are never reported.

        References:
            cover1967nearest, zhang2017understanding
        """
        if abs(learned.z) > min(_UNLEARNED, _WEAK * math.sqrt(learned.worth) - _UNLEARNED):
            return
        found = relations(likeness, learned.target, least=_RELATED, others=_OTHERS)
        z = max(map(abs, found.values()), default=math.inf)
        if z < _UNRELATED:
            yield Evidence(
                where=learned.target,
                measured=z,
                limit=_UNRELATED,
                message=f"samples that are alike by {' or '.join(found)} have like labels no more "
                f"often than others (z = {z:.2g} at most, the limit is {_UNRELATED:g}), and "
                f"predictions hit them no more often than chance (z = {learned.z:.2g} for "
                f"{learned.samples} samples new to the net)",
                details={"neighbours": found, "predictions": learned.z},
            )

    @rule("INP205", severity=Severity.INFO)
    def too_few_samples(self, samples: Samples) -> Iterator[Evidence]:
        """There are very few samples of some class, or of all.

        Why it matters:
            A net can tell so few samples apart by anything, such as their background.

        Likely causes:
            - A debugging subset was left in place
            - A filter has dropped most of the data

        How to fix:
            - Start from a pretrained net and train its head
            - Augment; collect more; or take a simpler model

        When it is fine:
            Few-shot learning, and trials; samples of validation that can be made at will.

        References:
            hestness2017deep
        """
        overlap = samples.overlap
        if overlap is not None and samples.epoch and _SMALLER * overlap.trained <= overlap.distinct:
            yield Evidence(
                where=samples.name,
                measured=float(overlap.trained),
                limit=overlap.distinct / _SMALLER,
                message=f"training has {overlap.trained} different samples, and validation "
                f"{overlap.distinct}",
            )
            return
        if samples.epoch or not samples.is_whole or not samples.class_sizes:
            return
        fewest = min(samples.class_sizes, key=lambda one: samples.class_sizes[one])
        count = samples.class_sizes[fewest]
        if len(samples.class_sizes) < samples.distinct / 2 and count < self.least_samples:
            yield Evidence(
                where=f"class {fewest}",
                measured=float(count),
                limit=self.least_samples,
                message=f"class {fewest} has {count} different samples, the limit is "
                f"{self.least_samples:g}",
            )

    @rule("INP206", severity=Severity.INFO, patience=4)
    def mostly_padding(self, padding: Padding) -> Iterator[Evidence]:
        """Most of a batch is padding.

        Why it matters:
            Time and memory go into positions that say nothing, and a mean over all positions, such
            as a loss without mask, is mostly one over padding.

        Likely causes:
            - Everything is padded to a fixed length: ``padding="max_length"``
            - Long and short sequences share a batch

        How to fix:
            - Pad to the longest of the batch: ``padding=True``, ``DataCollatorWithPadding``
            - Sort by length into buckets, or pack several sequences into one

        When it is fine:
            Shapes must not change, for a compiled model or an accelerator.

        References:
            krell2021efficient
        """
        if padding.share > self.padding_limit:
            yield Evidence(
                where=padding.name,
                measured=padding.share,
                limit=self.padding_limit,
                message=f"{padding.share:.0%} of the positions are padding, the limit is "
                f"{self.padding_limit:.0%}",
            )

    def _seen_before(self, leaks: Leaks) -> Iterator[Evidence]:
        overlap = leaks.overlap
        if overlap is None or overlap.seen < _FEW:
            return
        share = overlap.known / overlap.seen
        if share > _ALL and _ALL < overlap.trained / overlap.distinct < 1 / _ALL:
            return  # the training data as a whole: on purpose, to see whether the step works
        natural = _by_nature(overlap, leaks.rows, self.copies_limit)
        if overlap.known >= _FEW / 2 and share > self.overlap_limit + natural:
            yield Evidence(
                where=leaks.name,
                measured=share,
                limit=self.overlap_limit,
                message=f"{overlap.known} of {overlap.seen} samples of validation are equal to one "
                f"of training ({share:.1%}), the limit is {self.overlap_limit:.1%}",
                details={"known": overlap.known, "seen": overlap.seen, "trained": overlap.trained},
            )


def _unfilled(rows: Rows) -> Iterator[Evidence]:
    """A table most of whose columns are 0 in all samples, and that has no other gaps."""
    if rows.is_image or rows.lag or rows.labels is None or len(rows.train) < _ALIKE:
        return
    is_blank = (rows.train == 0).all(0)
    empty, others = is_blank.nonzero().flatten().tolist(), (~is_blank).nonzero().flatten().tolist()
    if min(len(empty), len(others)) < _COLUMNS or len(empty) < len(others) or empty[0] > others[-1]:
        return
    usual = (rows.train == rows.train.mode(0).values).double().mean(0)[others]
    if usual.max() < _USUAL:  # of words and categories, some are 0 nearly always, and others always
        told = f"{len(empty)} of {len(is_blank)} columns are 0 in all of {len(rows.train)} samples"
        yield Evidence(
            where=f"{rows.name} column {empty[0] * rows.step}",
            measured=told,
            message=f"{told}, the first is column {empty[0] * rows.step}",
            causes=("Columns were allocated and not filled, or a copy of them was",),
            fixes=("Assign to the table itself: ``table[:, columns] = ...``, ``frame.loc[...]``",),
            severity=Severity.INFO,  # padding, triangles and flags look like this, too
        )


def _blanks(rows: Rows, limit: float) -> Iterator[Evidence]:
    """Samples without content, whose labels are as varied as those of all others.

    Where nothing is to be seen by nature, as at the end of a scan, the label says so.
    """
    if rows.blank is None or rows.labels is None or not rows.is_class:
        return
    share, others = float(rows.blank.double().mean()), rows.train[~rows.blank]
    if share <= limit or min(int(rows.blank.sum()), len(others)) < _BLANKS:
        return
    known = torch.unique(rows.labels)
    counts = [(rows.labels[one].unsqueeze(1) == known).sum(0) for one in (rows.blank, ~rows.blank)]
    if homogeneity(*counts) > _ALIKE_LABELS and len(counts[0]) > 1 and are_distinct(others):
        yield Evidence(
            where=rows.name,
            measured=share,
            limit=limit,
            message=f"{share:.0%} of {len(rows.train)} samples are blank, the limit is {limit:.0%};"
            " they have the same labels as the others do: there is nothing to tell them by",
            causes=("Files that could not be read or decoded, and a blank stands in for them",),
            fixes=("Let the data set raise where a file cannot be read, and count such files",),
        )


def _refilled(rows: Rows) -> Iterator[Evidence]:
    """A table whose columns are filled otherwise in validation."""
    train, validation = rows.train, rows.validation
    if validation is None:
        return
    where, is_labelled = rows.name, rows.labels is not None and rows.validation_labels is not None
    if (fill := filled(train, validation)) is not None:
        column, value, share = fill
        yield Evidence(
            where=where,
            measured=share,
            limit=OFTEN,
            message=f"column {column * rows.step} is {value:.3g} in {share:.0%} of "
            f"{len(validation)} samples of validation, far from all {len(train)} of training",
            causes=("Gaps are filled with another value than in training",),
            fixes=("Fill them with what training was filled with, before it is scaled",),
        )
    elif is_labelled and (empty := emptied(train, validation)) is not None:
        told = f"column {empty * rows.step} is {float(validation[0, empty]):.3g} in all "
        told += f"{len(validation)} samples of validation, and hardly twice the same in training"
        yield Evidence(
            where=where,
            measured=told,
            message=told,
            causes=("A join has found nothing, and a constant fills the gaps",),
            fixes=("Compare the keys and names of both files: count what is missing after a join",),
            severity=Severity.INFO,  # validation may be a slice of what training has seen
        )


def _looked_up(rows: UntrainedRows) -> Iterator[Evidence]:
    """Tables whose rows validation uses as they were initialized."""
    for name, share in rows.shares.items():
        if share > _UNTRAINED and rows.usual[name] < _NEWCOMERS:
            yield Evidence(
                where=name,
                measured=share,
                limit=_UNTRAINED,
                message=f"{share:.0%} of what validation looks up in this table was never looked "
                f"up in training, where {rows.usual[name]:.0%} of a step is new: these rows are as "
                f"they were initialized; the limit is {_UNTRAINED:.0%}",
                causes=(
                    "Samples were split by user, item or word, and the net knows each of them",
                ),
                fixes=("Split within each of them, or describe those that are new by features",),
                # Nets that know them otherwise, too, may well do without.
                severity=Severity.INFO,
            )


def _told_of_all(samples: Samples, loader: TrainLoader, ranks: int) -> Evidence:
    """All processes train on the same samples, and each update is that of one of them."""
    stream = "Split the stream between processes and workers, by rank and ``get_worker_info()``"
    sampler = "Leave ``use_distributed_sampler=True``, or pass a ``DistributedSampler``"
    return Evidence(
        where=samples.name,
        measured=float(ranks),
        limit=1.0,
        message=f"all {ranks} processes go through the same samples ({samples.distinct} so far)",
        causes=("A stream that every process reads as a whole",)
        if loader.is_stream
        else (f"{loader.sampler} gives every process all the data",),
        fixes=(stream if loader.is_stream else sampler,),
        details={"ranks": ranks, "seen": samples.seen, "distinct": samples.distinct},
    )


def _by_chance(samples: Samples) -> float:
    """Bounds the chance that so many batches are equal to the one before, in a random order.

    Two batches agree if, in some order, each sample of one agrees with one of the other; and so
    often they do by the bound of Chernoff.
    """
    pairs = sum(times * count**2 for count, times in samples.often.items())
    if not pairs:
        return 1.0
    agree = math.lgamma(samples.size + 1) + samples.size * math.log(pairs / samples.seen**2)
    share = samples.same / samples.pairs
    if agree >= math.log(share):
        return 1.0
    excess = share * (math.log(share) - agree)
    if share < 1:
        excess += (1 - share) * math.log((1 - share) / -math.expm1(agree))
    return math.exp(-samples.pairs * excess)


def _by_nature(overlap: Overlap, rows: Rows | None, copies_limit: float) -> float:
    """Returns which share of validation is equal to a sample of training by nature, at most.

    As often as two rows of one set are equal by chance. Rows that have too much in them for that
    are copies, and a table has some: a row of validation is as likely to have a twin in training
    as one of training is. Who oversamples until classes are even makes more of them.
    """
    if rows is not None and are_distinct(rows.train):
        twins = 2 * overlap.copies if overlap.copies <= copies_limit else 0.0
        return twins + _NOISES * math.sqrt(twins / overlap.seen)
    pairs = (overlap.seen**2 + overlap.trained**2) / 2
    return _NATURAL * overlap.trained * (overlap.repeats + _RARE) / pairs


def _given_away(leaks: Leaks) -> Iterator[Evidence]:
    """A column of the input is the target."""
    rows = leaks.rows
    if rows is None or rows.labels is None or len(rows.train) < _SEEN:
        return
    if (number := row_number(rows)) is not None:
        told = f"column {number * rows.step} of the input counts the rows of a file in which the "
        told += f"classes come one after the other: it tells all of {len(rows.train)} samples apart"
        yield Evidence(
            where=f"{rows.name} column {number * rows.step}",
            measured=told,
            message=told,
            causes=("The file is sorted by class, and its index is still in the table",),
            fixes=("Drop the column: ``read_csv(..., index_col=0)``, ``to_csv(index=False)``",),
            # A time at which something has changed, or a dose that is too much, counts as well.
            severity=Severity.WARNING
            if len(torch.unique(rows.labels)) > _EITHER
            else Severity.INFO,
        )
    columns = [one * rows.step for one in leak(rows.train, rows.labels, is_class=rows.is_class)]
    if columns:
        named = ", ".join(map(str, columns))
        told = f"column{'s' * (len(columns) > 1)} {named} of the input "
        told += (
            f"{'are' if len(columns) > 1 else 'is'} the target, in all of {len(rows.train)} samples"
        )
        yield Evidence(
            where=f"{rows.name} column {named}",
            measured=told,
            message=told,
            causes=("The column was made from the target, or is the target",),
            fixes=("Drop the column",),
            details={"columns": columns},
        )


def _told_in_training(leaks: Leaks) -> Iterator[Evidence]:
    """A column knows the target, but only that of the samples to train on."""
    found = faded(leaks.rows) if leaks.rows is not None else None
    if leaks.rows is None or found is None:
        return
    column, told, new = found
    column *= leaks.rows.step
    message = (
        f"column {column} of the input goes with the target in training ({told:.2f}) far more than "
        f"in validation ({new:.2f}), where the other columns tell as much as before: as if it was "
        "made from the targets of training"
    )
    yield Evidence(
        where=f"{leaks.rows.name} column {column}",
        measured=told - new,
        message=message,
        causes=("A mean of the targets, over a category or in time, holds the sample's own",),
        fixes=("Leave the sample out: encode within folds, as ``TargetEncoder.fit_transform``",),
        details={"column": column, "training": told, "validation": new},
        severity=Severity.WARNING,  # what a column tells may also change with the world
    )


def _foreseen(leaks: Leaks) -> Iterator[Evidence]:
    """A language model sees the token that it is to predict."""
    seen = leaks.foresight
    if seen is None or not seen.leaks:
        return
    if seen.shift > 0:
        told = (
            f"other tokens in the second half change the outputs of the first by {seen.change:.3g}"
        )
        told += " standard deviations: each position sees the token that it is to predict"
        causes: tuple[str, ...] = (
            "A causal mask is missing or inverted",
            "The recurrent net runs both ways",
        )
        fixes: tuple[str, ...] = ("Attend with ``is_causal=True``", "Use ``bidirectional=False``")
    else:
        told = "the targets are the tokens of the input, place by place: nothing is to be predicted"
        causes = ("The targets were not shifted",)
        if seen.shift:
            told = "the targets are the tokens before those of the input, which the net has seen"
            causes = ("The targets were shifted the wrong way, or exchanged for the input",)
        fixes = ("Let position t predict token t + 1: ``logits[:, :-1]`` against ``ids[:, 1:]``",)
    yield Evidence(
        where=seen.name, measured=told, message=told, causes=causes, fixes=fixes,
        details={"change": seen.change, "shift": seen.shift},
    )  # fmt: skip


def _are_few(samples: Samples, loader: TrainLoader) -> bool:
    """Tells whether training goes round and round in fewer samples than there are to validate."""
    if samples.overlap is None or samples.alike >= _BATCHES:
        return False
    if not loader.collates and samples.same == samples.pairs:
        return False  # a single batch that is ready-made may well hold all the data
    few, all_ = samples.distinct, loader.samples or math.inf
    return 0 < _FEWER * few < min(samples.overlap.distinct, all_) and _ROUNDS * few <= samples.seen


def _is_oversampled(samples: Samples) -> bool:
    """Tells whether some classes have copies and others have none: rare ones, on purpose."""
    times = samples.by_class.values()
    return len(times) > 1 and max(times) - 1 > _UNEVEN * (min(times) - 1) + _ONCE


def _offset(mean: float, deviation: float) -> float:
    """Returns how many deviations lie between a mean and 0; 0 for a constant."""
    return abs(mean) / deviation if deviation > _FLAT * abs(mean) else 0.0


def _scale(layer: FirstLayer, limit: float) -> tuple[float, str] | None:
    """Returns by how much the input is too large or too small, and says so."""
    sizes = layer.sizes
    largest = max(sizes)
    span = f"values from {layer.low:.4g} to {layer.high:.4g}"
    if not math.isfinite(largest):
        return None
    if largest > limit:
        typical = statistics.median(sizes)
        column = sizes.index(largest)
        if len(sizes) > 1 and largest > _DOMINANT * typical:
            return largest, (
                f"{span}; column {column} has a root mean square of {largest:.3g}, the median "
                f"column one of {typical:.3g}, the limit is {limit:g}"
            )
        return largest, f"{span}: a root mean square of {largest:.3g}, the limit is {limit:g}"
    if layer.kind.startswith("Conv2d"):
        apart = min(map(_offset, layer.means, layer.deviations))
        if apart > _AWAY:
            return apart, (
                f"{span}: each channel is at least {apart:.3g} of its standard deviations away "
                f"from 0, the limit is {_AWAY:g}"
            )
    top = max(abs(layer.low), abs(layer.high))
    if 0 < top < _TINY:
        return top, f"{span}: none reaches {_TINY:g}"
    return None
