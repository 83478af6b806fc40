"""UPD, a second time: what the optimizer does, or does not, to the parameters."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from healthy._parts import pretrained
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from .. import AUTOTRAINER, DEEPFD, HUMBATOVA, KARPATHY, fault
from .._parts import Program, Supervised, characters, digit_loaders, digits, loaders, mlp, split
from ..first._parts import Learner, accuracy
from ._parts import clients, passages, patches, ratings


class ManyTasks(pl.LightningModule):
    """Three quantities of a plant, each with a head of its own."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU())
        heads = {name: nn.Linear(32, 1) for name in ("heat", "flow", "yield")}
        self.heads = nn.ModuleDict(heads) if fixed else heads

    def losses(self, batch):
        body = self.body(batch["x"])
        return {
            name: F.mse_loss(head(body).squeeze(1), batch[name])
            for name, head in self.heads.items()
        }

    def training_step(self, batch, batch_idx):
        losses = self.losses(batch)
        self.log_dict({f"train_{name}": loss for name, loss in losses.items()})
        return sum(losses.values())

    def validation_step(self, batch, batch_idx):
        losses = self.losses(batch)
        self.log_dict({f"val_{name}": loss for name, loss in losses.items()})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.04, momentum=0.9)


@fault(
    "UPD101",
    "UPD102",
    source="https://discuss.pytorch.org/t/list-of-nn-module-in-a-nn-module/219; " + HUMBATOVA,
)
def heads_in_a_dictionary(fixed: bool) -> Program:
    """The heads are in a plain dictionary, where parameters() does not look for them."""
    x = torch.randn(2400, 12)
    targets = {
        "heat": x[:, 0] * x[:, 1],
        "flow": x[:, 2].abs() + x[:, 3],
        "yield": x[:, 0] - x[:, 4] * x[:, 5].sign(),
    }
    targets = {k: (v - v.mean()) / v.std() + 0.1 * torch.randn(2400) for k, v in targets.items()}
    samples = [{"x": x[i], **{k: v[i] for k, v in targets.items()}} for i in range(2400)]
    data = loaders(samples[:1920], samples[1920:])
    return Program(ManyTasks(fixed=fixed), **data, trainer={"max_epochs": 5})


class Placed(nn.Module):
    """Reads a sequence of tokens, whose order is what matters."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.token = nn.Embedding(8, 24)
        place = 0.05 * torch.randn(10, 24)
        self.place = nn.Parameter(place) if fixed else place.requires_grad_()
        self.net, self.out = mlp(24, 64, 48), nn.Linear(48, 5)

    def forward(self, ids):
        return self.out(F.gelu(self.net(self.token(ids) + self.place)).mean(1))


@fault(
    "UPD101",
    "UPD102",
    source="https://stackoverflow.com/questions/50935345 (nn.Parameter, and a tensor with requires_grad)",
)
def places_that_are_no_parameter(fixed: bool) -> Program:
    """The vectors of the places are a tensor with requires_grad=True, and no nn.Parameter."""
    ids = torch.randint(8, (2400, 10))
    weight = torch.linspace(-1, 1, 10)
    score = ((ids % 4) * weight).sum(1)
    y = torch.bucketize(score, score.quantile(torch.tensor([0.2, 0.4, 0.6, 0.8])))
    module = Supervised(Placed(fixed=fixed), lr=6e-3)
    return Program(module, **loaders(*split(ids, y)), trainer={"max_epochs": 5})


class Unfrozen(pl.LightningModule):
    """Trains a head first, and after an epoch the backbone with it."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.backbone, self.head = pretrained()[:-1], nn.Linear(32, 10)
        self.fixed = fixed
        self.backbone.requires_grad_(False)

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.backbone.requires_grad_(True)
        self.backbone.train(self.current_epoch > 0)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self.head(self.backbone(x)), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.head(self.backbone(x))
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", accuracy(logits, y))

    def configure_optimizers(self):
        parameters = self.parameters()
        if not self.fixed:
            parameters = [p for p in parameters if p.requires_grad]
        return torch.optim.Adam(parameters, lr=3e-3)


@fault(
    "UPD101",
    "UPD102",
    source="https://lightning.ai/docs/pytorch/stable/api/lightning.pytorch.callbacks.BaseFinetuning.html; "
    "https://github.com/Lightning-AI/pytorch-lightning/discussions/8451",
)
def unfrozen_and_not_told(fixed: bool) -> Program:
    """The optimizer got what was trainable when it was made; the backbone is unfrozen later, and not in it."""
    data = digit_loaders(image=True)
    return Program(Unfrozen(fixed=fixed), **data, trainer={"max_epochs": 5})


