"""An LSTM reads the rows of an image one after the other, but takes the samples for time."""

from __future__ import annotations

from program import Program, digits
from torch import nn

from cases._parts import Classifier, loader


class Reader(nn.Module):
    """Answers with what the LSTM knows after the last row."""

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        self.lstm = lstm
        self.head = nn.Linear(lstm.hidden_size, 10)

    def forward(self, x):
        states, _ = self.lstm(x)
        return self.head(states[:, -1])


def sick() -> Program:
    x, y = digits()
    net = Reader(nn.LSTM(8, 32))
    return Program(Classifier(net, lr=3e-3), loader(x.view(-1, 8, 8), y), trainer={"max_epochs": 2})


def healthy() -> Program:
    x, y = digits()
    net = Reader(nn.LSTM(8, 32, batch_first=True))
    return Program(Classifier(net, lr=3e-3), loader(x.view(-1, 8, 8), y), trainer={"max_epochs": 2})
