"""MOD, a second time: train for eval, eval for train, gradients where none belong."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from healthy._parts import pretrained
from torch import nn
from torch.nn import functional as F

from .. import HUMBATOVA, fault
from .._parts import Program, Supervised, digit_loaders, digits, loaders, mlp, split
from ..first._parts import Learner, accuracy, gestures, reviews
from ._parts import patches


class FineTuned(pl.LightningModule):
    """Fine-tunes a net that was loaded as from_pretrained() loads it, all of it."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.backbone = pretrained()[:-1].eval()
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(32, 10))
        if fixed:
            self.backbone.train()

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.head(self.backbone(x)), y)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.head(self.backbone(x))
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", accuracy(logits, y))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


@fault(
    "MOD101",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/19467 (from 2.2 the Trainer no longer calls train())",
)
def loaded_in_eval_mode(fixed: bool) -> Program:
    """What from_pretrained() gives is in eval mode, and since Lightning 2.2 it stays so through training."""
    return Program(FineTuned(fixed=fixed), **digit_loaders(image=True), trainer={"max_epochs": 5})


class Sampler(Learner):
    """A recurrent model of words that shows now and then what it would write."""

    lr = 5e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.embed, self.drop = nn.Embedding(40, 24), nn.Dropout(0.2)
        self.rnn, self.out = nn.GRU(24, 48, batch_first=True), nn.Linear(48, 40)
        self.fixed = fixed

    def forward(self, ids):
        return self.out(self.drop(self.rnn(self.drop(self.embed(ids)))[0]))

    @torch.no_grad()
    def sample(self, ids):
        was = self.training
        self.eval()
        for _ in range(8):
            ids = torch.cat([ids, self(ids)[:, -1:].argmax(2)], dim=1)
        if self.fixed:
            self.train(was)
        return ids

    def loss_of(self, batch):
        (ids,) = batch
        return F.cross_entropy(self(ids[:, :-1]).transpose(1, 2), ids[:, 1:])

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if batch_idx % 20 == 10:
            self.sample(batch[0][:1, :4])


def phrases(size: int = 2000, length: int = 13):
    """Chains of words, each of which is one of three that may follow the one before."""
    following = torch.randint(40, (40, 3))
    ids = torch.randint(40, (size, length))
    for t in range(1, length):
        chosen = following[ids[:, t - 1], torch.randint(3, (size,))]
        ids[:, t] = chosen
    return ids


@fault(
    "MOD101",
    source="https://discuss.pytorch.org/t/model-eval-vs-with-torch-no-grad/19615; " + HUMBATOVA,
)
def sample_and_never_back(fixed: bool) -> Program:
    """A sample is written in eval mode every twenty batches, and nobody goes back to train mode."""
    data = loaders(*split(phrases()))
    return Program(Sampler(fixed=fixed), **data, trainer={"max_epochs": 4})


class Detector(pl.LightningModule):
    """A detector that gives its losses in train mode and boxes in eval mode, as torchvision's do."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(24, 32, 3, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveMaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.4),
            nn.Linear(128, 6),
        )
        self.fixed = fixed

    def forward(self, x, y=None):
        logits = self.net(x)
        if self.training or (self.fixed and y is not None):
            return {"loss_classifier": F.cross_entropy(logits, y)}
        return logits.softmax(1)

    def training_step(self, batch, batch_idx):
        loss = sum(self(*batch).values())
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        if not self.fixed:
            self.train()
        self.log("val_loss", sum(self(x, y).values()))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@fault(
    "MOD102",
    source="https://stackoverflow.com/questions/60339336 (validation loss of torchvision's Faster R-CNN)",
)
def trained_for_its_validation_loss(fixed: bool) -> Program:
    """The detector has losses in train mode only, so validation_step calls self.train()."""
    data = loaders(*split(*patches(1500)))
    return Program(Detector(fixed=fixed), **data, trainer={"max_epochs": 5})


class Perceptual(pl.LightningModule):
    """Cleans images so that a frozen net, which knows images, sees the same in them."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.cleaner = nn.Sequential(
            nn.Conv2d(1, 24, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 24, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, 1, 3, padding=1),
        )
        self.seer, self.fixed = pretrained()[:2], fixed
        for parameter in self.seer.parameters():
            parameter.requires_grad = False
        if fixed:
            self.seer.eval()

    def losses(self, batch):
        noisy, clean = batch
        out = self.cleaner(noisy)
        return F.l1_loss(out, clean), F.mse_loss(self.seer(out), self.seer(clean))

    def training_step(self, batch, batch_idx):
        pixels, seen = self.losses(batch)
        self.log_dict({"pixels": pixels, "seen": seen})
        return pixels + 0.1 * seen

    def validation_step(self, batch, batch_idx):
        pixels, seen = self.losses(batch)
        self.log_dict({"val_pixels": pixels, "val_seen": seen})

    def configure_optimizers(self):
        return torch.optim.Adam(self.cleaner.parameters(), lr=2e-3)


