"""Image classifiers, segmenters and detectors."""

from __future__ import annotations

import torch
from program import Program, digits
from torch import nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from healthy import healthy
from healthy._parts import Block, Classifier, Learner, cnn, conv, digit_loaders, loaders, mlp, split


@healthy
def digits_mlp() -> Program:
    """Some inputs are constant: the corner pixels of the digits are always blank."""
    net = mlp(64, 64, 64, 10)
    return Program(Classifier(net), **digit_loaders(image=False), trainer={"max_epochs": 6})


@healthy
def batch_norm_cnn() -> Program:
    """Nothing is tricky about it: the plainest convolutional net."""
    return Program(Classifier(cnn()), **digit_loaders(), trainer={"max_epochs": 6})


@healthy
def slow_batch_norm() -> Program:
    """A small momentum makes the running statistics lag behind for many steps."""
    net = cnn(norm=lambda channels: nn.BatchNorm2d(channels, momentum=0.05))
    return Program(Classifier(net), **digit_loaders(), trainer={"max_epochs": 8})


@healthy
def cumulative_batch_norm() -> Program:
    """`momentum=None` averages over all batches so far; there is no validation."""
    net = cnn(norm=lambda channels: nn.BatchNorm2d(channels, momentum=None))
    train = digit_loaders()["train"]
    return Program(Classifier(net), train, trainer={"max_epochs": 5})


class Residual(nn.Module):
    """A residual block whose last gamma is zero, so that it starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x):
        out = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(out)))


@healthy
def resnet_zero_gamma() -> Program:
    """The convolutions of a residual branch get no gradient at the first step: gamma is zero."""
    net = nn.Sequential(
        conv(1, 16),
        Residual(16),
        conv(16, 32, stride=2),
        Residual(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )
    return Program(Classifier(net), **digit_loaders(batch_size=64), trainer={"max_epochs": 8})


class LitGroupNorm(Classifier):
    """Counts accuracy with torchmetrics, and decays weights but neither norms nor biases."""

    def __init__(self, lr: float = 5e-3, weight_decay: float = 0.05) -> None:
        super().__init__(cnn(norm=lambda channels: nn.GroupNorm(4, channels)))
        self.save_hyperparameters()
        self.val_accuracy = MulticlassAccuracy(10)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.val_accuracy(self(x), y)
        self.log("val_acc", self.val_accuracy, prog_bar=True)

    def configure_optimizers(self):
        decayed = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim <= 1]
        return torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.hparams.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self.hparams.lr,
        )


@healthy
def group_norm_cnn() -> Program:
    """Two parameter groups that differ in weight decay only, and a metric that holds state."""
    return Program(LitGroupNorm(), **digit_loaders(), trainer={"max_epochs": 8})


class RawPixels(nn.Module):
    """Takes bytes as they come from the file and does the scaling itself."""

    def __init__(self) -> None:
        super().__init__()
        self.body = cnn()
        self.register_buffer("mean", torch.tensor(78.0))
        self.register_buffer("std", torch.tensor(96.0))

    def forward(self, x):
        return self.body((x.float() - self.mean) / self.std)


@healthy
def raw_uint8_images() -> Program:
    """Batches hold bytes 0..255; the module standardizes them."""
    x, y = digits(1024, image=True)
    pixels = ((x + 1) / 2 * 255).to(torch.uint8)
    return Program(Classifier(RawPixels()), **loaders(*split(pixels, y)), trainer={"max_epochs": 6})


class VisionTransformer(nn.Module):
    """Overlapping patches of 3x3, a class token, learned positions, pre-LN blocks."""

    def __init__(self, width: int = 32, depth: int = 2) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, width, kernel_size=3, stride=2, padding=1)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x):
        patches = self.embed(x).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


@healthy
def vision_transformer() -> Program:
    """The class token starts at zero."""
    return Program(
        Classifier(VisionTransformer(), lr=3e-3), **digit_loaders(), trainer={"max_epochs": 8}
    )


def shapes(size: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy 16x16 images of a disc (1) or a square (2) on background (0), with masks."""
    grid = torch.arange(16.0)
    centre = torch.randint(5, 11, (size, 2, 1, 1))
    dy, dx = (grid[:, None] - centre[:, 0]).abs(), (grid - centre[:, 1]).abs()
    square = torch.rand(size, 1, 1) < 0.5
    inside = torch.where(square, torch.maximum(dx, dy) <= 3, dx**2 + dy**2 <= 18)
    mask = inside * (1 + square.long())
    image = inside + 0.3 * torch.randn(size, 16, 16)
    return ((image - image.mean()) / image.std()).unsqueeze(1), mask


