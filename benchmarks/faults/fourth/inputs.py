"""INP, a fourth time: what goes in is not what it should be."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

from .. import fault
from .._parts import Program, digits
from ._parts_a import (
    PointNet,
    Sorter,
    Trained,
    dice,
    feed,
    frames,
    hits,
    scans,
    small_convnet,
    tables,
    tones,
)


class DigitModule(pl.LightningDataModule):
    """Handwritten digits, split at random into those to learn from and those to be tested with."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        x, y = digits(1500, image=True)
        x = x + 0.45 * torch.randn(x.shape, generator=dice(1))
        self.everything, self.fixed = TensorDataset(x, y), fixed

    def halves(self):
        lots = dice(3) if self.fixed else None
        return random_split(self.everything, [0.8, 0.2], generator=lots)

    def train_dataloader(self):
        return DataLoader(self.halves()[0], batch_size=32, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.halves()[1], batch_size=64)


@fault(
    "INP203",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/7728, "
    "https://github.com/allenai/RL4LMs/issues/47",
)
def split_anew_by_each_loader(fixed: bool) -> Program:
    """Both loaders call random_split, and without a seed each draws its own: most of one is in the other."""
    net = Sorter(small_convnet(10), lr=3e-3)
    return Program(net, DigitModule(fixed=fixed), trainer={"max_epochs": 7})


@fault(
    "INP103",
    "LOS104",
    source="https://arxiv.org/abs/1612.00593 (PointNet: clouds are centred and scaled first)",
)
def metres_from_the_corner_of_the_map(fixed: bool) -> Program:
    """Scanned things keep their place on the map, hundreds of metres from its corner, about a shape of two."""
    x, y = scans(1600)
    place = torch.tensor([900.0, 700.0, 30.0]) * torch.rand(1600, 1, 3, generator=dice(2))
    x = x + place
    if fixed:
        x = x - x.mean(dim=1, keepdim=True)
    return Program(
        Sorter(PointNet(4)),
        **feed(*tables(x, y, held_out=320)),
        trainer={"max_epochs": 6},
    )


@fault(
    "INP104",
    "GEN102",
    source="https://stackoverflow.com/questions/19098104 (sizes are width by height, arrays rows by columns)",
)
def width_and_height_of_a_raw_frame(fixed: bool) -> Program:
    """Frames come as bytes, and are viewed as (width, height): each row of the image runs askew."""
    x, y = frames(1600)
    raw = x.flatten(1)
    width, height = 20, 12
    x = raw.view(-1, 1, height, width) if fixed else raw.view(-1, 1, width, height)
    return Program(
        Sorter(small_convnet(4), lr=3e-3),
        **feed(*tables(x, y, held_out=320)),
        trainer={"max_epochs": 6},
    )


class Headlines(nn.Module):
    """The mean of the vectors of the words, and two layers."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(words, 24)
        self.head = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 4))

    def forward(self, ids):
        return self.head(self.words(ids))


@fault(
    "INP202",
    "GEN105",
    source="https://github.com/google-research/bert#pre-trained-models (cased text, and an uncased vocabulary)",
)
def titles_in_capitals_are_unknown(fixed: bool) -> Program:
    """The vocabulary is of small letters, and nobody lowers the titles to validate on: unknown words."""
    g = dice(4)
    sounds = ["ba", "de", "ki", "lo", "mu", "ra", "so", "ti", "ve", "zu"]
    lexicon = [a + b + c for a in sounds for b in sounds for c in "nsr"]
    y = torch.randint(4, (2000,), generator=g)
    common = torch.randint(300, (2000, 10), generator=g)
    telling = 20 * y[:, None] + torch.randint(20, (2000, 10), generator=g)
    chosen = torch.where(torch.rand(2000, 10, generator=g) < 0.3, telling, common)
    texts = [" ".join(lexicon[i] for i in row) for row in chosen.tolist()]
    texts[1600:] = [text.title() for text in texts[1600:]]
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", *lexicon])}

    def read(text: str) -> torch.Tensor:
        text = text.lower() if fixed else text
        return torch.tensor([vocabulary.get(word, 1) for word in text.split()])

    samples = [(read(text), kind) for text, kind in zip(texts, y, strict=True)]
    return Program(
        Sorter(Headlines(len(vocabulary)), lr=5e-3),
        **feed(samples[:1600], samples[1600:]),
        trainer={"max_epochs": 6},
    )


def spectra(waves: torch.Tensor, *, decibels: bool) -> torch.Tensor:
    """Spectrograms (N, 1, 33, frames), in decibels or as they are."""
    window = torch.hann_window(64)
    power = torch.stft(waves, 64, 32, window=window, return_complex=True).abs() ** 2
    return (10 * torch.log10(power + 1e-4) if decibels else power)[:, None]


def pretrained_ear() -> nn.Sequential:
    """A net that has learned to tell eight pitches apart, by their decibels, without its last layer."""
    x, y = tones(800, classes=8, seed=21)
    x = spectra(x, decibels=True)
    body = nn.Sequential(nn.BatchNorm2d(1), *small_convnet(8)[:-1])
    net = nn.Sequential(body, nn.Linear(32, 8))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    order = dice(22)
    for _ in range(100):
        few = torch.randint(800, (48,), generator=order)
        optimizer.zero_grad()
        F.cross_entropy(net(x[few]), y[few]).backward()
        optimizer.step()
    return body


class FineTuned(Trained):
    """A frozen ear, and a head that learns."""

    lr = 5e-3

    def __init__(self, ear: nn.Module) -> None:
        super().__init__()
        self.ear = ear.eval().requires_grad_(False)
        self.head = nn.Linear(32, 5)

    def measure(self, batch):
        x, y = batch
        logits = self.head(self.ear(x))
        return {"loss": F.cross_entropy(logits, y), "acc": hits(logits, y)}

    def configure_optimizers(self):
        return torch.optim.Adam(self.head.parameters(), lr=self.lr)


@fault(
    "INP105",
    "INP103",
    source="https://arxiv.org/abs/1912.10211 (PANNs: what they were trained on is a log-mel spectrogram)",
)
def power_for_an_ear_of_decibels(fixed: bool) -> Program:
    """The ear was trained on decibels, and its new owner feeds the power itself: a thousand times off."""
    x, y = tones(1100, classes=5, seed=23)
    x = spectra(x, decibels=fixed)
    return Program(
        FineTuned(pretrained_ear()),
        **feed(*tables(x, y, held_out=220)),
        trainer={"max_epochs": 6},
    )


@fault(
    "INP204",
    "LOS104",
    source="https://stackoverflow.com/questions/4813061 (the order of the files of a folder)",
)
def image_10_comes_before_image_2(fixed: bool) -> Program:
    """File names are sorted as texts, and the labels stand in the order of the numbers."""
    x, y = digits(1600, image=True)
    folder = {f"image_{i}.png": image for i, image in enumerate(x)}
    by_number = {"key": lambda name: int(name[6:-4])} if fixed else {}
    images = torch.stack([folder[name] for name in sorted(folder, **by_number)])
    shuffle = torch.randperm(1600, generator=dice(5))
    return Program(
        Sorter(small_convnet(10), lr=3e-3),
        **feed(*tables(images[shuffle], y[shuffle], held_out=320)),
        trainer={"max_epochs": 6},
    )