@fault(
    "UPD102",
    "UPD103",
    "LRN102",
    "NAN105",
    source="https://arxiv.org/abs/2010.06192 (Revisiting BFloat16 training: updates that are rounded away)",
)
def rounded_away_in_bfloat(fixed: bool) -> Program:
    """precision="bf16-true" keeps weights in eight bits: a step of 6e-4 on a weight of one is rounded away."""
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU()]
    module = Supervised(nn.Sequential(*layers, nn.Linear(64, 10)), lr=6e-4)
    precision = "bf16-mixed" if fixed else "bf16-true"
    trainer = {"max_epochs": 7, "precision": precision}
    return Program(module, **digit_loaders(), trainer=trainer)


class SmallGpt(nn.Module):
    """A transformer of two layers for letters."""

    def __init__(self, letters: int, deviation: float) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(letters, 48), nn.Embedding(16, 48)
        layer = nn.TransformerEncoderLayer(
            48, 4, 96, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, 2, nn.LayerNorm(48), enable_nested_tensor=False)
        self.out = nn.Linear(48, letters, bias=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(16))
        for one in self.modules():
            if isinstance(one, (nn.Linear, nn.Embedding)):
                nn.init.normal_(one.weight, std=deviation)

    def forward(self, ids):
        x = self.token(ids) + self.place.weight
        return self.out(self.blocks(x, mask=self.mask)).mT


@fault(
    "UPD104",
    "LOS101",
    "ACT103",
    "ACT102",
    "GRD101",
    source="https://github.com/karpathy/nanoGPT/blob/master/model.py (_init_weights: std=0.02); "
    + KARPATHY,
)
def every_weight_at_one(fixed: bool) -> Program:
    """_init_weights draws all weights with a deviation of 1.0, where 0.02 to 0.1 was meant."""
    ids, letters = characters()
    train, val = (TensorDataset(p[:, :-1], p[:, 1:]) for p in passages(ids, 17, 6))
    module = Supervised(SmallGpt(letters, 0.08 if fixed else 1.0), lr=2e-3)
    return Program(module, **loaders(train, val), trainer={"max_epochs": 3})


class Factors(Learner):
    """Matrix factorization: who gives how many stars to what?"""

    lr = 2e-2

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(120, 8), nn.Embedding(80, 8)
        for one in (self.user, self.item):
            if fixed:
                nn.init.normal_(one.weight, std=0.3)
            else:
                nn.init.constant_(one.weight, 0.3)

    def loss_of(self, batch):
        user, item, stars = batch
        return F.mse_loss(3 + (self.user(user) * self.item(item)).sum(1), stars)


@fault(
    "UPD104",
    "GEN102",
    source="https://cs231n.github.io/neural-networks-2/#init (pitfall: all alike; symmetry breaking)",
)
def factors_that_start_alike(fixed: bool) -> Program:
    """All eight factors of every user and item start at 0.3, and get the same gradient for ever."""
    user, item, stars = ratings(8000, 120, 80)
    data = loaders(*split(user, item, stars), batch_size=128)
    return Program(Factors(fixed=fixed), **data, trainer={"max_epochs": 6})


@fault(
    "UPD106",
    "LRN102",
    "LRN101",
    "UPD103",
    source="https://arxiv.org/abs/1412.6980 (Adam: beta1=0.9, beta2=0.999); " + DEEPFD,
)
def betas_exchanged(fixed: bool) -> Program:
    """betas=(0.999, 0.9): Adam averages its steps over a thousand batches and their size over ten."""
    betas = (0.9, 0.999) if fixed else (0.999, 0.9)
    adam = lambda p, lr: torch.optim.Adam(p, lr=lr, betas=betas)  # noqa: E731
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveMaxPool2d(2),
        nn.Flatten(),
        nn.Linear(96, 6),
    )
    module = Supervised(net, lr=3e-3, optimizer=adam)
    return Program(module, **loaders(*split(*patches(1500))), trainer={"max_epochs": 6})