@fault(
    "MOD103",
    source="https://discuss.pytorch.org/t/perceptual-loss-and-batch-norm-in-train-mode/71906; "
    "https://keras.io/guides/transfer_learning (frozen batch norm)",
)
def seer_whose_statistics_move(fixed: bool) -> Program:
    """The net of a perceptual loss is frozen, and in train mode: its running statistics go with the noise."""
    clean = digits(1400, image=True)[0]
    noisy = clean + 0.5 * torch.randn_like(clean)
    data = loaders(*split(noisy, clean))
    return Program(Perceptual(fixed=fixed), **data, trainer={"max_epochs": 4})


class EndToEnd(Learner):
    """An encoder of windows and a classifier, which were to be trained together."""

    lr = 3e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.encoder = nn.GRU(3, 32, batch_first=True)
        self.head, self.fixed = nn.Linear(32, 4), fixed

    def forward(self, x):
        with torch.set_grad_enabled(self.fixed and torch.is_grad_enabled()):
            code = self.encoder(x)[1][0]
        return self.head(code)

    def loss_of(self, batch):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_acc", accuracy(self(batch[0]), batch[1]))


@fault(
    "MOD104",
    "GRD103",
    "UPD102",
    "LOS107",
    source="https://stackoverflow.com/questions/63351268 (no_grad in the forward of the encoder)",
)
def encoder_without_gradients(fixed: bool) -> Program:
    """The encoder's forward is within no_grad, from when it was a frozen one: only the head is trained."""
    data = loaders(*split(*gestures(1600)))
    return Program(EndToEnd(fixed=fixed), **data, trainer={"max_epochs": 5})


@fault(
    "MOD105",
    "GEN105",
    source="https://stackoverflow.com/questions/48345857 (batchnorm momentum: PyTorch and Keras)",
)
def momentum_of_another_framework(fixed: bool) -> Program:
    """Batch norm with a momentum of 0.001, one minus the other framework's 0.999: its statistics lag behind."""
    momentum = 0.1 if fixed else 0.001
    layers: list[nn.Module] = []
    for before, after in ((3, 24), (24, 32)):
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after, momentum=momentum),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(288, 6))
    x, y = patches(1500)
    data = loaders(*split(x, y))
    return Program(Supervised(net, lr=1e-3), **data, trainer={"max_epochs": 4})


class FlashAttention(nn.Module):
    """Self-attention by PyTorch's fast function."""

    def __init__(self, width: int, drop: float, *, fixed: bool) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.drop, self.fixed = drop, fixed

    def forward(self, x):
        q, k, v = (one.unflatten(2, (4, -1)).transpose(1, 2) for one in self.qkv(x).chunk(3, 2))
        drop = self.drop if self.training or not self.fixed else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=drop)
        return self.out(mixed.transpose(1, 2).flatten(2))


class TopicTransformer(nn.Module):
    """What is a sentence about?"""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.word, self.place = nn.Embedding(80, 32), nn.Parameter(0.1 * torch.randn(12, 32))
        self.norm1, self.attend = nn.LayerNorm(32), FlashAttention(32, 0.3, fixed=fixed)
        self.norm2, self.mlp = nn.LayerNorm(32), mlp(32, 64, 32, activation=nn.GELU)
        self.out = nn.Linear(32, 4)

    def forward(self, ids):
        x = self.word(ids) + self.place
        x = x + self.attend(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.out(x.mean(1))


@fault(
    "MOD106",
    source="https://pytorch.org/docs/stable/generated/torch.nn.functional.scaled_dot_product_attention.html "
    "(dropout_p is applied whatever the mode)",
)
def attention_that_always_drops(fixed: bool) -> Program:
    """scaled_dot_product_attention(dropout_p=0.3) knows of no module and no mode: validation drops, too."""
    data = loaders(*split(*reviews(2000)))
    module = Supervised(TopicTransformer(fixed=fixed), lr=1e-3)
    return Program(module, **data, trainer={"max_epochs": 4})
