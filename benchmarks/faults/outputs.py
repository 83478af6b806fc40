"""OUT: outputs that are all alike, cannot reach the targets, ignore the input or mix the batch."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F

from . import DEEPFD, DEEPLOCALIZE, HUMBATOVA, NEURALINT, fault
from ._parts import (
    DataLoader,
    Program,
    Supervised,
    TensorDataset,
    blobs,
    diabetes,
    digit_loaders,
    digits,
    loaders,
    mlp,
    split,
    waves,
)


@fault("OUT104", "GRD103", "OUT101", "LOS102", source=DEEPLOCALIZE + ", softmax over one unit")
def softmax_of_a_single_unit(fixed: bool) -> Program:
    """A softmax over one output is always one."""
    x, y = blobs(1000, classes=2, spread=2.0)
    net = mlp(16, 32, 1).append(nn.Sigmoid() if fixed else nn.Softmax(dim=1))
    module = Supervised(net, F.binary_cross_entropy)
    return Program(module, **loaders(*split(x, y.float()[:, None])), trainer={"max_epochs": 5})


@fault("OUT102", "ACT102", "OUT101", "LOS101", source=DEEPFD + ", wrong activation of the output")
def sigmoid_for_a_measurement(fixed: bool) -> Program:
    """A sigmoid output for targets between 25 and 346."""
    x, y = diabetes()
    net = mlp(10, 32, 1)
    if not fixed:
        y, net = y * 77 + 152, net.append(nn.Sigmoid())
    module = Supervised(net, F.mse_loss)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 10})


@fault("OUT102", "ACT101", source=NEURALINT + ", ReLU at the output")
def rectified_regression(fixed: bool) -> Program:
    """A ReLU at the end of a regression whose targets are negative as often as positive."""
    net = mlp(10, 32, 1)
    if not fixed:
        net.append(nn.ReLU())
    module = Supervised(net, F.mse_loss)
    return Program(module, **loaders(*split(*diabetes())), trainer={"max_epochs": 10})


class Autoencoder(pl.LightningModule):
    """Compresses digits to eight numbers."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(64, 48, 8), nn.Sequential(mlp(8, 48, 64), last)

    def training_step(self, batch, batch_idx):
        (x,) = batch
        loss = F.mse_loss(self.decoder(self.encoder(x)), x)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault("OUT102", source="https://github.com/timsainb/Tensorflow-MultiGPU-VAE-GAN/issues/5")
def sigmoid_decoder_of_centred_images(fixed: bool) -> Program:
    """The images are in [-1, 1], the decoder's sigmoid is in [0, 1]."""
    loader = DataLoader(TensorDataset(digits(1797)[0]), batch_size=32, shuffle=True)
    module = Autoencoder(nn.Tanh() if fixed else nn.Sigmoid())
    return Program(module, loader, trainer={"max_epochs": 5})


class Waves(Supervised):
    """Reads waves with a recurrent net."""

    def __init__(self, fixed: bool, what: str) -> None:
        super().__init__(nn.Identity(), lr=5e-3)
        first = fixed or what != "batch_first"
        self.rnn, self.out = nn.GRU(1, 24, batch_first=first), nn.Linear(24, 3)
        self.fixed, self.what = fixed, what

    def forward(self, x):
        if self.what == "start" and not self.fixed:
            start = torch.zeros(1, len(x), 24)
            self.rnn(x, start)
            return self.out(start[0])
        return self.out(self.rnn(x)[0][:, -1])


@fault("OUT105", "INP104", source="https://github.com/IBM/TabFormer/pull/14")
def batch_read_as_time(fixed: bool) -> Program:
    """batch_first is missing: the net runs from one sample to the next."""
    module = Waves(fixed, "batch_first")
    return Program(module, **loaders(*split(*waves())), trainer={"max_epochs": 6})


@fault("OUT103", "OUT101", "GRD103", "LOS104", "GRD104", source=HUMBATOVA + ", wrong variable")
def start_state_in_place_of_the_last(fixed: bool) -> Program:
    """The output is computed from the state that went in, not from the one that came out."""
    module = Waves(fixed, "start")
    return Program(module, **loaders(*split(*waves())), trainer={"max_epochs": 6})


