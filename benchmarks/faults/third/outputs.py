"""OUT, a third time: answers that cannot be right, whatever is learned."""

from __future__ import annotations

from dataclasses import dataclass

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import HUMBATOVA, fault
from .._parts import DataLoader, Program, blobs, digit_loaders, loaders, mlp, split
from ..first._parts import gestures, meters
from ..second._parts import UNet, clients, lesions, patches
from ._more_parts import Classify, Task, clouds, right


class Clouded(pl.LightningModule):
    """A GAN of three clouds in the plane."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator, self.critic = mlp(2, 48, 48, 2), mlp(2, 64, 64, 1, activation=nn.SiLU)
        self.fixed = fixed

    def sample(self, count):
        z = torch.randn(count if self.fixed else 1, 2)
        return self.generator(z.expand(count, 2))

    def training_step(self, batch, batch_idx):
        (real,) = batch
        for_generator, for_critic = self.optimizers()
        fake = self.sample(len(real)).detach()
        told = F.softplus(-self.critic(real)).mean() + F.softplus(self.critic(fake)).mean()
        for_critic.zero_grad()
        self.manual_backward(told)
        for_critic.step()
        fooled = F.softplus(-self.critic(self.sample(len(real)))).mean()
        for_generator.zero_grad()
        self.manual_backward(fooled)
        for_generator.step()
        self.log_dict({"critic": told, "generator": fooled})

    def validation_step(self, batch, batch_idx):
        (real,) = batch
        fake = self.sample(len(real))
        near = torch.cdist(real, fake).amin(1).mean() + torch.cdist(fake, real).amin(1).mean()
        self.log("val_distance", near)

    def configure_optimizers(self):
        rates = {self.generator: 2e-3, self.critic: 4e-3}
        return tuple(
            torch.optim.Adam(net.parameters(), lr=lr, betas=(0.5, 0.9)) for net, lr in rates.items()
        )


@fault(
    "OUT101",
    "GRD104",
    source="https://github.com/soumith/ganhacks; " + HUMBATOVA,
)
def one_noise_for_all(fixed: bool) -> Program:
    """One draw of noise is expanded to the batch: all fakes of a batch are one and the same point."""
    x, _ = blobs(2400, classes=3, features=2, spread=0.4)
    data = loaders(*split((x - x.mean(0)) / x.std(0)), batch_size=64)
    return Program(Clouded(fixed=fixed), **data, trainer={"max_epochs": 13})


class Heading(Task):
    """A head whose output is normalized, as the directions were that it once predicted."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net, self.fixed = mlp(8, 64, 64, 1), fixed

    def step(self, batch):
        x, y = batch
        out = self.net(x)
        if not self.fixed:
            out = F.normalize(out, dim=1)
        loss = F.mse_loss(out, y)
        return loss, {"r2": 1 - loss / y.var()}


@fault(
    "OUT102",
    "OUT101",
    "GRD103",
    "LOS104",
    source=HUMBATOVA,
)
def vector_of_one_number(fixed: bool) -> Program:
    """F.normalize of an output of one number: it is plus one or minus one, and nothing flows back."""
    module = Heading(fixed=fixed)
    return Program(module, **loaders(*split(*meters(1800))), trainer={"max_epochs": 5})


@dataclass
class Moment:
    """States of a pendulum, and the torques that an expert chose."""

    state: Tensor
    torque: Tensor

    @staticmethod
    def collate(samples):
        return Moment(*(torch.stack(one) for one in zip(*samples, strict=True)))


class Actor(Task):
    """Clones the behaviour of an expert."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net, self.reach = nn.Sequential(mlp(3, 64, 64, 1), nn.Tanh()), 2.0 if fixed else 1.0

    def step(self, batch):
        error = self.reach * self.net(batch.state) - batch.torque
        return error.pow(2).mean(), {"mae": error.abs().mean()}


@fault(
    "OUT102",
    "GEN102",
    "ACT102",
    source="https://github.com/sfujim/TD3 (max_action); "
    "https://gymnasium.farama.org/environments/classic_control/pendulum (torques from -2 to 2)",
)
def torques_up_to_two(fixed: bool) -> Program:
    """The actor ends in a tanh, and the pendulum's torques go from -2 to 2: max_action is forgotten."""
    angle, speed = 6.283 * torch.rand(2000), torch.randn(2000)
    state = torch.stack([angle.cos(), angle.sin(), speed], 1)
    wanted = torch.where(angle.cos() > 0.3, -3 * angle.sin() - speed, 2 * speed.sign())
    torque = (wanted + 0.05 * torch.randn(2000)).clamp(-2, 2)[:, None]
    train, val = split(state, torque)
    return Program(
        Actor(fixed=fixed),
        DataLoader(train, 32, shuffle=True, collate_fn=Moment.collate),
        DataLoader(val, 32, collate_fn=Moment.collate),
        {"max_epochs": 6},
    )


