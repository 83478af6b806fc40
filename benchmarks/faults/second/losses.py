"""LOS, a second time: a loss that asks for something else."""

from __future__ import annotations

import math

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from .. import HUMBATOVA, KARPATHY, TRAINCHECK, fault
from .._parts import Program, Supervised, characters, digit_loaders, digits, loaders, mlp, split
from ..first._parts import Learner, accuracy, batches, gestures, reviews
from ._parts import UNet, communities, lesions, overlap, passages


class Tied(Learner):
    """A recurrent letter model whose last layer is its embedding."""

    lr = 5e-3

    def __init__(self, letters: int, deviation: float) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(letters, 48), nn.GRU(48, 48, batch_first=True)
        self.norm, self.out = nn.LayerNorm(48), nn.Linear(48, letters, bias=False)
        nn.init.normal_(self.embed.weight, std=deviation)
        self.out.weight = self.embed.weight

    def loss_of(self, batch):
        (ids,) = batch
        hidden = self.norm(self.rnn(self.embed(ids[:, :-1]))[0])
        return F.cross_entropy(self.out(hidden).flatten(0, 1), ids[:, 1:].flatten())


@fault(
    "LOS101",
    "UPD104",
    "ACT103",
    source="https://github.com/karpathy/build-nanogpt (wte is tied to lm_head: std=0.02); "
    + KARPATHY,
)
def tied_to_a_wide_embedding(fixed: bool) -> Program:
    """The last layer is tied to an embedding that starts at randn: the first loss is five times chance."""
    ids, letters = characters()
    train, val = map(TensorDataset, passages(ids, 17, 4))
    return Program(
        Tied(letters, 0.05 if fixed else 1.0), **loaders(train, val), trainer={"max_steps": 150}
    )


class Findable(Learner):
    """Segments lesions."""

    lr = 2e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        net = UNet(12)
        self.net = net if fixed else nn.Sequential(net, nn.Sigmoid())
        self.level = 0.0 if fixed else 0.5

    def loss_of(self, batch):
        x, mask = batch
        return F.binary_cross_entropy_with_logits(self.net(x), mask)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_iou", overlap(self.net(batch[0]) - self.level, batch[1]))


@fault(
    "LOS102",
    "OUT102",
    source="https://discuss.pytorch.org/t/bceloss-vs-bcewithlogitsloss/33586; " + HUMBATOVA,
)
def sigmoid_before_a_sigmoid(fixed: bool) -> Program:
    """The U-Net ends in a sigmoid, and the loss has one of its own: nothing is ever less likely than a half."""
    data = loaders(*split(*lesions()), batch_size=16)
    return Program(Findable(fixed=fixed), **data, trainer={"max_epochs": 6})


def taught() -> nn.Sequential:
    """A wide net that knows the digits."""
    net, (x, y) = mlp(64, 128, 10), digits(1797)
    adam = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(150):
        part = torch.randint(len(x), (64,))
        adam.zero_grad()
        F.cross_entropy(net(x[part]), y[part]).backward()
        adam.step()
    return net.requires_grad_(False).eval()


class Distilled(Learner):
    """A narrow net that learns from what a wide one answers."""

    lr = 4e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.teacher, self.student, self.fixed = taught(), mlp(64, 24, 10), fixed

    def loss_of(self, batch):
        x, _ = batch
        wanted = self.teacher(x).softmax(1)
        own = self.student(x)
        own = own.log_softmax(1) if self.fixed else own.softmax(1)
        return F.kl_div(own, wanted, reduction="batchmean")

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_acc", accuracy(self.student(batch[0]), batch[1]))


@fault(
    "LOS102",
    source="https://github.com/pytorch/pytorch/issues/7288 (kl_div wants log-probabilities)",
)
def divergence_of_probabilities(fixed: bool) -> Program:
    """kl_div wants the logarithms of the student's probabilities, and gets these as they are."""
    return Program(Distilled(fixed=fixed), **digit_loaders(), trainer={"max_epochs": 6})


