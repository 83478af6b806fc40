"""ACT: what a unit passes on."""

from __future__ import annotations

from torch import nn
from torch.nn import functional as F

from ... import fault
from ._parts import Coursework, Program, accuracy, digits, news, served


class NewsReader(Coursework):
    """Says what a piece of news is about, with an LSTM."""

    def __init__(self, *, embedded: bool) -> None:
        super().__init__(lr=3e-3)
        self.embedding = nn.Embedding(400, 32) if embedded else nn.Identity()
        self.lstm = nn.LSTM(32 if embedded else 1, 64, batch_first=True)
        self.fc = nn.Linear(64, 4)

    def forward(self, x):
        _, (hidden, _) = self.lstm(self.embedding(x))
        return self.fc(hidden[-1])

    def loss_and_metric(self, batch):
        x, y = batch
        logits = self(x)
        return F.cross_entropy(logits, y), accuracy(logits, y)


@fault(
    "INP103",
    "ACT102",
    "LOS104",
    "GEN102",
    source="https://github.com/aneesh-joshi/LSTM_POS_Tagger/issues/15 (an LSTM without embeddings: or "
    "just the word index)",
)
def word_numbers_straight_into_an_lstm(fixed: bool) -> Program:
    """Words are given to an LSTM by their number in the dictionary, up to 400, as if it were a measurement."""
    ids, topic = news()
    x = ids if fixed else ids.float().unsqueeze(-1)
    return Program(NewsReader(embedded=fixed), **served(x, topic), trainer={"max_epochs": 8})


class DigitClassifier(Coursework):
    """Three linear layers for handwritten digits."""

    def __init__(self, *, clamped: bool) -> None:
        super().__init__(lr=1e-3)
        self.fc1, self.fc2, self.fc3 = nn.Linear(64, 128), nn.Linear(128, 64), nn.Linear(64, 10)
        self.clamped = clamped

    def forward(self, x):
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)

    def loss_and_metric(self, batch):
        x, y = batch
        logits = self(x)
        return F.cross_entropy(logits, y), accuracy(logits, y)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.clamped:
            for p in self.parameters():
                p.data.clamp_(-0.01, 0.01)


@fault(
    "ACT103",
    "GRD104",
    "GRD102",
    "LOS104",
    "OUT101",
    "UPD104",
    "GEN102",
    source="https://github.com/martinarjovsky/WassersteinGAN (the clamp of its critic, copied into "
    "what is no critic)",
)
def clamped_like_a_critic(fixed: bool) -> Program:
    """So that nothing explodes, all weights are clamped to a hundredth after each step, as in a WGAN."""
    return Program(
        DigitClassifier(clamped=not fixed), **served(*digits(1797)), trainer={"max_epochs": 6}
    )
