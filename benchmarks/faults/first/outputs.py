"""OUT: outputs that cannot be, that do not listen, or that listen to the neighbours."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .. import HUMBATOVA, NEURALINT, fault
from .._parts import Program, Supervised, digits, loaders, mlp, split
from ._parts import Learner, reviews


class Tags(Learner):
    """Says which of six tags a text has; several may be right."""

    lr = 5e-3

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = mlp(16, 48, 6), fixed

    def chances(self, x):
        out = self.net(x)
        return out.sigmoid() if self.fixed else out.softmax(1)

    def loss_of(self, batch):
        return F.binary_cross_entropy(self.chances(batch["text"]), batch["tags"])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        right = (self.chances(batch["text"]) > 0.5) == (batch["tags"] > 0)
        self.log("val_acc", right.float().mean())


@fault(
    "OUT102",
    "LOS102",
    "LOS109",
    source="https://github.com/HaojiHu/Sets2Sets/issues/3",
)
def softmax_for_several_tags(fixed: bool) -> Program:
    """Half of the tags are right for a text, and a softmax lets all of them together be one."""
    x = torch.randn(1600, 16)
    tags = (x @ torch.randn(16, 6) + torch.randn(1600, 6) > 0).float()
    samples = [{"text": a, "tags": b} for a, b in zip(x, tags, strict=True)]
    data = loaders(samples[:1200], samples[1200:])
    return Program(Tags(fixed), **data, trainer={"max_epochs": 6})


@fault("OUT102", "ACT102", source="https://github.com/soumith/ganhacks; " + NEURALINT)
def decoder_between_minus_one_and_one(fixed: bool) -> Program:
    """The decoder ends in a tanh, and the standardized pixels go up to three."""
    x = digits(1797, image=True)[0]
    ink = (x + 1) ** 3
    x = (ink - ink.mean()) / ink.std()
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 16, 2, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 1, 3, padding=1),
    )
    if not fixed:
        net.append(nn.Tanh())
    module = Supervised(net, F.mse_loss)
    return Program(module, **loaders(*split(x, x)), trainer={"max_epochs": 4})


class Encoder(nn.Module):
    """A transformer that reads a sentence."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(80, 32), nn.Embedding(12, 32)
        layer = nn.TransformerEncoderLayer(
            32, 4, 64, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.out, self.fixed = nn.Linear(32, 4), fixed

    def forward(self, ids):
        x = self.token(ids)
        places = self.place(torch.arange(12)).expand_as(x)
        x = x + places if self.fixed else places
        return self.out(self.layers(x).mean(1))


@fault(
    "OUT103",
    "GRD104",
    "GRD103",
    "STR105",
    "OUT101",
    "LOS104",
    "UPD102",
    source=HUMBATOVA + ", wrong variable",
)
def places_without_words(fixed: bool) -> Program:
    """x = places for x = x + places: the transformer knows where the words are, and not which."""
    module = Supervised(Encoder(fixed), lr=2e-3)
    return Program(module, **loaders(*split(*reviews(2400))), trainer={"max_epochs": 3})


class Attentive(nn.Module):
    """Embeds the lines of a log, and looks at the one that matters."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.embed, self.score = nn.Linear(8, 32), nn.Linear(32, 1)
        self.out, self.over = nn.Linear(32, 4), 1 if fixed else 2

    def forward(self, x):
        lines = self.embed(x)
        weights = self.score(torch.tanh(lines)).softmax(self.over)
        return self.out(torch.relu((weights * lines).sum(1)))


@fault(
    "OUT104",
    "GRD103",
    "GRD104",
    "GRD102",
    source="https://github.com/DEEP-PolyU/KEQA_WSDM19/issues/2",
)
def attention_over_a_single_score(fixed: bool) -> Program:
    """The scores are (N, T, 1), and their softmax goes over the last dimension: all weights are one."""
    y = torch.arange(2000) % 4
    x = torch.randn(2000, 20, 8)
    alarm = torch.randint(20, (2000,))
    x[torch.arange(2000), alarm] = 0.5 * torch.randn(2000, 8) + 2.0 * torch.eye(8)[y]
    x[torch.arange(2000), alarm, 7] = 3.0
    module = Supervised(Attentive(fixed), lr=1e-2)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 6})


class BothWays(nn.Module):
    """Reads forwards and backwards."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(80, 24)
        self.rnn = nn.GRU(24, 24, batch_first=True, bidirectional=True)
        self.out, self.fixed = nn.Linear(48, 4), fixed

    def forward(self, ids):
        last = self.rnn(self.embed(ids))[1]
        last = last.transpose(0, 1).flatten(1) if self.fixed else last.reshape(len(ids), -1)
        return self.out(last)


@fault("OUT105", "LOS104", source="https://github.com/timbmg/Sentence-VAE/issues/15")
def last_states_by_reshape(fixed: bool) -> Program:
    """The last states are (2, N, H), and reshape(N, -1) puts those of two sentences side by side."""
    module = Supervised(BothWays(fixed), lr=3e-3)
    data = loaders(*split(*reviews(2400)))
    return Program(module, **data, trainer={"max_epochs": 3})


class TwoViews(Learner):
    """Finds the photograph of each caption of the batch."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.image, self.caption = mlp(24, 64, 16), mlp(12, 64, 16)
        self.over = 1 if fixed else 0

    def similarity(self, batch):
        image = F.normalize(self.image(batch["image"]), dim=self.over)
        caption = F.normalize(self.caption(batch["caption"]), dim=self.over)
        return image @ caption.T / 0.1

    def loss_of(self, batch):
        similarity = self.similarity(batch)
        pairs = torch.arange(len(similarity))
        return (F.cross_entropy(similarity, pairs) + F.cross_entropy(similarity.T, pairs)) / 2

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        found = self.similarity(batch).argmax(1)
        self.log("val_acc", (found == torch.arange(len(found))).float().mean())


@fault(
    "OUT105",
    source="https://github.com/alireza-nasiri/SoundCLR/issues/4",
)
def normalized_over_the_batch(fixed: bool) -> Program:
    """normalize(dim=0): each embedding is divided by the lengths of columns of the whole batch."""
    thing = torch.randn(2000, 8)
    image = (thing @ torch.randn(8, 24)).tanh() + 0.1 * torch.randn(2000, 24)
    caption = (thing @ torch.randn(8, 12)).tanh() + 0.1 * torch.randn(2000, 12)
    image, caption = image / image.std(), caption / caption.std()
    samples = [{"image": a, "caption": b} for a, b in zip(image, caption, strict=True)]
    data = loaders(samples[:1600], samples[1600:], batch_size=40)
    return Program(TwoViews(fixed), **data, trainer={"max_epochs": 8})