class Values(Task):
    """Fitted Q-iteration on a fixed memory, with a net that once was a policy."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net, self.fixed = mlp(6, 64, 64, 4), fixed

    def step(self, batch):
        state, action, value = batch
        q = self.net(state)
        if not self.fixed:
            q = q.log_softmax(1)
        loss = F.smooth_l1_loss(q.gather(1, action[:, None]).squeeze(1), value)
        return loss, {"baseline": F.smooth_l1_loss(value.mean().expand_as(value), value)}


@fault(
    "OUT102",
    "LOS104",
    "GEN102",
    source=HUMBATOVA + " (a wrong activation of the last layer)",
)
def values_from_a_policy_net(fixed: bool) -> Program:
    """The net of a policy became one of values, and kept its log_softmax: no value is above zero."""
    state, action = torch.randn(2400, 6), torch.randint(4, (2400,))
    table = torch.randn(6, 4)
    value = (state @ table + 2 * (state[:, :4] * state[:, 2:])).gather(1, action[:, None])[:, 0]
    value = value / value.std() + 0.1 * torch.randn(2400)
    return Program(
        Values(fixed=fixed), **loaders(*split(state, action, value)), trainer={"max_epochs": 6}
    )


@fault(
    "OUT103",
    "GRD104",
    "MOD105",
    "OUT101",
    "LOS104",
    "GRD103",
    source="https://www.tensorflow.org/api_docs/python/tf/compat/v1/nn/dropout (keep_prob)",
)
def keep_probability_of_one(fixed: bool) -> Program:
    """nn.Dropout(1.0), where 1.0 was the probability to keep: in training, nothing goes through."""
    drop = nn.Dropout(0.0 if fixed else 1.0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), drop, nn.Linear(64, 10))
    return Program(Classify(net, lr=2e-3), **digit_loaders(), trainer={"max_epochs": 5})


class Reversal(Task):
    """A transformer that writes a sentence backwards."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        options = {"dim_feedforward": 64, "dropout": 0.0, "batch_first": True, "norm_first": True}
        self.words, self.places = nn.Embedding(13, 32), nn.Parameter(0.3 * torch.randn(9, 32))
        self.encoder = nn.TransformerEncoderLayer(32, 4, **options)
        self.decoder = nn.TransformerDecoderLayer(32, 4, **options)
        self.out, self.fixed = nn.Linear(32, 13), fixed

    def embed(self, ids):
        return self.words(ids) + self.places[: ids.shape[1]]

    def step(self, batch):
        source, target = batch["source"], batch["target"]
        memory = self.encoder(self.embed(source))
        given = self.embed(target[:, :-1])
        mask = nn.Transformer.generate_square_subsequent_mask(given.shape[1])
        read = memory if self.fixed else given[:, :1]
        logits = self.out(self.decoder(given, read, tgt_mask=mask)).mT
        return F.cross_entropy(logits, target[:, 1:]), {"acc": right(logits, target[:, 1:])}


@fault(
    "OUT103",
    "GRD103",
    "UPD102",
    source=HUMBATOVA,
)
def translates_without_reading(fixed: bool) -> Program:
    """The decoder is given its own start for the memory: it writes without having read anything."""
    source = torch.randint(1, 13, (2400, 6))
    source[:, 1::2] = (source[:, ::2] + torch.randint(2, (2400, 3))).clamp(max=12)
    target = F.pad(source.flip(1), (1, 0))
    samples = [{"source": s, "target": t} for s, t in zip(source, target, strict=True)]
    data = loaders(samples[:1920], samples[1920:])
    return Program(Reversal(fixed=fixed), **data, trainer={"max_epochs": 6})


