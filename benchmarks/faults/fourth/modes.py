"""MOD, a fourth time: what trains and what does not, and who is asked in which mode."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from .. import fault
from .._parts import Program, digits
from ._parts_a import Sorter, Trained, dice, feed, hits, small_convnet, tables


class Encoder(pl.LightningModule):
    """Two layers with norms and dropout, that have seen other digits before."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.4)]
        layers += [nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.4)]
        self.net = nn.Sequential(*layers)

    def forward(self, x):
        return self.net(x)

    def pretrain(self, x, y):
        head, order = nn.Linear(64, 10), dice(41)
        optimizer = torch.optim.Adam([*self.parameters(), *head.parameters()], lr=3e-3)
        for _ in range(150):
            few = torch.randint(len(x), (48,), generator=order)
            optimizer.zero_grad()
            F.cross_entropy(head(self(x[few])), y[few]).backward()
            optimizer.step()
        return self


class GraduallyThawed(Trained):
    """First the head learns, and after two epochs the encoder with it."""

    lr = 2e-3

    def __init__(self, encoder: Encoder, *, fixed: bool) -> None:
        super().__init__()
        self.encoder, self.head, self.fixed = encoder, nn.Linear(64, 10), fixed
        self.encoder.freeze()

    def on_train_epoch_start(self):
        if self.current_epoch == 2:
            if self.fixed:
                self.encoder.unfreeze()
            for parameter in self.encoder.parameters():
                parameter.requires_grad = True

    def measure(self, batch):
        x, y = batch
        logits = self.head(self.encoder(x))
        return {"loss": F.cross_entropy(logits, y), "acc": hits(logits, y)}


@fault(
    "MOD101",
    "GEN101",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/20573, "
    "https://github.com/Lightning-AI/pytorch-lightning/issues/17361",
)
def thawed_by_hand_and_left_in_eval(fixed: bool) -> Program:
    """freeze() put the encoder in eval mode, and requires_grad alone is set back: no dropout, stale norms."""
    x, y = digits(1797)
    g = dice(42)
    encoder = Encoder().pretrain(x[:700], y[:700])
    other = -1.5 * x[700:] + 0.3 * torch.randn(1097, 64, generator=g) + 0.7
    return Program(
        GraduallyThawed(encoder, fixed=fixed),
        **feed(*tables(other, y[700:], held_out=300)),
        trainer={"max_epochs": 13},
    )


class Consistent(Trained):
    """Learns from a few labels, and is to say the same of an image and of a spoilt copy of it."""

    lr = 3e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = small_convnet(10), fixed

    def training_step(self, batch, batch_idx):
        x, y = batch["labelled"]
        (other,) = batch["unlabelled"]
        spoilt = 2 - other + 0.5 * torch.randn_like(other)
        if self.fixed:
            together = self.net(torch.cat([x, other, spoilt]))
            logits, weak, strong = together.split([len(x), len(other), len(other)])
        else:
            logits, weak, strong = self.net(x), self.net(other), self.net(spoilt)
        loss = F.cross_entropy(logits, y)
        agree = F.mse_loss(strong.softmax(1), weak.softmax(1).detach())
        self.log_dict({"train_loss": loss, "train_agree": agree})
        return loss + 5 * agree

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.net(x)
        self.log_dict({"val_loss": F.cross_entropy(logits, y), "val_acc": hits(logits, y)})


@fault(
    "MOD105",
    source="https://github.com/kekmodel/FixMatch-pytorch (all images go through the net at once), "
    "https://arxiv.org/abs/1911.09665 (AdvProp: norms of two distributions)",
)
def clean_and_spoilt_share_a_norm_in_turn(fixed: bool) -> Program:
    """Clean and spoilt images pass the norms one after the other: what they remember fits neither."""
    x, y = digits(1700, image=True)
    labelled = DataLoader(TensorDataset(x[:640], y[:640]), batch_size=16, shuffle=True)
    unlabelled = DataLoader(TensorDataset(x[640:1400]), batch_size=32, shuffle=True)
    train = {"labelled": labelled, "unlabelled": unlabelled}
    val = DataLoader(TensorDataset(x[1400:], y[1400:]), batch_size=100)
    return Program(Consistent(fixed=fixed), train, val, trainer={"max_epochs": 5})


class Skipping(nn.Module):
    """A residual net some of whose blocks are skipped by chance, as a regularization."""

    def __init__(self, *, fixed: bool, depth: int = 4, width: int = 20, drop: float = 0.4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(depth)
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10))
        self.drop, self.fixed = drop, fixed

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            change = block(x)
            if self.training or not self.fixed:
                kept = torch.rand(len(x), 1, 1, 1) >= self.drop
                change = change * kept / (1 - self.drop)
            x = x + change
        return self.head(x)


