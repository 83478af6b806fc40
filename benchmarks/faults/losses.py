"""LOS: the wrong loss, or the right one with the wrong inputs."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn import functional as F

from . import DEEPFD, DEEPLOCALIZE, HUMBATOVA, KARPATHY, NEURALINT, UMLAUT, fault
from ._parts import (
    DataLoader,
    Program,
    Supervised,
    TensorDataset,
    blobs,
    diabetes,
    digit_loaders,
    digits,
    loaders,
    mlp,
    scenes,
    split,
    waves,
)


@fault("LOS102", source="https://discuss.pytorch.org/t/cross-entropy-loss-is-not-decreasing/43814")
def softmax_twice(fixed: bool) -> Program:
    """A softmax at the end of the net, and another one inside of cross_entropy."""
    net = mlp(64, 64, 10)
    if not fixed:
        net.append(nn.Softmax(dim=1))
    return Program(Supervised(net), **digit_loaders(), trainer={"max_epochs": 4})


@fault("LOS102", source="https://github.com/illiterate/BertClassifier/issues/2")
def probabilities_into_cross_entropy(fixed: bool) -> Program:
    """The module's forward returns probabilities, and the step feeds them to cross_entropy."""
    return Program(Probable(fixed), **loaders(*split(*waves())), trainer={"max_epochs": 5})


class Probable(pl.LightningModule):
    """A recurrent classifier whose forward is made for inference."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.rnn, self.out = nn.LSTM(1, 24, batch_first=True), nn.Linear(24, 3)
        self.criterion, self.fixed = nn.CrossEntropyLoss(), fixed

    def logits(self, x):
        return self.out(self.rnn(x)[1][0][0])

    def forward(self, x):
        return self.logits(x).softmax(-1)

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.criterion(self.logits(x) if self.fixed else self(x), y)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


@fault("LOS102", source="https://github.com/yudi-mars/daisyRec/pull/15")
def sigmoid_twice(fixed: bool) -> Program:
    """A sigmoid at the end of the net, and another one in binary_cross_entropy_with_logits."""
    x, y = blobs(1000, classes=2, spread=2.0)
    net = mlp(16, 32, 1)
    if not fixed:
        net.append(nn.Sigmoid())
    module = Supervised(net, F.binary_cross_entropy_with_logits)
    return Program(module, **loaders(*split(x, y.float()[:, None])), trainer={"max_epochs": 4})


@fault("LOS102", source="https://github.com/YXNTU/GeneralDyG/issues/6")
def masks_through_two_sigmoids(fixed: bool) -> Program:
    """A segmentation net with a sigmoid output under a loss that takes logits."""
    layers = [nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 1, 3, padding=1)]
    net = nn.Sequential(*layers) if fixed else nn.Sequential(*layers, nn.Sigmoid())
    x, mask = scenes(320)
    module = Supervised(net, nn.BCEWithLogitsLoss(pos_weight=torch.tensor(5.0)))
    data = loaders(*split(x, mask[:, None].float()), batch_size=16)
    return Program(module, **data, trainer={"max_epochs": 5})


@fault("LOS102", "LOS108", source=NEURALINT + ", missing softmax")
def logits_into_nll_loss(fixed: bool) -> Program:
    """nll_loss wants logarithms of probabilities and gets raw outputs: it falls without end."""
    net = mlp(64, 64, 10)
    if fixed:
        net.append(nn.LogSoftmax(dim=1))
    return Program(Supervised(net, F.nll_loss), **digit_loaders(), trainer={"max_epochs": 4})


@fault("LOS102", source=NEURALINT + ", wrong activation for the loss")
def probabilities_into_nll_loss(fixed: bool) -> Program:
    """nll_loss gets probabilities instead of their logarithms."""
    net = mlp(64, 64, 10)
    net.append(nn.LogSoftmax(dim=1) if fixed else nn.Softmax(dim=1))
    return Program(Supervised(net, F.nll_loss), **digit_loaders(), trainer={"max_epochs": 4})


class Distilled(pl.LightningModule):
    """A small net that learns from the soft labels of a teacher."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = mlp(64, 32, 10), fixed

    def training_step(self, batch, batch_idx):
        x, soft = batch
        logits = self.net(x)
        given = logits.log_softmax(1) if self.fixed else logits.softmax(1)
        loss = F.kl_div(given, soft, reduction="batchmean")
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault("LOS102", source=HUMBATOVA + ", wrong loss function calculation")
def kl_of_probabilities(fixed: bool) -> Program:
    """kl_div takes the logarithms of its first argument, and gets probabilities."""
    x, y = digits(1797)
    soft = F.one_hot(y, 10).float() * 0.8 + 0.02
    loader = DataLoader(TensorDataset(x, soft), batch_size=32, shuffle=True)
    return Program(Distilled(fixed), loader, trainer={"max_epochs": 4})


