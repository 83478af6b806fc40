"""Each truth about structure, without a Trainer where none is needed."""

from __future__ import annotations

import pytest
import torch
from cases._parts import Classifier, loader
from program import Program, fit, seed
from torch import nn
from torch.nn import functional as F

from lightning_nndebug import Evidence, Severity, StructureDetector, UpdateDetector
from lightning_nndebug.core.detector import Detector, rule
from lightning_nndebug.core.measurements.wiring import Link, Part, Wiring


def linear(name: str = "net.0", inputs: int = 64, outputs: int = 64, **changes) -> Part:
    return Part(name, "linear", inputs, outputs, **changes)


def convolution(name: str = "net.0", kernel=(3, 3), **changes) -> Part:
    return Part(name, "convolution", 8, 8, kernel=kernel, **changes)


def missing(source: Part, target: Part, **changes) -> bool:
    wiring = Wiring((Link(source, target, **changes),))
    return bool(list(StructureDetector().missing_nonlinearity(wiring)))


def test_two_layers_with_nothing_between_are_one() -> None:
    """Also with a dropout between them."""
    assert missing(linear(), linear("net.1"))
    assert missing(linear(), linear("net.2"), dropouts=("net.1",))
    assert missing(convolution(), convolution("net.1"))
    assert missing(linear("net.0.layer"), linear("net.1.layer"))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (linear(outputs=16), linear("net.1", inputs=16)),
        (linear("net.q_proj"), linear("net.head")),
        (linear("encoder.0"), linear("decoder.0")),
        (linear("net.0.2"), linear("net.1")),
        (linear(is_trained=False), linear("net.1")),
        (convolution(is_dense=False), convolution("net.1")),
        (convolution(kernel=(1, 1)), convolution("net.1")),
        (convolution(kernel=(1, 7)), convolution("net.1", kernel=(7, 1))),
        (linear(), linear()),
    ],
)
def test_layers_may_follow_each_other_on_purpose(source, target) -> None:
    """A bottleneck, a projection, two nets, a frozen one, separable ones, one that repeats."""
    assert not missing(source, target)


@pytest.mark.parametrize("changes", [{"is_only": False}, {"is_plain": False}])
def test_an_output_that_is_used_otherwise_is_no_fault(changes) -> None:
    """By several layers, or in another shape."""
    assert not missing(linear(), linear("net.1"), **changes)


@pytest.mark.parametrize(("rate", "is_told"), [(0.5, True), (0.3, False), (1.0, True)])
def test_dropout_before_a_norm_is_judged_by_its_rate(rate, is_told) -> None:
    """The variance grows by 1 / (1 - p)."""
    link = Link(Part("drop", "dropout", rate=rate), Part("norm", "batch norm"))
    assert bool(list(StructureDetector().dropout_before_norm(Wiring((link,))))) is is_told


@pytest.mark.parametrize(("values", "is_told"), [(2, True), (3, True), (4, False), (64, False)])
def test_a_norm_needs_some_values(values, is_told) -> None:
    """Positions count."""
    wiring = Wiring((), (("norm", values),))
    assert bool(list(StructureDetector().tiny_norm_batch(wiring))) is is_told


class Note(Detector):
    """Keeps the wiring."""

    @rule("BEN211", severity=Severity.INFO)
    def note(self, wiring: Wiring):
        """Keeps the wiring."""
        seen.append(wiring)
        yield Evidence("", 0.0)


seen: list[Wiring] = []


def wired(net: nn.Module) -> list[tuple[str, str, bool]]:
    seed(0)
    seen.clear()
    fit(Program(Classifier(net), loader(), trainer={"max_steps": 1}), Note())
    return [(link.source.name, link.target.name, link.is_only) for link in seen[0].links]


def test_links_follow_the_graph_and_not_the_order_of_definition() -> None:
    """`second` runs first, and is used twice; a functional ReLU comes between the others."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = (nn.Linear(64, 64) for _ in range(3))
            self.head = nn.Linear(64, 10)

        def forward(self, x):
            x = self.second(x)
            x = x + self.first(x)
            return self.head(F.relu(self.third(x), inplace=True))

    assert wired(Net()) == [("net.second", "net.first", False)]


def test_norms_are_linked_through_views_and_not_through_activations() -> None:
    """The batch norm takes what the layer gives; the ReLU gives something else."""
    net = nn.Sequential(
        nn.Linear(64, 64), nn.Unflatten(1, (16, 4)), nn.BatchNorm1d(16), nn.Flatten(),
        nn.ReLU(), nn.BatchNorm1d(64), nn.Linear(64, 10),
    )  # fmt: skip
    assert wired(net) == [("net.0", "net.2", True), ("net.5", "net.6", True)]


def unused(module: nn.Module) -> list[str]:
    seed(0)
    detector = StructureDetector(select=["STR105"])
    fit(Program(module, loader(), trainer={"max_epochs": 1}), detector)
    return [one.where for one in detector.findings]


def test_a_module_that_another_method_names_may_be_meant_for_later() -> None:
    """`export` has a use for it."""

    class Exported(Classifier):
        def __init__(self):
            super().__init__()
            self.quantizer = nn.Linear(10, 4)
            self.forgotten = nn.Linear(10, 4)
            nn.init.zeros_(self.forgotten.weight)

        def export(self, x):
            return self.quantizer(self(x))

    assert unused(Exported()) == ["forgotten"]


def test_a_module_that_is_used_by_its_weights_is_in_use() -> None:
    """A gradient comes to it, though nobody calls it."""

    class Borrowed(Classifier):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 64)
            self.also = [self.layer]

        def forward(self, x):
            return self.net(F.linear(x, self.also[0].weight))

    assert not unused(Borrowed())


def test_a_hugging_face_transformer_is_well() -> None:
    """Built from a configuration; it brings a pooler that this task does not use."""
    transformers = pytest.importorskip("transformers")
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.BertConfig(
        vocab_size=64, intermediate_size=64, max_position_embeddings=64, num_labels=10, **size
    )

    class Tagger(Classifier):
        def __init__(self):
            super().__init__(transformers.BertModel(config))
            self.head = nn.Linear(32, 10)

        def forward(self, x):
            tokens = (x.mul(8).long() + 16).clamp(0, 63)
            return self.head(self.net(tokens).last_hidden_state.mean(1))

    seed(0)
    detectors = StructureDetector(), UpdateDetector()
    fit(Program(Tagger(), loader(), trainer={"max_steps": 25}), *detectors)
    assert not [str(one) for each in detectors for one in each.findings if one.severity != "info"]
    assert torch.is_grad_enabled()
