"""Inputs that look blank, turned, or of another scale than a pretrained net expects, and are not."""

from __future__ import annotations

import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F

from healthy import healthy
from healthy._parts import Classifier, Learner, conv, loaders, split


@healthy
def black_slices() -> Program:
    """Of the slices of a scan, six of seven are black, so that many a small batch has no other."""
    grid = torch.arange(16.0)
    centre = torch.randint(4, 12, (700, 2, 1, 1))
    mask = ((grid[:, None] - centre[:, 0]) ** 2 + (grid - centre[:, 1]) ** 2 <= 12).float()
    mask *= (torch.rand(700, 1, 1) < 1 / 7).float()
    image = (mask * (1 + 0.3 * torch.randn(700, 16, 16))).unsqueeze(1)
    net = nn.Sequential(conv(1, 8), conv(8, 8), nn.Conv2d(8, 1, 1))

    def loss(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logits.squeeze(1), mask)

    return Program(
        Learner(net, loss, lr=3e-3),
        **loaders(*split(image, mask), batch_size=4),
        trainer={"max_epochs": 2},
    )


class Wide(Classifier):
    """Moves the channels, which come last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x.permute(0, 3, 1, 2))


@healthy
def landscapes() -> Program:
    """Images are wider than high, and their channels are last until the step moves them."""
    x, y = digits(1200, image=True)
    x = F.interpolate(x, (12, 20)).expand(-1, 3, -1, -1) + 0.1 * torch.randn(1200, 3, 12, 20)
    net = nn.Sequential(
        conv(3, 16), conv(16, 32, 2), nn.Flatten(), nn.LayerNorm(1920), nn.Linear(1920, 10)
    )
    return Program(
        Wide(net, lr=2e-3), **loaders(*split(x.movedim(1, -1), y)), trainer={"max_epochs": 4}
    )


class Processor:
    """Normalizes as the pretrained net has it: what Hugging Face calls an image processor."""

    def __init__(self) -> None:
        self.image_mean, self.image_std, self.do_normalize = [0.3], [0.35], True

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return (images - self.image_mean[0]) / self.image_std[0]


class Tuned(Classifier):
    """A net without running statistics that was trained before, and its processor."""

    def __init__(self, processor: Processor) -> None:
        body = nn.Sequential(nn.Conv2d(1, 32, 2, 2), nn.Flatten(), nn.LayerNorm(512))
        super().__init__(nn.Sequential(body, nn.GELU(), nn.Linear(512, 10)), lr=1e-3)
        self.processor = processor

    def pretrained(self, x: torch.Tensor, y: torch.Tensor) -> Tuned:
        optimizer = self.configure_optimizers()
        for part in torch.randperm(len(y)).repeat(3).split(32):
            optimizer.zero_grad()
            F.cross_entropy(self(x[part]), y[part]).backward()
            optimizer.step()
        return self


@healthy
def fine_tuned_with_noise() -> Program:
    """Normalized by the net's own image processor, and made noisy afterwards."""
    x, y = digits(1797, image=True)
    processor = Processor()
    x = processor((x + 1) / 2)
    noisy = x + 0.3 * torch.randn_like(x)
    return Program(
        Tuned(processor).pretrained(x[:600], y[:600]),
        **loaders(*split(noisy[600:], y[600:])),
        trainer={"max_epochs": 3},
    )
