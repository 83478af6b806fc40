"""OUT: answers that cannot be given."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Coursework, Program, accuracy, passengers, rolls, served


class Passenger(Coursework):
    """The chance to be saved."""

    def __init__(self, *, rectified: bool) -> None:
        super().__init__(lr=3e-3)
        self.fc1, self.fc2, self.fc3 = nn.Linear(6, 64), nn.Linear(64, 32), nn.Linear(32, 1)
        self.rectified = rectified

    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        x = self.fc3(x)
        return torch.sigmoid(F.relu(x) if self.rectified else x)

    def loss_and_metric(self, batch):
        x, y = batch
        p = self(x)
        right = (p.round() == y.unsqueeze(1)).float().mean()
        return F.binary_cross_entropy(p, y.float().unsqueeze(1)), right


@fault(
    "OUT102",
    "ACT101",
    "OUT101",
    "LOS102",
    source="https://stats.stackexchange.com/questions/257127 (a ReLU and then a sigmoid: the least is 0.5)",
)
def rectified_before_the_sigmoid(fixed: bool) -> Program:
    """The last layer has its ReLU like all the others, and the sigmoid after it never falls below a half."""
    data = served(*passengers(seed=91))
    return Program(Passenger(rectified=not fixed), **data, trainer={"max_epochs": 6})


class Attentive(Coursework):
    """A GRU over a recording of movements, and attention over its steps."""

    def __init__(self, softmax: nn.Module) -> None:
        super().__init__(lr=3e-3)
        self.gru = nn.GRU(3, 32, batch_first=True, bidirectional=True)
        self.score = nn.Linear(64, 1)
        self.softmax = softmax
        self.fc = nn.Linear(64, 4)

    def forward(self, x):
        states, _ = self.gru(x)
        weights = self.softmax(self.score(torch.tanh(states)))
        return self.fc((weights * states).sum(dim=1))

    def loss_and_metric(self, batch):
        x, y = batch
        logits = self(x)
        return F.cross_entropy(logits, y), accuracy(logits, y)


@fault(
    "OUT105",
    source="https://github.com/svishwa/crowdcount-cascaded-mtl/issues/22 (implicit dimension choice for "
    "softmax: is it 0 or 1?)",
)
def softmax_without_a_dimension(fixed: bool) -> Program:
    """nn.Softmax() chooses a dimension by itself; of three it takes the first, and that is the batch."""
    g = rolls(92)
    y = torch.arange(1000) % 4
    x = 0.7 * torch.randn(1000, 24, 3, generator=g)
    start = torch.randint(0, 16, (1000, 1), generator=g)
    step = torch.arange(24) - start
    during = ((step >= 0) & (step < 8)).float()
    speed = torch.tensor([0.4, 0.8, 1.2, 1.6])[y][:, None]
    x[..., 0] += 2 * during * torch.sin(speed * step)
    x[..., 1] += 2 * during * torch.cos(speed * step)
    softmax = nn.Softmax(dim=1) if fixed else nn.Softmax()
    return Program(Attentive(softmax), **served(x, y), trainer={"max_epochs": 8})