@fault(
    "UPD106",
    "LOS106",
    "GEN102",
    "ACT101",
    source="https://arxiv.org/abs/1711.05101 (Decoupled weight decay); " + AUTOTRAINER,
)
def decay_meant_for_adamw(fixed: bool) -> Program:
    """weight_decay=0.1 is right for AdamW, and Adam adds it to the gradient."""
    optimizer = torch.optim.AdamW if fixed else torch.optim.Adam
    make = lambda p, lr: optimizer(p, lr=lr, weight_decay=0.1)  # noqa: E731
    module = Supervised(mlp(10, 64, 64, 2), lr=3e-3, optimizer=make)
    trainer = {"max_epochs": 6, "callbacks": [EMAWeightAveraging(decay=0.98)]}
    return Program(module, **loaders(*split(*clients(2000))), trainer=trainer)


class Embedded(pl.LightningModule):
    """An embedding of digits: those of a kind near to one another, others far away."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = mlp(64, 64, 16), fixed

    def training_step(self, batch, batch_idx):
        x, y = batch
        z = self.net(x)
        apart = torch.cdist(z, z) + 1e-6
        same = y[:, None] == y[None]
        near, far = apart[same].mean(), apart[~same]
        if self.fixed:
            far = -F.relu(4.0 - far)
        loss = near - far.mean()
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        z = self.net(x)
        apart = torch.cdist(z, z) + 1e9 * torch.eye(len(z))
        self.log("val_neighbour_acc", (y[apart.argmin(1)] == y).float().mean())
        self.log("val_length", z.norm(dim=1).mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault(
    "UPD105",
    "LOS108",
    "LOS109",
    "ACT103",
    source="https://doi.org/10.1109/CVPR.2006.100 (contrastive loss: why there is a margin)",
)
def pushed_apart_without_a_margin(fixed: bool) -> Program:
    """The contrastive loss has no margin: others are pushed away for ever, and the weights grow with it."""
    train, val = split(*digits(1797))
    return Program(
        Embedded(fixed=fixed),
        DataLoader(train, 64, shuffle=True),
        DataLoader(val, len(val)),
        trainer={"max_epochs": 10},
    )


class Tabular(pl.LightningModule):
    """A GAN that makes up rows of a table."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = mlp(4, 32, 32, 3), mlp(3, 48, 48, 1, activation=nn.SiLU)
        self.fixed = fixed

    def training_step(self, batch, batch_idx):
        (real,) = batch
        for_generator, for_critic = self.optimizers()
        ones, zeros = torch.ones(len(real), 1), torch.zeros(len(real), 1)
        fake = self.generator(torch.randn(len(real), 4))
        critic_loss = F.binary_cross_entropy_with_logits(self.critic(real), ones)
        critic_loss = critic_loss + F.binary_cross_entropy_with_logits(
            self.critic(fake.detach()), zeros
        )
        for_critic.zero_grad()
        self.manual_backward(critic_loss)
        for_critic.step()
        generator_loss = F.binary_cross_entropy_with_logits(self.critic(fake), ones)
        for_generator.zero_grad()
        self.manual_backward(generator_loss)
        for_generator.step()
        self.log_dict({"critic_loss": critic_loss, "generator_loss": generator_loss})

    def validation_step(self, batch, batch_idx):
        (real,) = batch
        fake = self.generator(torch.randn(len(real), 4))
        self.log("off_mean", (fake.mean(0) - real.mean(0)).abs().mean())
        self.log("off_covariance", (fake.T.cov() - real.T.cov()).abs().mean())

    def configure_optimizers(self):
        generator, critic = (self.generator, self.critic) if self.fixed else (self, self)
        return [
            torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.0, 0.9)),
            torch.optim.Adam(critic.parameters(), lr=4e-3, betas=(0.0, 0.9)),
        ]


@fault(
    "UPD101",
    "LOS108",
    "LRN101",
    source="https://discuss.pytorch.org/t/gan-optimizer-self-parameters/70122; "
    + HUMBATOVA
    + ", optimizers",
)
def both_optimizers_have_everything(fixed: bool) -> Program:
    """Both optimizers of a GAN get self.parameters(): the critic is trained to believe the generator, too."""
    mix = torch.tensor([[1.0, 0.8, 0.0], [0.0, 0.6, 0.7], [0.0, 0.0, 0.7]])
    x = torch.randn(2400, 3) @ mix + torch.tensor([1.0, -1.0, 0.5])
    train, val = split(x)
    return Program(
        Tabular(fixed=fixed),
        DataLoader(train, 128, shuffle=True),
        DataLoader(val, len(val)),
        trainer={"max_epochs": 10},
    )
