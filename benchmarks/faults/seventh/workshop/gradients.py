"""GRD, in models of one's own: gradients that the paper took care of."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Paper, Program, feed, generator, images, right


class VQ(Paper):
    """A vector-quantized autoencoder of digits."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=4e-3, cosine=True)
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 8, 3, padding=1)
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(8, 32, 3, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
        )  # fmt: skip
        self.codes = nn.Embedding(32, 8)
        self.fixed = fixed

    def losses(self, batch):
        image, _ = batch
        z = self.encoder(image).movedim(1, -1)
        nearest = torch.cdist(z.flatten(0, 2), self.codes.weight).argmin(1).view(z.shape[:-1])
        code = self.codes(nearest)
        commitment = F.mse_loss(z, code.detach())
        learned = F.mse_loss(code, z.detach()) if self.fixed else F.mse_loss(code.detach(), z)
        through = z + (code - z).detach()
        content = F.mse_loss(self.decoder(through.movedim(-1, 1)), image)
        return content + learned + 0.25 * commitment, {"content": content}


@fault(
    "GRD103",
    "UPD102",
    source="https://arxiv.org/abs/1711.00937 (VQ-VAE, equation 3: the stop-gradient changes places)",
)
def both_terms_detach_the_codes(fixed: bool) -> Program:
    """In both terms of the VQ-VAE the codes are detached: the code book stays as random as it was."""
    return Program(VQ(fixed=fixed), **images(), trainer={"max_epochs": 16})


class Registration(Paper):
    """Finds by how much one image is to be moved to lie upon another."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=1e-3)
        self.net = nn.Sequential(
            nn.Conv2d(2, 16, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 2),
        )  # fmt: skip
        self.mode = "bilinear" if fixed else "nearest"

    def losses(self, batch):
        still, moved = batch
        shift = self.net(torch.cat([still, moved], dim=1))
        theta = torch.eye(2, 3, device=still.device).repeat(len(still), 1, 1)
        theta = torch.cat([theta[:, :, :2], shift[:, :, None]], dim=2)
        grid = F.affine_grid(theta, list(moved.shape), align_corners=False)
        warped = F.grid_sample(
            moved, grid, mode=self.mode, padding_mode="border", align_corners=False
        )
        return F.mse_loss(warped, still), {"unmoved": F.mse_loss(moved, still)}


@fault(
    "GRD103",
    "UPD102",
    "LOS104",
    "OUT101",
    source="https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.grid_sample.html (nearest: no gradient to the grid)",
)
def nearest_pixel_has_no_slope(fixed: bool) -> Program:
    """The image is warped with the nearest pixels: how far it is moved has no gradient."""
    g = generator(6)
    grid = torch.arange(16)
    middle = torch.randint(6, 10, (1600, 2), generator=g).float()
    apart = torch.randint(-3, 4, (1600, 2), generator=g).float()

    def picture(place):
        across = (grid[None, None, :] - place[:, 0, None, None]).square()
        down = (grid[None, :, None] - place[:, 1, None, None]).square()
        return (3 * torch.exp(-(across + down) / 8.0) - 0.4)[:, None]

    def seen(place):
        return picture(place) + 0.05 * torch.randn(1600, 1, 16, 16, generator=g)

    pair = seen(middle), seen(middle + apart)
    return Program(Registration(fixed=fixed), **feed(*pair), trainer={"max_epochs": 10})


class DeepGCN(Paper):
    """Layers of a graph convolution, with the rest of GCNII or without."""

    def __init__(self, adjacency, features, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        adjacency = adjacency + torch.eye(len(adjacency))
        self.register_buffer("spread", adjacency / adjacency.sum(1, keepdim=True))
        self.register_buffer("features", features)
        self.embed, self.head = nn.Linear(24, 32), nn.Linear(32, 5)
        self.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(12))
        self.alpha = 0.3 if fixed else 0.0

    def forward(self):
        h = start = self.embed(self.features).relu()
        for i, layer in enumerate(self.layers):
            h = (1 - self.alpha) * self.spread @ h + self.alpha * start
            beta = 0.5 / (i + 1)
            h = ((1 - beta) * h + beta * layer(h)).relu()
        return self.head(h)

    def losses(self, batch):
        node, label = batch
        logits = self()[node]
        return F.cross_entropy(logits, label), {"acc": right(logits, label)}


@fault(
    "GRD104",
    "OUT101",
    "LOS104",
    "GEN102",
    "ACT103",
    source="https://arxiv.org/abs/2007.02133 (GCNII: the initial residual against over-smoothing)",
)
def rounds_of_averaging_without_the_start(fixed: bool) -> Program:
    """Twelve rounds of averaging over neighbours, with the initial residual left out: all nodes become one."""
    g = generator(7)
    nodes = 600
    group = torch.arange(nodes) % 5
    likely = torch.where(group[:, None] == group[None], 0.03, 0.012)
    upper = (torch.rand(nodes, nodes, generator=g) < likely).float().triu(1)
    features = torch.randn(5, 24, generator=g)[group] * 0.7
    features = features + torch.randn(nodes, 24, generator=g)
    return Program(
        DeepGCN(upper + upper.T, features / features.std(), fixed=fixed),
        **feed(torch.arange(nodes), group, held_out=150),
        trainer={"max_epochs": 25},
    )