class ActorCritic(pl.LightningModule):
    """Advantage actor-critic on states that do not follow from one another."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.actor, self.critic, self.fixed = mlp(6, 48, 3), mlp(6, 48, 1), fixed

    def training_step(self, batch, batch_idx):
        (state,) = batch
        choice = torch.distributions.Categorical(logits=self.actor(state))
        action = choice.sample()
        offset = 3 * state[:, 3]
        reward = (action == state[:, :3].argmax(1)).float() + offset
        value = self.critic(state)
        value = value.squeeze(1) if self.fixed else value
        advantage = reward - value
        loss = -(choice.log_prob(action) * advantage.detach()).mean()
        critic_loss = advantage.pow(2).mean()
        self.log("right", (reward - offset).mean(), prog_bar=True)
        self.log("critic_loss", critic_loss)
        return loss + 0.5 * critic_loss

    def validation_step(self, batch, batch_idx):
        (state,) = batch
        self.log("val_right", accuracy(self.actor(state), state[:, :3].argmax(1)))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=4e-3)


@fault(
    "LOS103",
    source="https://github.com/pytorch/examples/issues/446; https://discuss.pytorch.org/t/a2c-broadcasting",
)
def values_in_a_column(fixed: bool) -> Program:
    """The critic's values are (N, 1) and the rewards (N,): the advantage of each state with every other."""
    data = {
        "train": batches(torch.randn(12800, 6), size=64),
        "val": DataLoader(TensorDataset(torch.randn(500, 6)), 250),
    }
    return Program(
        ActorCritic(fixed=fixed), **data, trainer={"max_epochs": 1, "val_check_interval": 50}
    )


class Reshaped(Learner):
    """Predicts the next letter at each place."""

    lr = 6e-3

    def __init__(self, letters: int, *, fixed: bool) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(letters, 24), nn.LSTM(24, 64, batch_first=True)
        self.out, self.letters, self.fixed = nn.Linear(64, letters), letters, fixed

    def loss_of(self, batch):
        ids, following = batch
        logits = self.out(self.rnn(self.embed(ids))[0])
        viewed = logits.view(len(ids), self.letters, -1)
        return F.cross_entropy(logits.transpose(1, 2) if self.fixed else viewed, following)


@fault(
    "LOS102",
    "OUT105",
    "INP104",
    "LOS104",
    "LOS103",
    source="https://discuss.pytorch.org/t/cross-entropy-loss-for-a-sequence-time-series-of-output/4309",
)
def viewed_as_letters_by_place(fixed: bool) -> Program:
    """logits.view(N, letters, places) for a transpose: each answer is spread over several places."""
    ids, letters = characters()
    train, val = (TensorDataset(p[:, :-1], p[:, 1:]) for p in passages(ids, 21, 5))
    module = Reshaped(letters, fixed=fixed)
    return Program(module, **loaders(train, val), trainer={"max_epochs": 3})


class House(Learner):
    """What a house is worth, and what kind of house it is, with one body for both."""

    lr = 5e-3

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU())
        self.worth, self.kind = nn.Linear(24, 1), nn.Linear(24, 3)

    def losses(self, batch):
        body = self.body(batch["rooms"])
        worth = F.mse_loss(self.worth(body).squeeze(1), batch["worth"])
        return worth, F.cross_entropy(self.kind(body), batch["kind"])

    def loss_of(self, batch):
        return sum(self.losses(batch))

    def validation_step(self, batch, batch_idx):
        worth, kind = self.losses(batch)
        body = self.body(batch["rooms"])
        self.log_dict({"val_worth": worth, "val_kind": kind})
        self.log("val_kind_acc", accuracy(self.kind(body), batch["kind"]))


@fault(
    "LOS105",
    "LOS101",
    "INP103",
    source="https://arxiv.org/abs/1705.07115 (Multi-task learning using uncertainty to weigh losses)",
)
def worth_drowns_the_kind(fixed: bool) -> Program:
    """The squared error of a worth in thousands is added to a cross entropy: the body serves only the first."""
    x = torch.randn(2400, 10)
    worth = x[:, 0] + x[:, 1] * x[:, 2]
    kind = torch.stack([x[:, 3] * x[:, 4], x[:, 5], x[:, 6].abs() - 0.8], dim=1).argmax(1)
    worth = (worth - worth.mean()) / worth.std()
    worth = worth if fixed else 100 * worth
    samples = [{"rooms": a, "worth": b, "kind": c} for a, b, c in zip(x, worth, kind, strict=True)]
    data = loaders(samples[:2000], samples[2000:])
    return Program(House(), **data, trainer={"max_epochs": 4})


class Penalized(Learner):
    """A graph net with a penalty on its weights, written out."""

    lr = 5e-3

    def __init__(self, penalty: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(8, 32), nn.Linear(32, 32)])
        self.out, self.penalty = nn.Linear(32, 3), penalty

    def forward(self, adjacency, x):
        for layer in self.layers:
            x = torch.relu(adjacency @ layer(x))
        return self.out(x)

    def loss_of(self, batch):
        adjacency, x, y = batch
        return F.cross_entropy(self(adjacency, x).transpose(1, 2), y)

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss + self.penalty * sum(p.abs().sum() for p in self.parameters())

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        adjacency, x, y = batch
        self.log("val_acc", (self(adjacency, x).argmax(2) == y).float().mean())


