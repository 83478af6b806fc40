"""Each truth about structure, without a Trainer where none is needed."""

from __future__ import annotations

import copy

import pytest
import torch
from cases._parts import Classifier, loader
from program import Program, fit, seed
from torch import nn
from torch.nn import functional as F

from lightning_nndebug import Evidence, NNDebug, Severity, StructureDetector, UpdateDetector
from lightning_nndebug.core.detector import Detector, rule
from lightning_nndebug.core.measurements.wiring import Link, Norm, Part, Wiring


def linear(name: str = "net.0", inputs: int = 64, outputs: int = 64, **changes) -> Part:
    return Part(name, "linear", inputs, outputs, **changes)


def convolution(name: str = "net.0", kernel=(3, 3), **changes) -> Part:
    return Part(name, "convolution", 8, 8, kernel=kernel, **changes)


def missing(source: Part, target: Part, **changes) -> bool:
    wiring = Wiring((Link(source, target, **changes),))
    return bool(list(StructureDetector().missing_nonlinearity(wiring)))


def test_two_layers_with_nothing_between_are_one() -> None:
    """Also with a dropout or a batch norm between them, or in two blocks of one kind."""
    assert missing(linear(), linear("net.1"))
    assert missing(linear(), linear("net.2"), between=("net.1",))
    assert missing(convolution(), convolution("net.1"))
    assert missing(linear("net.0.layer"), linear("net.1.layer"))
    assert missing(linear("block1.layer"), linear("block2.layer"))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (linear(outputs=16), linear("net.1", inputs=16)),
        (linear("net.q_proj"), linear("net.head")),
        (linear("encoder.0"), linear("decoder.0")),
        (linear("net.0.2"), linear("net.1")),
        (linear("net1.2"), linear("net2.0")),
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


@pytest.mark.parametrize(
    ("rate", "offset", "is_told"),
    [(0.5, 0.0, True), (0.3, 0.0, False), (0.3, 0.3, True), (0.2, 0.3, False), (1.0, 0.0, True)],
)
def test_dropout_before_a_norm_is_judged_by_its_rate(rate, offset, is_told) -> None:
    """The variance grows by 1 / (1 - p), and more where the mean is not zero."""
    link = Link(Part("drop", "dropout", rate=rate), Part("norm", "batch norm"))
    wiring = Wiring((link,), (Norm("norm", 32, offset=offset),))
    assert bool(list(StructureDetector().dropout_before_norm(wiring))) is is_told


@pytest.mark.parametrize(
    ("samples", "positions", "is_told"),
    [(2, 1, True), (3, 1, True), (4, 1, False), (64, 1, False), (1, 4, True), (1, 64, False)],
)
def test_a_norm_needs_some_values(samples, positions, is_told) -> None:
    """Positions count, but less than samples."""
    wiring = Wiring((), (Norm("norm", samples, positions),))
    assert bool(list(StructureDetector().tiny_norm_batch(wiring))) is is_told


class Note(Detector):
    """Keeps the wiring."""

    @rule("BEN211", severity=Severity.INFO)
    def note(self, wiring: Wiring):
        """Keeps the wiring."""
        seen.append(wiring)
        yield Evidence("", 0.0)


seen: list[Wiring] = []


def wiring_of(net: nn.Module) -> Wiring:
    seed(0)
    seen.clear()
    fit(Program(Classifier(net), loader(), trainer={"max_steps": 1}), Note())
    return seen[0]


def wired(net: nn.Module) -> list[tuple[str, str, bool]]:
    return [(link.source.name, link.target.name, link.is_only) for link in wiring_of(net).links]


def test_what_a_gated_linear_unit_takes_is_two_layers() -> None:
    """Each half uses what the layer before gives, as two layers that multiply would."""
    gated = nn.Sequential(
        nn.Linear(64, 64), nn.Dropout(0.1), nn.Linear(64, 64), nn.GLU(), nn.Linear(32, 10)
    )
    assert wired(gated) == [("net.0", "net.2", False)]


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
    assert wired(net) == [("net.0", "net.2", True)]