@fault(
    "MOD106",
    "MOD102",
    "MOD105",
    source="https://github.com/WangFeng18/Swin-Transformer/issues/7",
)
def blocks_skipped_in_validation_too(fixed: bool) -> Program:
    """The stochastic depth is written by hand and never asks self.training: answers are by chance."""
    x, y = digits(1200, image=True)
    return Program(
        Sorter(Skipping(fixed=fixed), lr=3e-3),
        **feed(*tables(x, y, held_out=240)),
        trainer={"max_epochs": 6},
    )


def judge_of_digits() -> nn.Sequential:
    """A net that has learned to read digits."""
    x, y = digits(1000, image=True)
    net, order = small_convnet(10), dice(44)
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for _ in range(120):
        few = torch.randint(1000, (48,), generator=order)
        optimizer.zero_grad()
        F.cross_entropy(net(x[few]), y[few]).backward()
        optimizer.step()
    return net


class Restorer(Trained):
    """Restores spoilt images, so that a net that reads digits sees what it saw in the clean ones."""

    lr = 3e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1)]
        self.net = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(24, 1, 3, padding=1))
        self.judge = judge_of_digits().requires_grad_(False)
        if fixed:
            self.judge.eval()

    def measure(self, batch):
        spoilt, clean, y = batch
        restored = self.net(spoilt)
        seen, wanted = self.judge[:7](restored), self.judge[:7](clean)
        numbers = {"loss": F.l1_loss(seen, wanted)}
        if not self.training:
            numbers["error"] = F.mse_loss(restored, clean)
            numbers["read"] = hits(self.judge(restored), y)
        return numbers


@fault(
    "MOD103",
    "MOD105",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/2824",
)
def judge_who_learns_from_the_judged(fixed: bool) -> Program:
    """The net that judges restored images is frozen and not in eval mode: its norms follow what it sees."""
    x, y = digits(1500, image=True)
    g = dice(43)
    dark = 0.3 + 0.4 * torch.rand(1500, 1, 1, 1, generator=g)
    spoilt = dark * x - 0.3 + 0.3 * torch.randn(x.shape, generator=g)
    return Program(
        Restorer(fixed=fixed),
        **feed(*tables(spoilt, x, y, held_out=300)),
        trainer={"max_epochs": 5},
    )


class Thrifty(nn.Module):
    """Saves memory by computing its blocks once more on the way back."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        sizes = [(1, 16), (16, 24), (24, 32)]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.GroupNorm(4, o), nn.ReLU())
            for i, o in sizes
        )
        self.head = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(32, 10))
        self.fixed = fixed

    def forward(self, x):
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=not self.fixed) if self.training else block(x)
        return self.head(x)


@fault(
    "GRD103",
    "MOD104",
    "UPD102",
    source="https://github.com/Lyken17/pytorch-memonger/issues/4, "
    "https://github.com/pytorch/pytorch/issues/7617",
)
def checkpoints_of_what_needs_no_gradient(fixed: bool) -> Program:
    """Blocks are checkpointed, and images require no gradient: neither does what comes out of a block."""
    x, y = digits(1200, image=True)
    return Program(
        Sorter(Thrifty(fixed=fixed), lr=3e-3),
        **feed(*tables(x, y, held_out=240)),
        trainer={"max_epochs": 6},
    )


class Examined(Sorter):
    """Is examined after each epoch with a set put aside for it, by a loop of its own."""

    def __init__(self, net: nn.Module, exam: DataLoader, *, fixed: bool) -> None:
        super().__init__(net, lr=3e-3)
        self.exam, self.fixed = exam, fixed

    @torch.no_grad()
    def on_train_epoch_end(self):
        if self.fixed:
            self.eval()
        right = [hits(self(x), y) for x, y in self.exam]
        self.log("exam_acc", torch.stack(right).mean())
        if self.fixed:
            self.train()


@fault(
    "MOD102",
    "MOD105",
    source="https://github.com/huggingface/lerobot/issues/3668 (a loop of one's own, and its modes)",
)
def examined_without_calling_eval(fixed: bool) -> Program:
    """A second evaluation is written by hand in a hook, under no_grad, and in training mode."""
    x, y = digits(1797, image=True)
    exam = DataLoader(TensorDataset(x[1400:], y[1400:]), batch_size=8)
    body = list(small_convnet(10))
    net = nn.Sequential(*body[:-1], nn.Dropout(0.3), body[-1])
    return Program(
        Examined(net, exam, fixed=fixed),
        **feed(*tables(x[:1400], y[:1400], held_out=280)),
        trainer={"max_epochs": 8},
    )
