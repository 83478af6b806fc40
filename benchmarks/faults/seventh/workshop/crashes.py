"""ERR, in models of one's own: the run ends at once, or soon."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Paper, Program, feed, generator, mlp


class Potential(Paper):
    """An energy of four atoms by their distances; it is trained for the forces alone."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3, cosine=True)
        self.net, self.fixed = mlp(6, 64, 64, 1, act=nn.SiLU), fixed

    def losses(self, batch):
        place, force = batch
        with torch.enable_grad():
            place = place.requires_grad_(True)
            i, j = torch.triu_indices(4, 4, 1)
            energy = self.net((place[:, i] - place[:, j]).norm(dim=2) - 1.5).sum()
            (slope,) = torch.autograd.grad(energy, place, create_graph=self.fixed)
        return F.mse_loss(-slope, force), {}


@fault(
    "ERR106",
    "LOS107",
    source="https://github.com/facebookresearch/DomainBed/issues/50 (create_graph is missing from a gradient that is to be differentiated)",
)
def forces_without_a_second_derivative(fixed: bool) -> Program:
    """Forces are the gradient of the energy, without create_graph: no gradient of theirs leads to the net."""
    g = generator(15)
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.55
    place = corners + 0.15 * torch.randn(1800, 4, 3, generator=g)
    apart = place[:, :, None] - place[:, None]
    far = (apart.square().sum(3) + torch.eye(4)).sqrt()
    force = (-2 * (1 - torch.exp(-(far - 1.5))) * torch.exp(-(far - 1.5)) / far)[..., None] * apart
    force = force.sum(2)
    return Program(
        Potential(fixed=fixed), **feed(place, force / force.std()), trainer={"max_epochs": 12}
    )