def test_a_norm_between_two_layers_does_not_keep_them_apart() -> None:
    """Nor does it matter that the layers are a class of the user's own."""

    class Own(nn.Linear):
        def reset_parameters(self):
            nn.init.xavier_uniform_(self.weight)

    net = nn.Sequential(Own(64, 64), nn.BatchNorm1d(64), nn.Dropout(0.2), Own(64, 10))
    (*_, link) = wiring_of(net).links
    assert (link.source.name, link.target.name) == ("net.0", "net.3")
    assert link.between == ("net.2", "net.1")


def test_a_leaky_relu_of_slope_one_is_no_activation() -> None:
    """As `nn.LeakyReLU(True)` is, where `inplace` was meant."""

    def net(activation: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Linear(64, 64), activation, nn.Linear(64, 10))

    (link,) = wiring_of(net(nn.LeakyReLU(True))).links
    assert link.between == ("a LeakyReLU of slope 1",)
    assert not wired(net(nn.LeakyReLU(0.2, inplace=True)))


@pytest.mark.parametrize(
    "drop", [nn.Dropout(0.5), lambda x: F.dropout(x, 0.5), lambda x: torch.dropout(x, 0.5, True)]
)
def test_dropout_is_seen_as_a_module_and_as_a_function(drop) -> None:
    """Also with an activation behind it, and the mean that a norm gets is known."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden, self.norm, self.head = (
                nn.Linear(64, 64),
                nn.BatchNorm1d(64),
                nn.Linear(64, 10),
            )
            self.drop = drop

        def forward(self, x):
            return self.head(self.norm(F.relu(self.drop(self.hidden(x)))))

    wiring = wiring_of(Net())
    (link,) = (one for one in wiring.links if one.source.kind == "dropout")
    assert (link.target.name, link.source.rate) == ("net.norm", 0.5)
    (norm,) = wiring.norms
    assert norm.samples == 32
    assert 0.1 < norm.offset < 1.0


def test_what_keeps_the_variance_is_no_such_dropout() -> None:
    """Alpha dropout is made for nets that have no norm."""
    net = nn.Sequential(
        nn.Linear(64, 64), nn.SELU(), nn.AlphaDropout(0.5), nn.BatchNorm1d(64), nn.Linear(64, 10)
    )
    assert not wired(net)


class Regression(Classifier):
    """Tells how dark a digit is."""

    def __init__(self, *last: nn.Module, error=F.mse_loss):
        super().__init__(nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1), *last))
        self.error = error

    def loss(self, x, y):
        return self.error(self(x).squeeze(-1), x.mean(1))


class Hinted(Regression):
    """Its features are those of a teacher, and have a use of their own."""

    def loss(self, x, y):
        features = F.dropout(self.net[0](x), 0.5)
        return F.mse_loss(features, x[:, :8]) + super().loss(features @ self.net[0].weight, y)


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (Regression(nn.Dropout(0.1)), ["net.3"]),
        (Regression(nn.Dropout(0.1), error=lambda a, b: 2 * ((a - b) ** 2).mean()), ["net.3"]),
        (Regression(nn.Dropout(0.1), error=lambda a, b: (b - a).abs().mean()), ["net.3"]),
        (Regression(nn.Dropout(0.0)), []),
        (Regression(nn.Dropout(0.1), nn.Linear(1, 1)), []),
        (Regression(nn.Dropout(0.1), error=lambda a, b: F.mse_loss(a, a.flip(0))), []),
        (Hinted(), []),
    ],
)
def test_dropout_of_the_answers_is_told(module: Regression, found: list[str]) -> None:
    """Not that of features which are used for more, or compared with others that learn."""
    seen.clear()
    fit(Program(module, loader(), trainer={"max_steps": 1}), Note())
    assert [one.name for one in seen[0].answers] == found


def test_answers_that_are_dropped_are_wrong_at_any_rate() -> None:
    """A norm may stand a little of it; what is compared with targets may not."""
    wiring = Wiring((), answers=(Part("net.3", "dropout", rate=0.1),))
    (found,) = StructureDetector().dropout_before_norm(wiring)
    assert (found.where, found.measured) == ("net.3", 0.1)


def unused(module: nn.Module) -> list[str]:
    seed(0)
    detector = StructureDetector(select=["STR105"])
    fit(Program(module, loader(), trainer={"max_epochs": 1}), detector)
    return [one.where for one in detector.findings]


class Refined(Classifier):
    """Has a stage behind a switch."""

    def __init__(self, is_refined: bool = False):
        super().__init__()
        self.refine, self.is_refined = nn.Linear(64, 64), is_refined

    def forward(self, x):
        return super().forward(self.refine(x) if self.is_refined else x)


class LaterRefined(Refined):
    """Somebody may turn it on."""

    def turn_on(self):
        self.is_refined = True


class StageRefined(Refined):
    """The switch tells the stage of the training."""

    finetuning = False

    def forward(self, x):
        if self.finetuning:
            x = self.refine(x)
        return Classifier.forward(self, x)


class AskedRefined(Refined):
    """The switch is computed."""

    @property
    def is_on(self):
        return False

    def forward(self, x):
        if self.is_on:
            x = self.refine(x)
        return Classifier.forward(self, x)


class TrainedRefined(Refined):
    """The switch counts in training alone, and to speak of refine is no use of it."""

    def forward(self, x):
        refines = self.refine if self.training and self.is_refined else nn.Identity()
        return Classifier.forward(self, refines(x))


class EvaluatedRefined(Refined):
    """The stage is for validation, whatever the switch."""

    def forward(self, x):
        if self.training and self.is_refined:
            refine = nn.Identity()
        else:
            refine = nn.Identity() if self.training else self.refine
        return Classifier.forward(self, refine(x))


class PeekedRefined(Refined):
    """Uses it in either branch, and where it is off, only what is in it."""

    def forward(self, x):
        x = self.refine(x) if self.is_refined else x @ self.refine.weight.detach().T
        return Classifier.forward(self, x)


@pytest.mark.parametrize(
    "kind",
    [
        LaterRefined,
        StageRefined,
        AskedRefined,
        EvaluatedRefined,
        PeekedRefined,
        lambda: Refined(True),
    ],
)
def test_a_branch_that_may_be_taken_is_a_use(kind) -> None:
    """Somebody may set the switch, it depends on what is being done, or the other one is a use."""
    module = kind()
    assert unused(module) == []


def test_a_branch_that_cannot_be_taken_is_none() -> None:
    """Its switch is set where the module is made, and nowhere else; it may ask for training, too."""
    assert unused(Refined()) == ["refine"]
    assert unused(TrainedRefined()) == ["refine"]


class Normed(Classifier):
    """Goes through its norms, and takes what it calls norm for nothing."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(64) for _ in range(2))

    def forward(self, x):
        for layer, _norm in zip(self.layers, self.norms, strict=True):
            x = F.relu(layer(x))
        return super().forward(x)