class UNet(nn.Module):
    """One level down, one level up, and a skip connection."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.enter = conv(1, 8)
        self.down = nn.Sequential(conv(8, 16, stride=2), conv(16, 16))
        self.bottom = nn.Sequential(conv(16, 16, stride=2), conv(16, 16))
        self.up1 = nn.ConvTranspose2d(16, 16, 2, stride=2)
        self.up2 = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.leave = nn.Conv2d(16, classes, 1)

    def forward(self, x):
        fine = self.enter(x)
        coarse = self.down(fine)
        coarse = coarse + self.up1(self.bottom(coarse))
        return self.leave(torch.cat([fine, self.up2(coarse)], dim=1))


@healthy
def unet_ignore_index() -> Program:
    """Pixels at the rim of the image are labelled 255, which the loss ignores."""
    image, mask = shapes()
    mask[:, [0, -1]] = 255
    mask[:, :, [0, -1]] = 255
    module = Learner(UNet(3), nn.CrossEntropyLoss(ignore_index=255), lr=2e-3)
    return Program(module, **loaders(*split(image, mask), batch_size=16), trainer={"max_epochs": 8})


def dice(logits, mask):
    """Cross entropy plus one minus the soft overlap of prediction and mask."""
    probability = logits.sigmoid()
    overlap = 2 * (probability * mask).sum((1, 2, 3)) / (probability + mask).sum((1, 2, 3))
    return F.binary_cross_entropy_with_logits(logits, mask) + (1 - overlap).mean()


@healthy
def soft_dice() -> Program:
    """A hand-written loss on sigmoid outputs, next to one on logits."""
    image, mask = shapes()
    data = split(image, (mask > 0).float().unsqueeze(1))
    module = Learner(UNet(1), dice, lr=5e-3)
    return Program(module, **loaders(*data, batch_size=16), trainer={"max_epochs": 5})


class CentreDetector(Learner):
    """Finds the centre of the shape in a heat map, with focal loss as in CenterNet."""

    def __init__(self) -> None:
        super().__init__(
            nn.Sequential(conv(1, 16), conv(16, 16), conv(16, 16), nn.Conv2d(16, 1, 1)), self.focal
        )
        nn.init.constant_(self.net[-1].bias, -4.6)  # one pixel of a hundred is a centre

    def focal(self, logits, heat):
        p = logits.sigmoid()
        centre = heat == 1
        found = (1 - p) ** 2 * F.logsigmoid(logits) * centre
        missed = (1 - heat) ** 4 * p**2 * F.logsigmoid(-logits) * ~centre
        return -(found + missed).sum() / centre.sum()


@healthy
def focal_heatmap() -> Program:
    """Nearly every pixel is background, and the bias of the head says so from the start."""
    size = 320
    grid = torch.arange(16.0)
    centre = torch.randint(2, 14, (size, 2, 1, 1))
    distance = (grid[:, None] - centre[:, 0]) ** 2 + (grid - centre[:, 1]) ** 2
    heat = (-distance / 2).exp().unsqueeze(1)
    image = (distance <= 4).float().unsqueeze(1) + 0.3 * torch.randn(size, 1, 16, 16)
    image = (image - image.mean()) / image.std()
    return Program(
        CentreDetector(), **loaders(*split(image, heat), batch_size=16), trainer={"max_epochs": 6}
    )


class Keypoint(Learner):
    """Regresses where the shape is, from those images on which an annotator found it."""

    def training_step(self, batch, batch_idx):
        image, point = batch
        seen = ~point.isnan()
        error = (self(image) - torch.where(seen, point, 0.0)) ** 2
        loss = (error * seen).sum() / seen.sum()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        image, point = batch
        seen = ~point.isnan()
        self.log("val_loss", F.mse_loss(self(image)[seen], point[seen]))


@healthy
def nan_in_ignored_targets() -> Program:
    """A quarter of the targets are NaN, and masked before they can reach the loss."""
    image, mask = shapes()
    inside = (mask > 0).float()
    grid = torch.linspace(-1, 1, 16)
    point = torch.stack([(inside * grid).sum((1, 2)), (inside * grid[:, None]).sum((1, 2))], dim=1)
    point = point / inside.sum((1, 2))[:, None] * 3
    point[torch.rand(len(point)) < 0.25] = torch.nan
    net = nn.Sequential(
        conv(1, 8, stride=2), conv(8, 16, stride=2), nn.Flatten(), nn.Linear(256, 2)
    )
    module = Keypoint(net, lr=2e-3)
    return Program(
        module, **loaders(*split(image, point), batch_size=16), trainer={"max_epochs": 8}
    )


@healthy
def heavy_dropout() -> Program:
    """Dropout of 0.5 to 0.7 keeps the training loss far above the validation loss."""
    net = nn.Sequential(
        nn.Linear(64, 256),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Dropout(0.7),
        nn.Linear(256, 10),
    )
    return Program(Classifier(net), **digit_loaders(image=False), trainer={"max_epochs": 6})


class StochasticDepth(nn.Module):
    """Drops the whole residual block for the whole batch, at random."""

    def __init__(self, block: nn.Module, p: float) -> None:
        super().__init__()
        self.block = block
        self.p = p

    def forward(self, x):
        if not self.training:
            return x + (1 - self.p) * self.block(x)
        return x if torch.rand(()) < self.p else x + self.block(x)


@healthy
def stochastic_depth() -> Program:
    """Blocks that are dropped get no gradient at all in that step."""
    blocks = [
        StochasticDepth(nn.Sequential(nn.LayerNorm(64), mlp(64, 64, 64)), 0.1 * i)
        for i in range(1, 6)
    ]
    net = nn.Sequential(nn.Linear(64, 64), *blocks, nn.LayerNorm(64), nn.Linear(64, 10))
    return Program(
        Classifier(net, lr=1e-3), **digit_loaders(image=False), trainer={"max_epochs": 6}
    )


class Mixup(Classifier):
    """Mixes pairs of images and of one-hot labels when the batch arrives."""

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if not self.trainer.training:
            return batch
        x, y = batch
        y = F.one_hot(y, 10).float()
        share = torch.distributions.Beta(0.4, 0.4).sample()
        order = torch.randperm(len(x))
        return share * x + (1 - share) * x[order], share * y + (1 - share) * y[order]


@healthy
def mixup_soft_labels() -> Program:
    """Training targets are distributions, validation targets are classes; the loss never nears 0."""
    return Program(Mixup(cnn()), **digit_loaders(), trainer={"max_epochs": 7})


@healthy
def label_smoothing() -> Program:
    """The loss cannot go below the entropy of the smoothed labels, here 0.87."""
    module = Classifier(cnn(), nn.CrossEntropyLoss(label_smoothing=0.2))
    return Program(module, **digit_loaders(), trainer={"max_epochs": 6})


@healthy
def noisy_labels() -> Program:
    """A fifth of the training labels are drawn at random, so the loss stays near 1."""
    train, val = split(*digits())
    y = train.tensors[1]
    wrong = torch.rand(len(y)) < 0.2
    y[wrong] = torch.randint(10, (int(wrong.sum()),))
    return Program(Classifier(mlp(64, 64, 10)), **loaders(train, val), trainer={"max_epochs": 5})


class Augmented(Classifier):
    """Shifts, scales and disturbs the training images a lot."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        angle = 0.3 * torch.randn(len(x))
        scale = 1 + 0.15 * torch.randn(len(x))
        rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(
            -1, 2, 2
        )
        theta = torch.cat(
            [rotation * scale[:, None, None], 0.15 * torch.randn(len(x), 2, 1)], dim=2
        )
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        x = F.grid_sample(x + 1, grid, align_corners=False) - 1 + 0.1 * torch.randn_like(x)
        return super().training_step((x, y), batch_idx)


@healthy
def strong_augmentation() -> Program:
    """Training images are rotated, scaled, shifted and noisy; validation images are clean."""
    return Program(Augmented(cnn(), lr=3e-3), **digit_loaders(), trainer={"max_epochs": 8})


class SparseAutoencoder(Learner):
    """An overcomplete dictionary of which few units are active at a time."""

    def __init__(self) -> None:
        super().__init__(mlp(64, 256, 64), lr=2e-3)

    def training_step(self, batch, batch_idx):
        x, _ = batch
        code = self.net[1](self.net[0](x))
        error = F.mse_loss(self.net[2](code), x)
        self.log("sparsity", (code == 0).float().mean())
        return error + 1.5e-3 * code.abs().mean(0).sum()

    def validation_step(self, batch, batch_idx):
        x, _ = batch
        self.log("val_loss", F.mse_loss(self(x), x))


@healthy
def sparse_relu() -> Program:
    """Most ReLU outputs are zero on purpose, at different units for every sample."""
    return Program(SparseAutoencoder(), **digit_loaders(image=False), trainer={"max_epochs": 7})