class Sequence(pl.LightningModule):
    """Tags every step of a sequence; as many steps as tags."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(20, 16), nn.GRU(16, 24, batch_first=True)
        self.out, self.fixed = nn.Linear(24, 8), fixed

    def training_step(self, batch, batch_idx):
        tokens, tags = batch
        logits = self.out(self.rnn(self.embed(tokens))[0])
        logits = logits.transpose(1, 2) if self.fixed else logits
        loss = F.cross_entropy(logits, tags)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=5e-3)


@fault("LOS102", "OUT105", "LOS104", source=HUMBATOVA + ", wrong tensor shape")
def classes_in_the_wrong_dimension(fixed: bool) -> Program:
    """(N, T, C) where (N, C, T) is due, and T happens to be C."""
    tokens = torch.randint(20, (1000, 8))
    loader = DataLoader(TensorDataset(tokens, tokens % 8), batch_size=32, shuffle=True)
    return Program(Sequence(fixed), loader, trainer={"max_epochs": 4})


@fault("LOS103", source="https://github.com/deepset-ai/FARM/issues/229")
def column_against_row(fixed: bool) -> Program:
    """Predictions (N, 1) against targets (N,): every one is compared with every other."""
    x, y = diabetes(column=fixed)
    module = Supervised(mlp(10, 32, 1), F.mse_loss)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 10})


class Critic(pl.LightningModule):
    """Learns the value of states from rewards and the states that follow."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.value, self.fixed = mlp(6, 32, 1), fixed

    def training_step(self, batch, batch_idx):
        state, reward, following = batch["state"], batch["reward"], batch["next"]
        with torch.no_grad():
            target = reward[:, None] + 0.5 * self.value(following)
        value = self.value(state)
        error = value - target if self.fixed else value.squeeze(1) - target
        loss = error.pow(2).mean()
        self.log("value_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@fault("LOS103", source="https://github.com/sunwuzhou03/reinforcement-learning-lab/issues/1")
def values_against_a_column_of_targets(fixed: bool) -> Program:
    """Temporal differences by hand, (N,) minus (N, 1), without any loss function that would warn."""
    state = torch.randn(1600, 6)
    reward = state[:, 0] - state[:, 1] ** 2
    samples = [
        {"state": s, "reward": r, "next": n}
        for s, r, n in zip(state, reward, torch.randn(1600, 6), strict=True)
    ]
    loader = DataLoader(samples, batch_size=32, shuffle=True)
    return Program(Critic(fixed), loader, trainer={"max_epochs": 4})


class Detached(Supervised):
    """Computes its loss from numbers."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = self.loss(self(x), y).item()
        self.log("train_loss", loss)
        return torch.tensor(loss, requires_grad=True)


@fault(
    "LOS107",
    "GRD103",
    "MOD104",
    "UPD102",
    source="https://github.com/speechbrain/speechbrain/issues/735",
)
def loss_rebuilt_from_its_number(fixed: bool) -> Program:
    """torch.tensor(loss.item(), requires_grad=True) has no graph."""
    kind = Supervised if fixed else Detached
    return Program(kind(mlp(64, 64, 10)), **digit_loaders(), trainer={"max_epochs": 3})


class Accuracy(Supervised):
    """Minimizes one minus the accuracy."""

    def training_step(self, batch, batch_idx):
        x, y = batch
        accuracy = (self(x).argmax(1) == y).float().mean()
        return (1 - accuracy).requires_grad_()


@fault(
    "LOS107",
    "GRD103",
    "UPD102",
    source="https://github.com/Ugenteraan/Deep_Hierarchical_Classification/issues/6",
)
def accuracy_as_the_loss(fixed: bool) -> Program:
    """The accuracy is piecewise constant: nothing flows back from it."""
    kind = Supervised if fixed else Accuracy
    return Program(kind(mlp(64, 64, 10)), **digit_loaders(), trainer={"max_epochs": 3})


@fault("LOS109", "LOS108", "UPD105", source=HUMBATOVA + ", wrong sign of the loss")
def loss_maximized(fixed: bool) -> Program:
    """A sign is lost: the log-likelihood is minimized."""
    sign = 1.0 if fixed else -1.0
    module = Supervised(mlp(64, 64, 10), lambda out, y: sign * F.cross_entropy(out, y))
    return Program(module, **digit_loaders(), trainer={"max_epochs": 3})


@fault("LOS109", "LOS108", source=HUMBATOVA + ", wrong sign of the loss")
def policy_gradient_downhill(fixed: bool) -> Program:
    """REINFORCE without its minus: bad actions become more likely."""
    states = DataLoader(TensorDataset(torch.randn(3200, 8)), batch_size=64, shuffle=True)
    return Program(Policy(fixed), states, trainer={"max_epochs": 4})


class Policy(pl.LightningModule):
    """A contextual bandit with four arms."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = mlp(8, 32, 4), fixed

    def training_step(self, batch, batch_idx):
        (state,) = batch
        choice = torch.distributions.Categorical(logits=self.net(state))
        action = choice.sample()
        reward = (action == state[:, :4].argmax(1)).float()
        self.log("reward", reward.mean())
        gain = (choice.log_prob(action) * (reward - reward.mean())).mean()
        return -gain if self.fixed else gain

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=3e-3)