class CountedNorms(Normed):
    """The same by numbers."""

    norms_are_on = False

    def forward(self, x):
        for i, norm in enumerate(self.norms):
            x = norm(x) if self.norms_are_on else F.relu(self.layers[i](x))
        return Classifier.forward(self, x)


class StartedNorms(CountedNorms):
    """Another method has a use for them."""

    def start(self):
        for norm in self.norms:
            nn.init.ones_(norm.weight)


class Shortened(Normed):
    """Goes through its layers up to the last norm."""

    def __init__(self):
        super().__init__()
        self.layers.append(nn.Linear(64, 64))

    def forward(self, x):
        for layer, norm in zip(self.layers, self.norms):  # noqa: B905
            x = norm(F.relu(layer(x)))
        return Classifier.forward(self, x)


class Completed(Shortened):
    """Comes to the last layer afterwards."""

    def forward(self, x):
        return super().forward(self.layers[-1](x))


def test_a_loop_that_ends_before_a_module_does_not_use_it() -> None:
    """Unless something else does."""
    assert unused(Shortened()) == ["layers.2"]
    assert unused(Completed()) == []


class Hasty(Classifier):
    """Returns from within its loop."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(3))
        self.count, self.is_hasty = 3, True

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(x))
            if self.is_hasty:
                return self.net(x)
        return self.net(x)


class Repetitive(Hasty):
    """Takes the first layer again and again."""

    def forward(self, x):
        for _ in range(len(self.layers)):
            x = F.relu(self.layers[0](x))
        return self.net(x)


class Late(Hasty):
    """Begins to count at 1."""

    def forward(self, x):
        for i in range(1, self.count):
            x = F.relu(self.layers[i](x))
        return self.net(x)


class Growing(Hasty):
    """Leaves off at a stage that may rise."""

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            if i == 1:
                return self.net(x)
            x = F.relu(layer(x))
        return self.net(x)


class Chosen(Hasty):
    """Takes the layer of a task."""

    def forward(self, x, task=0):
        return self.net(self.layers[task](x))


class Fitting(Hasty):
    """Takes a layer where the batch is large enough."""

    def forward(self, x):
        for i, layer in enumerate(self.layers):
            x = layer(x) if len(x) > 1000 * i else x
        return self.net(x)


class Few(Hasty):
    """Was told to take less than there is."""

    def __init__(self):
        super().__init__()
        self.count = 2

    def forward(self, x):
        for i in range(self.count):
            x = F.relu(self.layers[i](x))
        return self.net(x)


class Deep(Hasty):
    """Has another method, which comes to all of them."""

    def forward(self, x):
        return self.net(self.layers[0](x))

    def refine(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Counted(Hasty):
    """Goes through as many as it is told to."""

    def forward(self, x, count=1):
        for _, layer in zip(range(count), self.layers, strict=False):
            x = layer(x)
        return self.net(x)


class Viewed(Hasty):
    """Has as many views of a sample as there may be."""

    def forward(self, x, *views):
        x = self.layers[0](x)
        for view in views:
            x = x + self.layers[1](view) + self.layers[2](view)
        return self.net(x)


class Leveled(Hasty):
    """Counts in a buffer, which it may write to in place."""

    def __init__(self):
        super().__init__()
        self.register_buffer("level", torch.tensor(1))

    def forward(self, x):
        for i in range(self.level):
            x = self.layers[i](x)
        return self.net(x)


class Prepared(Chosen):
    """Leaves the choice to what it overrides."""

    def forward(self, x):
        return super().forward(self.layers[0](x))


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        (Hasty, ["layers.1", "layers.2"]),
        (Counted, []),
        (Viewed, []),
        (Leveled, []),
        (Prepared, []),
        (Repetitive, ["layers.1", "layers.2"]),
        (Late, ["layers.0"]),
        (Growing, []),
        (Chosen, []),
        (Fitting, []),
        (Few, []),
        (Deep, []),
    ],
)
def test_what_no_loop_comes_to_is_not_used(kind: type[Hasty], found: list[str]) -> None:
    """Unless a condition, an argument or another method may come to it."""
    assert unused(kind()) == found


def test_to_go_through_modules_is_no_use_of_them() -> None:
    """What counts is what a loop makes of each of them."""
    assert unused(Normed()) == ["norms"]
    assert unused(CountedNorms()) == ["norms"]
    assert unused(StartedNorms()) == []


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


def test_a_step_may_copy_what_is_watched() -> None:
    """The run is not copied with it, nor need it be: files and locks cannot."""

    class Copying(Classifier):
        def training_step(self, batch, batch_idx):
            copy.deepcopy(self.net)(batch[0])
            return super().training_step(batch, batch_idx)

    suite = NNDebug()
    fit(Program(Copying(), loader(), trainer={"max_steps": 10}), suite)
    assert not [one for one in suite.findings if one.severity != "info"]