class Sentence(nn.Module):
    """A transformer that classifies sentences."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=batch_first)
        self.body = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.out = nn.Linear(32, 3)

    def forward(self, tokens):
        return self.out(self.body(self.embed(tokens)).mean(1))


@fault("OUT105", "INP104", source="https://github.com/DaoyuanLi2816/Molecule-Generator/pull/22")
def attention_across_the_batch(fixed: bool) -> Program:
    """A transformer layer without batch_first attends from one sentence to the others."""
    tokens = torch.randint(30, (1200, 10))
    y = (tokens[..., None] % 3 == torch.arange(3)).sum(1).argmax(1)
    module = Supervised(Sentence(fixed), lr=2e-3)
    return Program(module, **loaders(*split(tokens, y)), trainer={"max_epochs": 5})


class Pool(nn.Module):
    """Attention pooling over the rows of an image."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.embed, self.score, self.dim = nn.Linear(8, 48), nn.Linear(48, 1), dim
        self.out = mlp(48 * 2, 64, 10)

    def forward(self, x):
        rows = torch.tanh(self.embed(x.view(-1, 8, 8)))
        weights = self.score(rows).softmax(self.dim)
        return self.out(torch.cat([(weights * rows).sum(1), rows[:, 3]], dim=1))


@fault("OUT105", source="https://github.com/PetrochukM/PyTorch-NLP/issues/2")
def softmax_over_the_batch(fixed: bool) -> Program:
    """softmax(0): the attention of one sample depends on the others."""
    module = Supervised(Pool(1 if fixed else 0))
    return Program(module, **digit_loaders(), trainer={"max_epochs": 4})


class Heads(nn.Module):
    """Self-attention by hand."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.embed, self.project, self.out = nn.Linear(8, 32), nn.Linear(32, 96), nn.Linear(32, 10)
        self.place, self.fixed = nn.Parameter(0.3 * torch.randn(8, 32)), fixed

    def forward(self, x):
        x = torch.relu(self.embed(x.view(-1, 8, 8)) + self.place)
        if not self.fixed:
            x = x.view(8, -1, 32)  # "time first"
        q, k, v = (part.unflatten(2, (4, 8)) for part in self.project(x).chunk(3, dim=2))
        if self.fixed:
            q, k, v = (part.transpose(1, 2) for part in (q, k, v))
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            return self.out((x + mixed).mean(1))
        q, k, v = (part.permute(1, 2, 0, 3) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v).permute(2, 0, 1, 3).flatten(2)
        return self.out((x + mixed).mean(0))


@fault("OUT105", source="https://github.com/zhouhaoyi/Informer2020/issues/59")
def view_in_place_of_transpose(fixed: bool) -> Program:
    """view() where transpose() was meant: rows of one image end up in others."""
    return Program(Supervised(Heads(fixed), lr=3e-3), **digit_loaders(), trainer={"max_epochs": 5})


class Views(pl.LightningModule):
    """Makes the representations of two views alike."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net, self.predictor, self.fixed = mlp(64, 64, 16), mlp(16, 32, 16), fixed

    def training_step(self, batch, batch_idx):
        (x,) = batch
        one, other = (self.net(x + 0.2 * torch.randn_like(x)) for _ in range(2))
        loss = F.mse_loss(one, other)
        if self.fixed:
            deviation = (one.var(0) + 1e-4).sqrt()
            loss = loss + F.relu(1 - deviation).mean()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.net.parameters(), lr=2e-3)


@fault("OUT101", "OUT103", source="https://arxiv.org/abs/2105.04906 (VICReg), on collapse")
def representations_collapse(fixed: bool) -> Program:
    """Nothing keeps the representations apart: all become one point."""
    loader = DataLoader(TensorDataset(digits(1797)[0]), batch_size=64, shuffle=True)
    module = Views(fixed)
    del module.predictor
    return Program(module, loader, trainer={"max_epochs": 8})


class Captioner(pl.LightningModule):
    """Classifies from an image and its metadata, in nested batches."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.image, self.meta = mlp(64, 64, 32), mlp(4, 16, 8)
        self.out, self.fixed = nn.Linear(40, 10), fixed

    def training_step(self, batch, batch_idx):
        image, meta = batch["inputs"]["image"], batch["inputs"]["meta"]
        features = self.image(image) * (1 if self.fixed else 0)
        logits = self.out(torch.cat([features, self.meta(meta)], dim=1).relu())
        loss = F.cross_entropy(logits, batch["target"])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault(
    "OUT103", "GRD103", "OUT101", "LOS104", "UPD102", source=HUMBATOVA + ", leftover of debugging"
)
def image_times_zero(fixed: bool) -> Program:
    """A branch was switched off with a factor of zero, and stayed so."""
    x, y = digits(1797)
    samples = [
        {"inputs": {"image": image, "meta": torch.randn(4)}, "target": label}
        for image, label in zip(x, y, strict=True)
    ]
    loader = DataLoader(samples, batch_size=32, shuffle=True)
    return Program(Captioner(fixed), loader, trainer={"max_epochs": 4})
