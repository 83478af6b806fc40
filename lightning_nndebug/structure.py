"""Structure: what the order of the layers alone gives away."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .core.detector import Detector, rule, threshold
from .core.findings import Evidence, Severity
from .core.measurements.unused import Unused
from .core.measurements.wiring import Link, Norm, Part, Wiring

# What is linear on purpose says so by its name: a projection, a code, a factor of a matrix.
_ON_PURPOSE = re.compile(
    r"emb|proj|code|coding|latent|bottleneck|adapt|lora|factor|rank|query|key|value|qkv|to_|mix"
    r"|whiten|calib|scal|down|up|reduc|squeeze|expan|probe|mean|mu|std|var|^[qkvwo]_?$|^w_?[qkvo]$"
)


class StructureDetector(Detector):
    """Structure: what the order of the layers alone gives away.

    Args:
        largest_inflation: Dropout may make the variance that a batch norm remembers this many times
            larger than the one that it will meet in validation.
        smallest_norm_batch: A batch norm needs statistics of at least this many values; those of
            one sample are alike, and all but one of them count half.
    """

    largest_inflation: float = threshold(default=1.5, source="li2019understanding", minimum=1.0)
    smallest_norm_batch: int = threshold(default=4, source="benchmarks/thresholds#structure")

    @rule("STR101", severity=Severity.WARNING, patience=2)
    def dropout_before_norm(self, wiring: Wiring) -> Iterator[Evidence]:
        """Dropout comes right before a batch norm, or last of all, where it changes the answers.

        Why it matters:
            What dropout keeps it scales up: the mean stays, but the variance grows. The norm
            remembers the grown one, and divides by it in validation, where nothing is dropped:
            all that follows gets inputs that are too small. Behind the last layer there is nothing
            to make up for it: some answers are 0, and the others learn to be too large.

        Likely causes:
            - The block is ordered dropout, norm instead of norm, dropout
            - A loop that makes the layers puts dropout behind each of them, the last one too

        How to fix:
            - Move the dropout behind the norm, or behind the last norm of the net
            - Replace the batch norm by ``LayerNorm``, which does not remember
            - Move a dropout of answers before the last layer

        When it is fine:
            The rate is low: up to a third is not reported before a norm, or a quarter right after a
            ReLU, where dropout moves more. Nor is dropout one layer earlier, as in the usual order
            of blocks, or of features that other layers use as well.

        References:
            li2019understanding
        """
        offsets = {norm.name: norm.offset for norm in wiring.norms}
        for link in wiring.links:
            inflation = _inflation(link.source.rate, offsets.get(link.target.name, 0.0))
            if _is(link, "dropout", "batch norm") and inflation > self.largest_inflation:
                yield Evidence(
                    where=link.target.name,
                    measured=inflation,
                    limit=self.largest_inflation,
                    message=f"{link.source.name} (p={link.source.rate:g}) makes the variance in "
                    f"training {inflation:.3g} times that in validation; the limit is "
                    f"{self.largest_inflation:g} times",
                )
        for part in wiring.answers:
            yield Evidence(
                where=part.name,
                measured=part.rate,
                limit=0,
                message=f"{part.rate:.0%} of the answers themselves are set to 0 before they are "
                "compared with the targets, and the others scaled up",
            )

    @rule("STR102", severity=Severity.INFO, patience=2)
    def bias_before_norm(self, wiring: Wiring) -> Iterator[Evidence]:
        """A bias is added, and the norm that follows takes it away again.

        Why it matters:
            It does nothing but cost memory and time, and its gradient is rounding noise, which an
            adaptive optimizer blows up to steps of full size.

        Likely causes:
            - Layers have a bias unless told otherwise

        How to fix:
            - Make the layer with ``bias=False``: the norm has a bias of its own

        When it is fine:
            Always, but for the waste.

        References:
            ioffe2015batch
        """
        norms = ("batch norm", "instance norm")
        idle = [
            link.source
            for link in wiring.links
            if link.target.kind in norms and link.source.has_bias and link.is_only and link.is_plain
        ]
        if idle:
            yield Evidence(
                where=idle[0].name,
                measured=len(idle),
                limit=0,
                message=f"{_these([one.name for one in idle])} add a bias, which a norm takes away",
                details={"modules": [one.name for one in idle]},
            )

    @rule("STR103", severity=Severity.WARNING, patience=2)
    def missing_nonlinearity(self, wiring: Wiring) -> Iterator[Evidence]:
        """A linear layer feeds another one directly: the two can do no more than one.

        Why it matters:
            The product of two matrices is a matrix. The net is shallower than it looks, and
            harder to train than one of its true depth.

        Likely causes:
            - The activation between them was forgotten, or is defined and not called
            - ``nn.LeakyReLU(True)``: that is its slope below zero, and makes it a straight line

        How to fix:
            - Put ``nn.ReLU()`` or ``nn.GELU()`` between them, or ``nn.LeakyReLU(inplace=True)``
            - Or make one layer of the two

        When it is fine:
            A bottleneck, which is narrower than both its ends, factorizes on purpose and is never
            reported; neither are depthwise or pointwise convolutions, layers that are named after a
            projection or a code, layers of two nets, gated linear units, and outputs that more than
            one layer uses.

        References:
            saxe2014exact
        """
        for link in wiring.links:
            if _is_redundant(link) and link.is_only and link.is_plain:
                between = f"no more than {', '.join(link.between)}" if link.between else "nothing"
                yield Evidence(
                    where=link.target.name,
                    measured=between,
                    message=f"{between} comes between {link.source.name} "
                    f"({link.source.inputs} to {link.source.outputs}) and {link.target.name} "
                    f"({link.target.inputs} to {link.target.outputs})",
                )

    @rule("STR104", severity=Severity.WARNING, patience=3)
    def tiny_norm_batch(self, wiring: Wiring) -> Iterator[Evidence]:
        """A batch norm makes its statistics of next to nothing.

        Why it matters:
            Of two values, the norm makes -1 and +1, whatever they were. The statistics that it
            remembers for validation are as noisy.

        Likely causes:
            - The batch of one device is tiny; accumulating gradients does not help a norm
            - The norm comes after a pooling that leaves one position per sample

        How to fix:
            - Use ``GroupNorm`` or ``LayerNorm``
            - Raise the batch size, or use ``Trainer(sync_batchnorm=True)`` on several devices

        When it is fine:
            Hardly ever. Positions count as values: a batch of one image is fine, as long as it is
            larger than a few pixels. So is a pretrained norm that stays in eval mode.

        References:
            wu2018group, ioffe2015batch
        """
        tiny = [norm for norm in wiring.norms if _worth(norm) < self.smallest_norm_batch]
        if tiny:
            least, names = min(tiny, key=_worth), [norm.name for norm in tiny]
            positions = f" at {least.positions} positions" if least.positions > 1 else ""
            yield Evidence(
                where=names[0],
                measured=_worth(least),
                limit=self.smallest_norm_batch,
                message=f"{_these(names)}: a batch of {least.samples}{positions}, worth "
                f"{_worth(least):g} values of each channel; the limit is "
                f"{self.smallest_norm_batch}",
                details={"modules": names},
            )

    @rule("STR105", severity=Severity.WARNING, caused_by=["UPD101"])
    def unused_module(self, unused: Unused) -> Iterator[Evidence]:
        """The module has parameters, and nothing in the code uses it.

        Why it matters:
            The net is not the one that was meant. The parameters cost memory, and with several
            devices the run may end with an error about parameters that got no gradient.

        Likely causes:
            - ``forward`` does not call it, or calls another one in its place
            - It is called in a branch that is never taken
            - ``zip`` stops at the end of a shorter list, or ``range`` before it
            - A loop over layers returns from its first round, or calls the same layer each time
            - It is left over from an earlier version

        How to fix:
            - Call it in ``forward``
            - Or remove it from ``__init__``

        When it is fine:
            It is there for a later stage or for another program. A module that any method of yours
            names, that is frozen, or that belongs to a library is never reported, unless all that
            names it is a branch that an attribute has switched off for ever.

        References:
            paszke2019pytorch
        """
        for name, size in unused.modules:
            yield Evidence(
                where=name,
                measured=size,
                limit=0,
                message=f"{size:,} trainable parameters: not called in {unused.steps} steps, "
                "reached by no gradient, and named by no method but the one that makes it, in a "
                "branch that is not taken, or by a loop that makes nothing of it or never comes to "
                "it",
            )


def _inflation(rate: float, offset: float) -> float:
    """Returns the variance with dropout over that without.

    Of values that are kept by chance and scaled up, the mean square grows by 1 / (1 - rate), and
    the mean not at all.

    Args:
        rate: The share that is dropped.
        offset: Square of the mean over the variance, with dropout.
    """
    left = 1.0 - rate * (1.0 + offset)
    return 1.0 / max(1e-6, left if left > 0 else 1.0 - rate)


def _worth(norm: Norm) -> float:
    """Returns how many values there are, where positions of one sample are much alike."""
    return norm.samples * (1 + (norm.positions - 1) / 2)


def _is(link: Link, source: str, target: str) -> bool:
    return (link.source.kind, link.target.kind) == (source, target)


def _is_redundant(link: Link) -> bool:
    """Whether one layer could do what two do."""
    one, other = link.source, link.target
    if one == other or not (one.is_trained and other.is_trained) or _is_on_purpose(one):
        return False
    if not _are_one_net(one, other):
        return False
    if _is(link, "linear", "linear"):
        return one.outputs == other.inputs and one.outputs >= min(one.inputs, other.outputs)
    if _is(link, "convolution", "convolution"):
        return all(
            part.is_dense and min(part.kernel) > 1 and len(set(part.kernel)) == 1
            for part in (one, other)
        )
    return False


def _is_on_purpose(part: Part) -> bool:
    words = [word for word in part.name.lower().split(".") if not word.isdigit()]
    return bool(words) and _ON_PURPOSE.search(words[-1]) is not None


def _are_one_net(one: Part, other: Part) -> bool:
    """Whether two layers have one parent, or the same place in two numbered blocks of one.

    A generator and its critic, or an embedding and a classifier, are two nets.
    """
    (first, leaf), (second, other_leaf) = (part.name.rpartition(".")[::2] for part in (one, other))
    is_numbered = re.sub(r"\d+", "*", first) == re.sub(r"\d+", "*", second)
    return first == second or (is_numbered and leaf == other_leaf)


def _these(names: Sequence[str]) -> str:
    rest = len(names) - 1
    return names[0] if not rest else f"{names[0]} and {rest} other{'s' * (rest > 1)}"
