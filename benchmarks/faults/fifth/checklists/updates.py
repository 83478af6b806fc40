"""UPD, out of the checklists: what should be learned is not moved, or moves all alike."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F

from ... import HUMBATOVA, TRAINCHECK, fault
from ..._parts import Program, digits
from ._parts import (
    CS231N,
    LIGHTNING,
    REASONS,
    Learner,
    dice,
    explained,
    feed,
    garments,
    hits,
    news,
    photographs,
    small_cnn,
)


class Denoiser(pl.LightningModule):
    """Cleans patches of photographs: an encoder, a decoder."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.GELU(), nn.Conv2d(16, 24, 3, stride=2, padding=1)
        )
        self.decoder = nn.Sequential(
            nn.GELU(),
            nn.ConvTranspose2d(24, 16, 2, stride=2),
            nn.GELU(),
            nn.Conv2d(16, 3, 3, padding=1),
        )
        self.fixed = fixed

    def forward(self, x):
        return self.decoder(self.encoder(x))

    def training_step(self, batch, batch_idx):
        noisy, clean = batch
        loss = F.mse_loss(self(noisy), clean)
        self.log("train_mse", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        noisy, clean = batch
        out = self(noisy)
        self.log("val_mse", F.mse_loss(out, clean))
        self.log("val_r2", explained(out, clean))

    def configure_optimizers(self):
        parameters = self.parameters() if self.fixed else self.encoder.parameters()
        return torch.optim.Adam(parameters, lr=3e-3)


@fault(
    "UPD101",
    "UPD102",
    source=HUMBATOVA + "; " + TRAINCHECK + " (parameters that are in no optimizer)",
)
def encoder_alone_is_optimized(fixed: bool) -> Program:
    """The optimizer gets the parameters of the encoder, and the decoder stays as it was drawn."""
    clean = photographs(700).float() / 127.5 - 1
    clean = (clean - clean.mean()) / clean.std()
    noisy = clean + 0.4 * torch.randn(clean.shape, generator=dice(111))
    train, val = feed(noisy, clean, size=20)
    return Program(Denoiser(fixed=fixed), train, val, {"max_epochs": 5})


class Transferred(Learner):
    """A net that is taken over from the tutorial on transfer."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(small_cnn(6, width=12, norm=False), lr=3e-3)
        if not fixed:
            for parameter in self.net[:-1].parameters():
                parameter.requires_grad = False

    def configure_optimizers(self):
        trainable = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.Adam(trainable, lr=self.lr)


@fault(
    "UPD106",
    "UPD102",
    "UPD101",
    "GEN102",
    source=REASONS + ", no. 22: check for frozen layers or variables",
)
def frozen_without_ever_having_learned(fixed: bool) -> Program:
    """All but the last layer is frozen, as the tutorial on transfer does, and nothing was ever transferred."""
    train, val = feed(*garments(1800), size=40)
    return Program(Transferred(fixed=fixed), train, val, {"max_epochs": 6})


class FromScratch(pl.LightningModule):
    """Two layers of one's own making, as in the assignment."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.W1, self.b1 = nn.Parameter(torch.zeros(64, 64)), nn.Parameter(torch.zeros(64))
        self.W2, self.b2 = nn.Parameter(torch.zeros(64, 10)), nn.Parameter(torch.zeros(10))
        if fixed:
            nn.init.normal_(self.W1, std=(2 / 64) ** 0.5)
            nn.init.normal_(self.W2, std=(2 / 64) ** 0.5)
        else:
            nn.init.constant_(self.W1, 0.01)
            nn.init.constant_(self.W2, 0.01)

    def forward(self, x):
        return torch.relu(x @ self.W1 + self.b1) @ self.W2 + self.b2

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0] + 1), batch[1])
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0] + 1)
        self.log("val_loss", F.cross_entropy(logits, batch[1]))
        self.log("val_acc", hits(logits, batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


@fault(
    "UPD104",
    "GEN102",
    "LOS104",
    source=CS231N + " (pitfall: all zero initialization, no source of asymmetry); " + HUMBATOVA,
)
def a_hundredth_in_every_place(fixed: bool) -> Program:
    """Each weight of both layers begins at 0.01: the hidden units are all one and the same, for good."""
    train, val = feed(*digits(1797), size=36)
    return Program(FromScratch(fixed=fixed), train, val, {"max_epochs": 6})


class Counting(pl.LightningModule):
    """Accumulates by hand, and steps at every fourth batch."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.automatic_optimization, self.fixed = False, fixed
        self.words = nn.Embedding(300, 32)
        self.conv = nn.Conv1d(32, 48, 3, padding=1)
        self.head = nn.Linear(48, 4)

    def forward(self, ids):
        h = torch.relu(self.conv(self.words(ids).transpose(1, 2)))
        return self.head(h.amax(2))

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.manual_backward(loss / 4)
        self.log("train_loss", loss)
        count = batch_idx if self.fixed else self.global_step
        if (count + 1) % 4 == 0:
            optimizer = self.optimizers()
            optimizer.step()
            optimizer.zero_grad()

    def validation_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.log_dict(
            {"val_loss": F.cross_entropy(logits, batch[1]), "val_acc": hits(logits, batch[1])}
        )

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@fault(
    "UPD102",
    "GRD106",
    "LOS104",
    "UPD101",
    source=LIGHTNING + "optimization.html (manual optimization, gradient accumulation); "
    "https://github.com/Lightning-AI/pytorch-lightning/issues/17958",
)
def waiting_for_the_third_step(fixed: bool) -> Program:
    """It steps when global_step is three, and global_step counts the steps: there is never a first one."""
    train, val = feed(*news(2000), size=10)
    return Program(Counting(fixed=fixed), train, val, {"max_epochs": 4})