@fault(
    "LOS106",
    "LOS104",
    "LOS105",
    "OUT101",
    "ACT101",
    "UPD105",
    source="https://discuss.pytorch.org/t/simple-l2-regularization/139 (the size of lambda); "
    + HUMBATOVA,
)
def sum_of_all_weights(fixed: bool) -> Program:
    """An L1 penalty of 0.1 is summed over all weights: zero weights are the best there is."""
    data = loaders(*split(*communities(600)), batch_size=16)
    return Program(Penalized(1e-5 if fixed else 0.1), **data, trainer={"max_epochs": 5})


class Wrapped(Supervised):
    """Multiplies its loss by a weight, and packs it up again."""

    def __init__(self, net, *, fixed: bool) -> None:
        super().__init__(net, lr=8e-3)
        self.fixed = fixed

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y, label_smoothing=0.05)
        if not self.fixed:
            loss = torch.tensor(loss.item(), requires_grad=True)
        self.log("train_loss", loss)
        return loss


@fault(
    "LOS107",
    "ERR106",
    "UPD102",
    "GRD103",
    "LOS104",
    source="https://discuss.pytorch.org/t/loss-requires-grad-true-does-not-train/35297; "
    + TRAINCHECK,
)
def packed_up_again(fixed: bool) -> Program:
    """An error said that the loss needs requires_grad: torch.tensor(loss.item(), requires_grad=True)."""
    net = nn.Sequential(nn.EmbeddingBag(80, 24), nn.ReLU(), nn.Linear(24, 4))
    data = loaders(*split(*reviews(1800)))
    return Program(Wrapped(net, fixed=fixed), **data, trainer={"max_epochs": 6})


class Reverse(torch.autograd.Function):
    """Does nothing on the way forward, and turns the gradient around on the way back."""

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -0.3 * gradient