@fault("LOS109", source=DEEPFD + ", square error for classes")
def square_error_of_class_numbers(fixed: bool) -> Program:
    """A regression on the number of the class, as if a 9 were nearer to 8 than to 0."""
    x, y = digits(1797)
    if fixed:
        module = Supervised(mlp(64, 64, 10))
    else:
        y = y.float()[:, None]
        module = Supervised(mlp(64, 64, 1), F.mse_loss)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 4})


@fault(
    "LOS109", "CLS105", "LOS102", "OUT102", source=DEEPLOCALIZE + ", cross entropy for a regression"
)
def cross_entropy_of_a_price(fixed: bool) -> Program:
    """A binary cross entropy whose targets are prices."""
    x, y = diabetes()
    y = y if fixed else y * 77 + 152
    loss = F.mse_loss if fixed else F.binary_cross_entropy_with_logits
    module = Supervised(mlp(10, 32, 1), loss)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 10})


class Vae(pl.LightningModule):
    """A variational autoencoder of digits."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.encoder, self.decoder, self.beta = mlp(64, 64, 16), mlp(8, 64, 64), beta

    def training_step(self, batch, batch_idx):
        (x,) = batch
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        reconstruction = (self.decoder(z) - x).pow(2).sum(1).mean()
        divergence = -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum(1).mean()
        self.log_dict({"reconstruction": reconstruction, "divergence": divergence})
        return reconstruction + self.beta * divergence

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault(
    "LOS105",
    "OUT103",
    "OUT101",
    "LOS106",
    source="https://github.com/luigibonati/mlcolvar/pull/188",
)
def divergence_drowns_the_picture(fixed: bool) -> Program:
    """The divergence weighs a thousand times the reconstruction: the code carries nothing."""
    loader = DataLoader(TensorDataset(digits(1797)[0]), batch_size=32, shuffle=True)
    return Program(Vae(0.5 if fixed else 1000.0), loader, trainer={"max_epochs": 5})


class MultiTask(pl.LightningModule):
    """A class, and a number in its own units."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.body, self.heads, self.weight = mlp(16, 48, 48), nn.Linear(48, 5), weight

    def training_step(self, batch, batch_idx):
        x, y, price = batch
        out = self.heads(F.relu(self.body(x)))
        classes = F.cross_entropy(out[:, :4], y)
        regression = F.mse_loss(out[:, 4], price)
        self.log_dict({"class_loss": classes, "price_loss": regression})
        return classes + self.weight * regression

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=2e-3)