class Organs(Task):
    """A U-Net with one output channel."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net, self.last = UNet(8), nn.Sigmoid() if fixed else nn.Softmax(dim=1)

    def step(self, batch):
        x, mask = batch
        p = self.last(self.net(x))
        overlap = (2 * (p * mask).sum() + 1) / ((p + mask).sum() + 1)
        return F.binary_cross_entropy(p, mask) + 1 - overlap, {"dice": overlap}


@fault(
    "OUT104",
    "OUT101",
    source="https://github.com/torch/nn/issues/1016 (a softmax over one channel is 1)",
)
def softmax_over_one_channel(fixed: bool) -> Program:
    """A softmax over the channels of a map that has one: every pixel belongs to the lesion."""
    data = loaders(*split(*lesions(480)), batch_size=16)
    return Program(Organs(fixed=fixed), **data, trainer={"max_epochs": 4})


class Excited(nn.Module):
    """A convolution whose channels are gated by what the image is like as a whole."""

    def __init__(self, before: int, after: int, *, fixed: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 3, padding=1)
        self.gate, self.dims = mlp(after, 8, after), (2, 3) if fixed else (0, 2, 3)

    def forward(self, x):
        x = F.relu(self.conv(x))
        gate = self.gate(x.mean(self.dims, keepdim=True).flatten(1).view(-1, x.shape[1]))
        return x * 2 * gate.sigmoid()[:, :, None, None]


@fault(
    "OUT105",
    source="https://github.com/moskomule/senet.pytorch (squeeze over the image); " + HUMBATOVA,
)
def gates_of_the_whole_batch(fixed: bool) -> Program:
    """Squeeze-and-excitation averages over the batch, too: each image gets the gates of its company."""
    blocks = [Excited(3, 16, fixed=fixed), nn.MaxPool2d(2), Excited(16, 24, fixed=fixed)]
    net = nn.Sequential(*blocks, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(216, 6))
    module = Classify(net, lr=2e-3)
    return Program(module, **loaders(*split(*patches(1500))), trainer={"max_epochs": 4})


class Shifted(nn.Module):
    """Shifts a part of the channels by a frame, so that a layer sees two frames at once."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 48), nn.Linear(48, 48)
        self.third, self.out = nn.Linear(48, 48), nn.Linear(48, 4)
        self.dim = 1 if fixed else 0

    def shift(self, x):
        ahead, behind, rest = x.split((12, 12, 24), dim=2)
        return torch.cat([ahead.roll(1, self.dim), behind.roll(-1, self.dim), rest], dim=2)

    def forward(self, x):
        x = F.relu(self.first(x))
        x = F.relu(self.second(self.shift(x)))
        return self.out(F.relu(self.third(self.shift(x))).mean(1))


@fault(
    "OUT105",
    source="https://github.com/mit-han-lab/temporal-shift-module (shifts along time; the batch comes first)",
)
def shifted_to_the_next_window(fixed: bool) -> Program:
    """torch.roll(x, 1, 0), where time is dimension 1: a part of each window comes from its neighbour."""
    module = Classify(Shifted(fixed=fixed), lr=3e-3)
    return Program(module, **loaders(*split(*gestures(2000))), trainer={"max_epochs": 6})


class Neighbours(nn.Module):
    """Edge convolution: each point is told of those nearest to it."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.edge, self.out, self.fixed = mlp(6, 32, 32), mlp(32, 32, 3), fixed

    def forward(self, x):
        shape = x.shape
        if not self.fixed:
            x = x.flatten(0, 1)[None]
        near = torch.cdist(x, x).topk(6, largest=False).indices
        others = torch.stack([cloud[index] for cloud, index in zip(x, near, strict=True)])
        pairs = torch.cat([x[:, :, None].expand_as(others), others - x[:, :, None]], dim=3)
        seen = self.edge(pairs).amax(2).view(*shape[:2], -1)
        return self.out(F.relu(seen.amax(1)))


@fault(
    "OUT105",
    source="https://github.com/rusty1s/pytorch_cluster/issues/16 (neighbours in batches)",
)
def neighbours_in_other_clouds(fixed: bool) -> Program:
    """The nearest points are sought in the whole batch: most neighbours belong to other clouds."""
    module = Classify(Neighbours(fixed=fixed), lr=3e-3)
    return Program(module, **loaders(*split(*clouds(1500))), trainer={"max_epochs": 5})


class Churn(Classify):
    """Standardizes each batch in forward, so that nobody has to fit a scaler."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(mlp(10, 64, 64, 2), lr=2e-3)
        self.fixed = fixed

    def forward(self, x):
        if not self.fixed:
            x = (x - x.mean(0)) / (x.std(0) + 1e-6)
        return self.net(x)


@fault(
    "OUT105",
    source=HUMBATOVA + " (preprocessing)",
)
def standardized_by_its_company(fixed: bool) -> Program:
    """forward() standardizes each batch by itself, in validation too: an answer depends on the others."""
    data = loaders(*split(*clients(2400)), batch_size=16)
    return Program(Churn(fixed=fixed), **data, trainer={"max_epochs": 3})
