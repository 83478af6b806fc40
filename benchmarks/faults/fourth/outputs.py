"""OUT, a fourth time: answers that cannot be right, are all alike, or belong to somebody else."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader

from .. import HUMBATOVA, fault
from .._parts import Program, digits
from ._parts_a import Trained, dense, dice, feed, hits, small_convnet, tables


class Forecast(Trained):
    """What a house will need in the next hour, after the last twelve."""

    lr = 5e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.first = nn.LSTM(3, 32, batch_first=True)
        self.last = nn.Linear(32, 1) if fixed else nn.LSTM(32, 1, batch_first=True)

    def forward(self, x):
        x, _ = self.first(x)
        x = self.last(x)
        x = x[0] if isinstance(x, tuple) else x
        return x[:, -1, 0]

    def measure(self, batch):
        x, y = batch
        out = self(x)
        return {"loss": F.mse_loss(out, y), "r2": 1 - F.mse_loss(out, y) / y.var()}


@fault(
    "OUT102",
    "GEN102",
    source="https://imathworks.com/cv/solved-lstm-cell-output-activation-for-series",
)
def state_of_an_lstm_is_the_forecast(fixed: bool) -> Program:
    """The last layer is an LSTM of one unit, whose state stays between -1 and 1, and demand does not."""
    g = dice(61)
    hours = torch.arange(2200.0)
    warm = torch.randn(2200, generator=g)
    for t in range(1, 2200):
        warm[t] = 0.95 * warm[t - 1] + 0.3 * warm[t]
    day = torch.stack([(hours * 6.2832 / 24).sin(), (hours * 6.2832 / 24).cos()], dim=1)
    need = torch.exp(0.6 * day[:, 0] - 0.5 * warm) + 0.1 * torch.randn(2200, generator=g)
    need = (need - need.mean()) / need.std()
    x = torch.cat([need[:, None], day], dim=1).unfold(0, 12, 1).transpose(1, 2)[:-1]
    train, val = tables(x, need[12:], held_out=440)
    return Program(Forecast(fixed=fixed), **feed(train, val), trainer={"max_epochs": 5})


class Similar(Trained):
    """How much two sentences say the same."""

    lr = 4e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.words, self.body = nn.EmbeddingBag(120, 32), dense(32, 64, 32)
        self.scale = 5.0 if fixed else 1.0

    def measure(self, batch):
        first, second = (self.body(self.words(batch[k])) for k in ("first", "second"))
        similarity = F.cosine_similarity(first, second)
        r = torch.corrcoef(torch.stack([similarity, batch["score"]]))[0, 1]
        return {"loss": F.mse_loss(similarity, batch["score"] / self.scale), "pearson": r}


@fault(
    "OUT102",
    "LOS104",
    source="https://github.com/huggingface/sentence-transformers/issues/95, "
    "https://github.com/huggingface/sentence-transformers/issues/1095",
)
def cosine_for_scores_up_to_five(fixed: bool) -> Program:
    """Pairs of sentences are scored from nought to five, and the cosine that is to say so ends at one."""
    g = dice(62)
    score = torch.randint(6, (3000,), generator=g)
    topic = torch.randint(12, (3000, 2), generator=g)
    first = 10 * topic[:, :1] + torch.randint(10, (3000, 10), generator=g)
    other = 10 * topic[:, 1:] + torch.randint(10, (3000, 10), generator=g)
    same = 10 * topic[:, :1] + torch.randint(10, (3000, 10), generator=g)
    second = torch.where(torch.arange(10) < 2 * score[:, None], same, other)
    samples = [
        {"first": a, "second": b, "score": s}
        for a, b, s in zip(first, second, score.float(), strict=True)
    ]
    return Program(
        Similar(fixed=fixed),
        **feed(samples[:2500], samples[2500:]),
        trainer={"max_epochs": 4},
    )


class Recommender(Trained):
    """What a reader thinks of a book: a vector for each, and two layers."""

    lr = 5e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.people, self.books = nn.Embedding(80, 12), nn.Embedding(80, 12)
        self.head, self.fixed = dense(24, 48, 1), fixed

    def forward(self, batch):
        person = self.people(batch["person"])
        book = self.books(batch["book"] if self.fixed else batch["person"])
        return 3 + self.head(torch.cat([person, book], dim=1)).squeeze(1)

    def measure(self, batch):
        out, stars = self(batch), batch["stars"]
        return {"loss": F.mse_loss(out, stars), "error": (out - stars).abs().mean()}


@fault(
    "OUT103",
    source=HUMBATOVA + " (wrong input to a layer)",
)
def person_looked_up_in_both_tables(fixed: bool) -> Program:
    """A line was copied, and the table of the books is asked for the person: no book is ever looked at."""
    g = dice(63)
    n = 4000
    person, book = (torch.randint(80, (n,), generator=g) for _ in range(2))
    mild, good = 0.5 * torch.randn(80, generator=g), 0.9 * torch.randn(80, generator=g)
    stars = 3 + mild[person] + good[book] + 0.4 * torch.randn(n, generator=g)
    stars = stars.clamp(1, 5)
    samples = [
        {"person": p, "book": b, "stars": s} for p, b, s in zip(person, book, stars, strict=True)
    ]
    return Program(
        Recommender(fixed=fixed),
        **feed(samples[:3200], samples[3200:], batch_size=64),
        trainer={"max_epochs": 6},
    )


class Packed(Trained):
    """A recurrent net over texts of several lengths, packed."""

    lr = 5e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.words, self.net = nn.Embedding(70, 16), nn.GRU(16, 32, batch_first=True)
        self.head, self.fixed = nn.Linear(32, 3), fixed

    def forward(self, ids, lengths):
        lengths, order = lengths.sort(descending=True)
        packed = pack_padded_sequence(self.words(ids[order]), lengths, batch_first=True)
        state = self.net(packed)[1][-1]
        if self.fixed:
            state = state[order.argsort()]
        return self.head(state)

    def measure(self, batch):
        ids, lengths, y = batch
        logits = self(ids, lengths)
        return {"loss": F.cross_entropy(logits, y), "acc": hits(logits, y)}


def with_lengths(batch):
    """Pads the texts of a batch, and tells how long they are."""
    ids, y = zip(*batch, strict=True)
    lengths = torch.tensor([len(i) for i in ids])
    return pad_sequence(ids, batch_first=True), lengths, torch.tensor(y)


@fault(
    "OUT105",
    "INP204",
    "LOS104",
    source="https://city.shaform.com/en/2019/01/15/sort-sequences-in-pytorch/",
)
def sorted_by_length_and_never_put_back(fixed: bool) -> Program:
    """Texts are sorted by length to be packed, the answers stay in that order, and the labels do not."""
    g = dice(64)
    samples = []
    for _ in range(1500):
        y = int(torch.randint(3, (), generator=g))
        n = int(torch.randint(4, 13, (), generator=g))
        ids = torch.randint(1, 70, (n,), generator=g)
        telling = torch.rand(n, generator=g) < 0.4
        ids[telling] = 1 + 8 * y + torch.randint(8, (int(telling.sum()),), generator=g)
        samples.append((ids, y))
    return Program(
        Packed(fixed=fixed),
        **feed(samples[:1200], samples[1200:], collate_fn=with_lengths),
        trainer={"max_epochs": 6},
    )


class Embeds(Trained):
    """Puts images of one digit near each other, and those of others farther away."""

    lr = 3e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.net, self.fixed = small_convnet(16), fixed

    def measure(self, batch):
        x, y = batch
        z = F.normalize(self.net(x), dim=1)
        distance = (2 - 2 * z @ z.T).clamp_min(1e-6).sqrt()
        same = y[:, None] == y
        itself = torch.eye(len(y), dtype=torch.bool)
        nearest = distance.masked_fill(itself, 9).argmin(1)
        if self.fixed:
            pair = (same & ~itself)[:, :, None] & ~same[:, None, :]
            excess = distance[:, :, None] - distance[:, None, :] + 0.3
            loss = excess[pair].clamp_min(0).mean()
        else:
            far = distance.masked_fill(~same, 0).amax(1)
            near = distance.masked_fill(same, 9).amin(1)
            loss = (far - near + 0.3).clamp_min(0).mean()
        return {"loss": loss, "recall": (y[nearest] == y).float().mean()}


@fault(
    "OUT101",
    "LOS104",
    source="https://github.com/KevinMusgrave/pytorch-metric-learning/issues/20, "
    "https://arxiv.org/abs/1503.03832 (FaceNet: the hardest negatives may collapse the model)",
)
def hardest_of_all_from_the_start(fixed: bool) -> Program:
    """Each image learns from its hardest pair of others alone: the way out is to put all in one place."""
    x, y = digits(1400, image=True)
    x = x + 0.75 * torch.randn(x.shape, generator=dice(65))
    train, val = tables(x, y, held_out=280)
    loaders = {
        "train": DataLoader(train, batch_size=64, shuffle=True, drop_last=True),
        "val": DataLoader(val, batch_size=140),
    }
    return Program(Embeds(fixed=fixed), **loaders, trainer={"max_epochs": 9})


class Steering(Trained):
    """How far to turn the wheel, as drivers did."""

    lr = 3e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        layers = [nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU()]
        self.net = nn.Sequential(*layers, nn.Linear(64, 6 if fixed else 1))
        self.fixed = fixed

    def forward(self, x):
        if not self.fixed:
            return self.net(x).squeeze(1)
        share, mean, _ = self.net(x).chunk(3, dim=1)
        return mean.gather(1, share.argmax(1, keepdim=True)).squeeze(1)

    def measure(self, batch):
        x, turn = batch
        if self.fixed:
            share, mean, width = self.net(x).chunk(3, dim=1)
            each = torch.distributions.Normal(mean, 0.05 + F.softplus(width))
            mixed = torch.distributions.MixtureSameFamily(
                torch.distributions.Categorical(logits=share), each
            )
            loss = -mixed.log_prob(turn).mean()
        else:
            loss = F.mse_loss(self(x), turn)
        return {"loss": loss, "miss": (self(x).abs() - turn.abs()).abs().mean()}


@fault(
    "OUT101",
    "LOS104",
    "LOS109",
    source="https://arxiv.org/abs/2206.11251 (Behavior Transformers: several good answers, and their mean), "
    "https://publications.aston.ac.uk/id/eprint/373/ (mixture density networks)",
)
def half_the_drivers_go_round_on_the_left(fixed: bool) -> Program:
    """Half the drivers pass an obstacle on either side, and the mean of them drives straight into it."""
    g = dice(66)
    x = torch.randn(2400, 6, generator=g)
    turn = 1.0 + 0.35 * x[:, 0] - 0.25 * x[:, 1] * x[:, 2]
    turn = turn.clamp_min(0.2) + 0.05 * torch.randn(2400, generator=g)
    turn = turn * torch.where(torch.rand(2400, generator=g) < 0.5, 1.0, -1.0)
    return Program(
        Steering(fixed=fixed),
        **feed(*tables(x, turn, held_out=480)),
        trainer={"max_epochs": 6},
    )