@fault("LOS105", "LOS101", "INP103", source=HUMBATOVA + ", wrong loss weights")
def price_in_cents(fixed: bool) -> Program:
    """One task's error is a million times the other's: only that one is learned."""
    x, y = blobs(1200, spread=2.5)
    price = x[:, 0] * 2 + x[:, 1] * x[:, 2]
    price = price if fixed else price * 1000
    loader = DataLoader(TensorDataset(x, y, price), batch_size=32, shuffle=True)
    return Program(MultiTask(0.3 if fixed else 1.0), loader, trainer={"max_epochs": 5})


@fault(
    "LOS106",
    "UPD106",
    "OUT101",
    "UPD105",
    "GRD104",
    "LOS104",
    source=DEEPFD + ", wrong regularization",
)
def decay_of_ten(fixed: bool) -> Program:
    """weight_decay=10: the weights are pulled to zero faster than they can grow."""
    decay = 1e-4 if fixed else 10.0
    adam = lambda p, lr: torch.optim.Adam(p, lr=lr, weight_decay=decay)  # noqa: E731
    module = Supervised(mlp(64, 64, 10), optimizer=adam)
    return Program(module, **digit_loaders(), trainer={"max_epochs": 5})


class Sparse(Supervised):
    """Adds an L1 penalty on its weights."""

    def __init__(self, weight: float) -> None:
        super().__init__(mlp(10, 48, 1), F.mse_loss)
        self.weight = weight

    def training_step(self, batch, batch_idx):
        penalty = sum(p.abs().sum() for p in self.parameters())
        loss = super().training_step(batch, batch_idx)
        return loss + self.weight * penalty


@fault("LOS106", "LOS105", "OUT101", "LOS104", source=HUMBATOVA + ", wrong regularization")
def penalty_of_one(fixed: bool) -> Program:
    """An L1 penalty whose weight is 1: every weight goes to zero."""
    module = Sparse(1e-5 if fixed else 1.0)
    return Program(module, **loaders(*split(*diabetes())), trainer={"max_epochs": 15})


@fault("LOS101", "UPD104", "ACT103", "GRD101", source=KARPATHY)
def last_layer_too_large(fixed: bool) -> Program:
    """The output layer starts a hundred times too large: the first loss is far off ln(10)."""
    net = mlp(64, 64, 10)
    if not fixed:
        nn.init.normal_(net[-1].weight, std=10.0)
    return Program(Supervised(net, lr=1e-3), **digit_loaders(), trainer={"max_epochs": 3})


class Contrastive(pl.LightningModule):
    """Two noisy views of one digit belong together."""

    def __init__(self, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = mlp(64, 64, 32), fixed

    def training_step(self, batch, batch_idx):
        (x,) = batch
        views = [F.normalize(self.net(x + 0.2 * torch.randn_like(x)), dim=1) for _ in range(2)]
        similarity = views[0] @ views[1].T
        similarity = similarity / 0.1 if self.fixed else similarity * 0.01
        loss = F.cross_entropy(similarity, torch.arange(len(x)))
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@fault(
    "LOS104", "GRD102", "LRN102", "LOS101", source="https://github.com/bowang-lab/BLEEP/issues/5"
)
def temperature_upside_down(fixed: bool) -> Program:
    """Similarities are multiplied by the temperature: the loss cannot leave log(N)."""
    loader = DataLoader(TensorDataset(digits(1797)[0]), batch_size=32, shuffle=True, drop_last=True)
    return Program(Contrastive(fixed), loader, trainer={"max_epochs": 4})


@fault("LOS104", "INP204", "GEN102", source=UMLAUT + ", unrelated labels")
def targets_that_are_noise(fixed: bool) -> Program:
    """The target column was joined by the wrong key: it has nothing to do with the features."""
    x, y = diabetes()
    y = y if fixed else y[torch.randperm(len(y))]
    module = Supervised(mlp(10, 8, 1), F.mse_loss, lr=3e-3)
    return Program(module, **loaders(*split(x, y)), trainer={"max_epochs": 12})
