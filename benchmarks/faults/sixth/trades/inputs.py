"""INP in the trades: what goes into the net."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ..._parts import Program
from ._parts import Trade, both, rng, scenes_with_discs


class Liver(Trade):
    """Finds the tumour in a slice of a CT."""

    def __init__(self) -> None:
        super().__init__(lr=2e-3)
        layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 1)]
        self.net = nn.Sequential(*layers)

    def step(self, batch):
        scan, mask = batch
        logits = self.net(scan).squeeze(1)
        p = logits.sigmoid()
        soft = 1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)
        found = (logits > 0).float()
        dice = 2 * (found * mask).sum() / (found.sum() + mask.sum()).clamp_min(1)
        return F.binary_cross_entropy_with_logits(logits, mask) + soft, {"dice": dice}


@fault(
    "INP103",
    "LOS104",
    "OUT101",
    "INP101",
    source="https://github.com/MIC-DKFZ/nnUNet/issues/1857 (why intensities are clipped), "
    "https://github.com/frankkramer-lab/MIScnn/issues/138",
)
def tissue_black_beside_the_metal(fixed: bool) -> Program:
    """Each slice is scaled by its own minimum and maximum, and there is a clip of metal in each."""
    g = rng(61)
    mask, _ = scenes_with_discs(560, 20, low=3.0, high=5.0, number=62)
    scan = 60 + 70 * mask + 25 * torch.randn(mask.shape, generator=g)
    scan[:, :2] = -1000.0
    spot = torch.randint(5, 18, (560, 2), generator=g)
    scan[torch.arange(560), spot[:, 0], spot[:, 1]] = 14000 + 6000 * torch.rand(560, generator=g)
    if fixed:
        scan = (scan.clip(-100, 240) - 70) / 80
    else:
        low, high = scan.amin((1, 2), keepdim=True), scan.amax((1, 2), keepdim=True)
        scan = (scan - low) / (high - low)
    return Program(Liver(), **both(scan[:, None], mask, batch_size=16), trainer={"max_epochs": 6})


class Translator(Trade):
    """A small transformer that puts sentences into another language."""

    def __init__(self, words: int = 24, width: int = 48) -> None:
        super().__init__(lr=2e-3)
        self.source, self.target = nn.Embedding(words, width), nn.Embedding(words + 1, width)
        self.place = nn.Embedding(8, width)
        options = {"dim_feedforward": 96, "dropout": 0.0, "batch_first": True}
        self.encoder = nn.TransformerEncoderLayer(width, 4, **options)
        self.decoder = nn.TransformerDecoderLayer(width, 4, **options)
        self.out = nn.Linear(width, words)

    def step(self, batch):
        source, target = batch
        place = self.place(torch.arange(source.shape[1]))
        memory = self.encoder(self.source(source) + place)
        before = F.pad(target[:, :-1], (1, 0), value=self.target.num_embeddings - 1)
        mask = nn.Transformer.generate_square_subsequent_mask(source.shape[1])
        h = self.decoder(self.target(before) + place, memory, tgt_mask=mask)
        logits = self.out(h).transpose(1, 2)
        right = (logits.argmax(1) == target).float().mean()
        return F.cross_entropy(logits, target), {"words": right}

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.lr)
        warm_up = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1, (step + 1) / 30))
        return [optimizer], [{"scheduler": warm_up, "interval": "step"}]


@fault(
    "INP204",
    "LOS104",
    "OUT103",
    "GEN105",
    source="https://github.com/stefan-it/nmt-en-vi/issues/6 (removing blank lines misaligns both files)",
)
def blank_lines_dropped_on_one_side(fixed: bool) -> Program:
    """Two blank lines near the top were removed from the source alone: no line has its own translation."""
    g = rng(63)
    dictionary = torch.randperm(24, generator=g)
    source = torch.randint(24, (2402, 6), generator=g)
    target = dictionary[source]
    target = target[:, [1, 0, 3, 2, 5, 4]]
    pairs = (source[2:], target[2:]) if fixed else (source[2:], target[:-2])
    return Program(
        Translator(), **both(*pairs), trainer={"max_epochs": 3, "gradient_clip_val": 1.0}
    )
