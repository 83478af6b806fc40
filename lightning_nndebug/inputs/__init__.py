"""Inputs: do the data get to the net, and are they what the net is meant to learn from?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from ..core.detector import Detector, rule, threshold
from ..core.findings import Evidence, Severity
from ..core.measurements.first_layers import FirstLayer, FirstLayers
from ..core.measurements.loaders import TrainLoader
from ..core.measurements.samples import Samples

_BATCHES = 8  # in a row must show it, before a batch or its samples are called the same
_PAIRS = 8  # of batches that follow one another, likewise
_SAME = 0.4  # of the batches equal to the one before: two workers with the same data make it a half
_LOOKS = 3  # at the first layers
_DOMINANT = 10.0  # times as large as the median column
_TINY = 0.01  # the largest value of inputs that were scaled twice


class InputDetector(Detector):
    """Inputs: do the data get to the net, and are they what the net is meant to learn from?

    Inputs are found by themselves: the tensors of a batch that are neither target, mask, length nor
    number of a sample. Samples are told apart by fingerprints of 8 bytes, of which some 65,000 are
    kept; no loader is ever iterated.

    Args:
        input_key: Where the inputs are in a batch, such as ``"image"`` or ``0``. None finds them.
        target_key: Where the targets are, likewise.
        target_fn: A function from a batch to its targets, for batches that no key describes.
        sample_id_key: What tells samples apart, if the batch has numbers for them. None takes the
            inputs, which augmentation makes new at every visit.
        scale_limit: The root mean square that the values of a column or channel may have.
    """

    input_key: str | int | None = None
    target_key: str | int | None = None
    target_fn: Callable[[Any], Any] | None = None
    sample_id_key: str | int | None = None
    scale_limit: float = threshold(default=30.0, source="benchmarks/thresholds#inputs")

    @rule("INP101", severity=Severity.ERROR)
    def constant_input(self, samples: Samples) -> Iterator[Evidence]:
        """Every sample of every batch has the same input: there is nothing to tell them apart by.

        Why it matters:
            The best that the net can do is to answer with the mean of the targets.

        Likely causes:
            - The file was not found or not decoded, and a blank stands in for it
            - ``__getitem__`` does not use its index
            - A mask, a crop or a normalization turns everything into a constant
            - The tensor was allocated and never filled

        How to fix:
            - Look at a few samples as the loader returns them
            - Check the path, the index and the last transform before the batch

        When it is fine:
            The net is meant to learn a constant. Constant columns and border pixels, masks and
            batches of fewer than four samples are never reported.

        References:
            goodfellow2016deep
        """
        if samples.alike < _BATCHES:
            return
        what = f"in {samples.alike} batches in a row, all {samples.size} samples are the same"
        if samples.blank >= _BATCHES:
            value = "one value" if math.isnan(samples.value) else f"{samples.value:g}"
            what = f"in {samples.blank} batches in a row, every value is {value}"
        yield Evidence(where=samples.name, measured=what, message=what)

    @rule("INP102", severity=Severity.ERROR)
    def repeated_batch(self, samples: Samples, loader: TrainLoader) -> Iterator[Evidence]:
        """The loader gives the same batch again and again.

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

        References:
            paszke2019pytorch
        """
        is_meant = not loader.collates or (loader.samples or math.inf) <= samples.size
        if is_meant or samples.pairs < _PAIRS or samples.alike >= _BATCHES:
            return
        share = samples.same / samples.pairs
        if share > _SAME and samples.same >= _PAIRS / 2:
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
    top = max(abs(layer.low), abs(layer.high))
    if 0 < top < _TINY:
        return top, f"{span}: none reaches {_TINY:g}"
    return None
