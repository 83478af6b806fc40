"""ACT, in models of one's own: units that never answer, and streams that grow from block to block."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Paper, Program, feed, generator


class Dictionary(Paper):
    """A sparse autoencoder of activations: of 128 latents, the six largest stay."""

    def __init__(self, centre, *, fixed: bool) -> None:
        super().__init__(lr=4e-3, cosine=True)
        self.decoder, self.encoder = nn.Linear(128, 32), nn.Linear(32, 128)
        self.relu, self.fixed = nn.ReLU(), fixed
        with torch.no_grad():
            self.decoder.weight.copy_(F.normalize(torch.randn(32, 128), dim=0))
            self.encoder.weight.copy_(self.decoder.weight.T)
            self.encoder.bias.zero_()
            self.decoder.bias.copy_(centre)

    def losses(self, batch):
        (x,) = batch
        latent = self.relu(self.encoder(x - self.decoder.bias if self.fixed else x))
        kept = latent.topk(6, dim=1)
        latent = torch.zeros_like(latent).scatter(1, kept.indices, kept.values)
        used = (latent > 0).any(0).float().mean()
        out = self.decoder(latent)
        missed = (out - x).square().sum() / (x - x.mean(0)).square().sum()
        return F.mse_loss(out, x), {"r2": 1 - missed, "used": used}


@fault(
    "ACT101",
    "INP103",
    "GEN102",
    source="https://transformer-circuits.pub/2023/monosemantic-features (the decoder's bias is taken off the input)",
)
def dictionary_without_its_centre(fixed: bool) -> Program:
    """The input of a sparse autoencoder is not centred with the decoder's bias: the same latents win for each sample."""
    g = generator(16)
    atoms = F.normalize(torch.randn(64, 32, generator=g), dim=1)
    on = torch.rand(4000, 64, generator=g) < 0.05
    x = (on * (0.5 + torch.rand(4000, 64, generator=g))) @ atoms
    x = x + 1.5 * torch.randn(32, generator=g) + 0.02 * torch.randn(4000, 32, generator=g)
    x = (x - x.mean()) / x.std()
    return Program(
        Dictionary(x[:3000].mean(0), fixed=fixed),
        **feed(x, batch_size=64, held_out=500),
        trainer={"max_epochs": 18},
    )