class Adapted(pl.LightningModule):
    """Features that tell the classes apart and not the two cameras."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU())
        self.label, self.camera, self.fixed = nn.Linear(32, 10), nn.Linear(32, 2), fixed

    def losses(self, batch):
        image, label, camera = batch
        features = self.features(image)
        for_label, for_camera = features, Reverse.apply(features)
        if not self.fixed:
            for_label, for_camera = for_camera, for_label
        guess = self.label(for_label)
        self.log("acc" if self.training else "val_acc", accuracy(guess, label))
        return F.cross_entropy(guess, label), F.cross_entropy(self.camera(for_camera), camera)

    def training_step(self, batch, batch_idx):
        label, camera = self.losses(batch)
        self.log_dict({"label_loss": label, "camera_loss": camera})
        return label + camera

    def validation_step(self, batch, batch_idx):
        label, camera = self.losses(batch)
        self.log_dict({"val_label_loss": label, "val_camera_loss": camera})

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault(
    "LOS108",
    "LOS109",
    "UPD105",
    "LOS104",
    source="https://arxiv.org/abs/1505.07818 (domain-adversarial training: the reversal is for the domains)",
)
def reversal_before_the_wrong_head(fixed: bool) -> Program:
    """The gradient is turned around before the head of the classes: the features learn to hide them."""
    x, y = digits(1797)
    camera = torch.arange(1797) % 2
    x = x + 0.4 * camera[:, None] * torch.linspace(-1, 1, 64)
    data = loaders(*split(x, y, camera))
    return Program(Adapted(fixed=fixed), **data, trainer={"max_epochs": 6})


class Keypoints(Learner):
    """Finds the joint in a picture, as a map of how likely it is there."""

    lr = 3e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.GELU(),
            nn.Conv2d(16, 16, 5, padding=2),
            nn.GELU(),
            nn.Conv2d(16, 1, 1),
        )
        self.fixed = fixed

    def loss_of(self, batch):
        image, heat = batch
        out = self.net(image)
        return 50 * F.mse_loss(out, heat) if self.fixed else F.l1_loss(out, heat)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        image, heat = batch
        found, there = self.net(image).flatten(1).argmax(1), heat.flatten(1).argmax(1)
        away = torch.stack([found // 20 - there // 20, found % 20 - there % 20]).float().norm(dim=0)
        self.log("val_found", (away < 2).float().mean())


@fault(
    "LOS109",
    "OUT101",
    "LOS104",
    "CLS101",
    source="https://stackoverflow.com/questions/55459087 (heat maps all black); https://arxiv.org/abs/2111.06500",
)
def median_of_a_heat_map(fixed: bool) -> Program:
    """The absolute error of a map that is zero nearly everywhere: its median is zero, and so is the answer."""
    rows, columns = torch.arange(20)[:, None], torch.arange(20)[None]
    at = torch.randint(2, 18, (500, 2, 1, 1))
    heat = torch.exp(-((rows - at[:, 0]) ** 2 + (columns - at[:, 1]) ** 2) / 1.2)[:, None]
    cross = ((rows == at[:, 0]) | (columns == at[:, 1])).float()[:, None] * (heat > 0.01)
    image = 1.5 * cross + 1.2 * torch.randn(500, 1, 20, 20)
    image = image / image.std()
    data = loaders(*split(image, heat), batch_size=16)
    return Program(Keypoints(fixed=fixed), **data, trainer={"max_epochs": 5})


class Contrast(Learner):
    """Two noisy windows of the same movement are to be alike, those of others are not."""

    lr = 2e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(72, 64), nn.ReLU(), nn.Linear(64, 16))
        self.sign = 1.0 if fixed else -1.0

    def loss_of(self, batch):
        x, _ = batch
        one, other = (F.normalize(self.net(x + 0.3 * torch.randn_like(x)), dim=1) for _ in range(2))
        return F.cross_entropy(self.sign * one @ other.T / 0.2, torch.arange(len(x)))

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        x, _ = batch
        one, other = (F.normalize(self.net(x + 0.3 * torch.randn_like(x)), dim=1) for _ in range(2))
        found = (one @ other.T).argmax(1)
        self.log("val_found", (found == torch.arange(len(x))).float().mean())


@fault(
    "LOS109",
    "LOS102",
    "LOS108",
    source="https://arxiv.org/abs/2002.05709 (SimCLR: similarities, not distances, over the temperature); "
    + HUMBATOVA,
)
def distances_for_similarities(fixed: bool) -> Program:
    """The cross entropy is taken of distances as if they were similarities: a pair is pushed apart."""
    data = loaders(*split(*gestures(2000)))
    return Program(Contrast(fixed=fixed), **data, trainer={"max_epochs": 4})


class Direction(Supervised):
    """Says how many degrees it is off."""

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        out, y = self(batch[0]), batch[1]
        if y.shape[1] == 2:
            out, y = torch.atan2(out[:, 1], out[:, 0]), torch.atan2(y[:, 1], y[:, 0])
        off = torch.remainder(out.flatten() - y.flatten() + math.pi, 2 * math.pi) - math.pi
        self.log("val_degrees_off", off.abs().mean() * 180 / math.pi)


@fault(
    "LOS109",
    "GEN102",
    "LOS101",
    source="https://stats.stackexchange.com/questions/218407 (encoding angle data for a neural network)",
)
def difference_of_two_angles(fixed: bool) -> Program:
    """The squared difference of two directions of the wind, as if 359 degrees were far from 1."""
    sensors = torch.randn(2400, 2)
    sensors = F.normalize(sensors, dim=1)
    angle = torch.atan2(sensors[:, 1], sensors[:, 0])
    x = torch.cat([sensors + 0.1 * torch.randn(2400, 2), torch.randn(2400, 2)], dim=1)
    x = x / x.std(0)
    turned = torch.remainder(3 * angle + math.pi, 2 * math.pi) - math.pi
    y = torch.stack([turned.cos(), turned.sin()], dim=1) if fixed else turned[:, None]
    module = Direction(mlp(4, 64, 64, 2 if fixed else 1), F.mse_loss, lr=4e-3)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 5})


class Variational(pl.LightningModule):
    """A variational autoencoder of digits, with eight numbers between its halves."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 96), nn.SiLU(), nn.Linear(96, 16))
        self.decoder = nn.Sequential(nn.Linear(8, 96), nn.SiLU(), nn.Linear(96, 64))
        self.fixed = fixed

    def forward(self, x):
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decoder(z), mean, log_variance

    def losses(self, batch):
        (x,) = batch
        rebuilt, mean, log_variance = self(x)
        error = F.mse_loss(rebuilt, x, reduction="sum" if self.fixed else "mean")
        divergence = -0.5 * (1 + log_variance - mean.pow(2) - log_variance.exp()).sum()
        size = len(x) if self.fixed else 1
        return error / size, divergence / size

    def training_step(self, batch, batch_idx):
        error, divergence = self.losses(batch)
        self.log_dict({"error": error, "divergence": divergence})
        return error + divergence

    def validation_step(self, batch, batch_idx):
        (x,) = batch
        error, divergence = self.losses(batch)
        self.log_dict({"val_loss": error + divergence, "val_pixel_mse": F.mse_loss(self(x)[0], x)})

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@fault(
    "LOS105",
    "LOS106",
    "OUT103",
    "GRD104",
    "OUT101",
    "LOS104",
    source="https://github.com/pytorch/examples/issues/652; https://github.com/AntixK/PyTorch-VAE/issues/11",
)
def error_averaged_divergence_summed(fixed: bool) -> Program:
    """A VAE averages its error over batch and pixels and sums its divergence: the code tells nothing."""
    data = loaders(*split(digits(1797)[0]))
    return Program(Variational(fixed=fixed), **data, trainer={"max_epochs": 7})
