"""What the loader of the training data says of itself, without being iterated."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from . import Measurement, Moment


@dataclass(frozen=True)
class TrainLoader(Measurement):
    """How the training data are drawn, as far as that can be read off the loader.

    Attributes:
        sampler: The class that decides on the order.
        shuffles: Whether it does so at random; None if nobody knows.
        replaces: Whether it may draw a sample again in the same epoch; None likewise.
        samples: How many samples the data set has; None likewise, and of ready-made batches.
        collates: Whether it puts samples together to batches, rather than to pass on ready ones,
        size: and how many of them; None if nobody knows.
        workers: Processes that load them.
        is_stream: Whether the data set decides on the order itself.
    """

    hooks: ClassVar[tuple[str, ...]] = ("on_train_start",)
    lasting: ClassVar[bool] = True

    sampler: str
    shuffles: bool | None = None
    replaces: bool | None = None
    samples: int | None = None
    collates: bool = False
    size: int | None = None
    workers: int = 0
    is_stream: bool = False

    @classmethod
    def take(cls, moment: Moment, memory: SimpleNamespace) -> TrainLoader:
        """Looks at the loader; of several, nothing is known."""
        combined = getattr(moment.trainer.fit_loop, "_combined_loader", None)
        loaders = list(getattr(combined, "flattened", ()))
        if len(loaders) != 1 or not isinstance(loaders[0], DataLoader):
            return cls(type(loaders[0]).__name__ if len(loaders) == 1 else "several loaders")
        loader: DataLoader[Any] = loaders[0]
        stream = isinstance(loader.dataset, IterableDataset)
        sampler = _sampler(loader)
        shuffles, replaces = (None, None) if stream else _habits(sampler)
        collates = loader.batch_sampler is not None
        # One index at a time, each of them once: what the data set holds are batches.
        ready = not collates and replaces is False
        return cls(
            sampler=type(loader.dataset if stream else sampler).__name__,
            shuffles=shuffles,
            replaces=True if not stream and _repeats(loader.dataset) else replaces,
            samples=None if stream or ready else _length(loader.dataset),
            collates=collates,
            size=loader.batch_size,
            workers=loader.num_workers,
            is_stream=stream,
        )  # fmt: skip


def _sampler(loader: DataLoader[Any]) -> Any:
    """Returns who decides on the order. With a batch sampler, the loader's own sampler is void."""
    batches: Any = loader.batch_sampler
    if batches is None:
        sampler = loader.sampler
    elif isinstance(batches, BatchSampler) and type(batches).__iter__ is BatchSampler.__iter__:
        sampler = batches.sampler
    else:
        sampler = batches
    inner = getattr(getattr(sampler, "dataset", None), "_sampler", None)
    return sampler if inner is None else inner  # Lightning wraps it for several processes


def _habits(sampler: Any) -> tuple[bool | None, bool | None]:
    """Returns whether it shuffles, and whether it may draw a sample twice."""
    kind = type(sampler)
    if kind in (RandomSampler, WeightedRandomSampler):
        return True, bool(sampler.replacement)
    if kind is SubsetRandomSampler:
        return True, len(set(sampler.indices)) < len(sampler.indices)
    if kind is SequentialSampler:
        return False, False
    if isinstance(sampler, DistributedSampler):
        return bool(sampler.shuffle), False
    return None, None


def _repeats(dataset: Any) -> bool:
    """Tells whether the data set has been told to show samples more than once."""
    if isinstance(dataset, Subset):
        return len(set(dataset.indices)) < len(dataset.indices) or _repeats(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        parts = dataset.datasets
        return len({id(one) for one in parts}) < len(parts) or any(map(_repeats, parts))
    return False


def _length(dataset: Any) -> int | None:
    try:
        return len(dataset)
    except (TypeError, NotImplementedError, AttributeError):
        return None
