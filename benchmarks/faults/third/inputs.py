"""INP, a third time: what goes into the net, in which order, and what of it validation has."""

from __future__ import annotations

import torch
from healthy._parts import pretrained
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, get_worker_info

from .. import DEEPFD, HUMBATOVA, KARPATHY, UMLAUT, fault
from .._parts import Program, Supervised, digits, loaders, mlp, split
from ..first._parts import Learner, explained, meters, sounds
from ..second._parts import demand, patches
from ._parts import Value, cut, small_cnn


class Buffered(Dataset):
    """Decodes each image into a buffer that is made once."""

    def __init__(self, x, y, *, fixed: bool) -> None:
        self.x, self.y, self.fixed = x, y, fixed
        self.buffer = torch.empty_like(x[0])

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index):
        self.buffer.copy_(self.x[index])
        return (self.buffer.clone() if self.fixed else self.buffer), self.y[index]


@fault(
    "INP106",
    "INP101",
    "INP204",
    "LOS104",
    "OUT101",
    source="https://pytorch.org/docs/stable/generated/torch.from_numpy.html (shares its memory); "
    + HUMBATOVA,
)
def one_buffer_for_all(fixed: bool) -> Program:
    """The data set returns its one buffer: all images of a batch are the last, with labels of their own."""
    x, y = digits(1797, image=True)
    train, val = (Buffered(x[p], y[p], fixed=fixed) for p in (slice(0, 1400), slice(1400, None)))
    return Program(Supervised(small_cnn(1, 10)), **loaders(train, val), trainer={"max_epochs": 5})


@fault(
    "INP101",
    "OUT101",
    "GRD104",
    "LOS104",
    source="https://pytorch.org/audio/stable/generated/torchaudio.transforms.AmplitudeToDB.html; "
    + UMLAUT,
)
def decibels_below_zero(fixed: bool) -> Program:
    """Spectrograms in decibels, all of them negative, go through clamp(min=0), which was made for amplitudes."""
    x, y = sounds(1500)
    power = torch.fft.rfft(x[:, 0]).abs().pow(2) / 64**2
    decibels = 10 * power.clamp_min(1e-8).log10()
    decibels = decibels - decibels.max()
    x = (decibels + 25) / 12 if fixed else decibels.clamp(min=0)
    return Program(Supervised(mlp(33, 48, 3)), **loaders(*split(x, y)), trainer={"max_epochs": 6})


class Replay(IterableDataset):
    """Draws transitions from a buffer, to which each draw was to add what has happened since."""

    def __init__(self, x, y, *, fixed: bool) -> None:
        self.x, self.y, self.fixed = x, y, fixed

    def __iter__(self):
        filled = 64
        for _ in range(300):
            rows = torch.randint(filled, (32,))
            yield self.x[rows], self.y[rows]
            if self.fixed:
                filled = min(filled + 32, len(self.x))


@fault(
    "INP102",
    "INP106",
    "GEN101",
    "INP205",
    source="https://doi.org/10.1007/BF00992699 (Lin 1992: experience replay)",
)
def memory_that_takes_nothing_in(fixed: bool) -> Program:
    """The replay memory never gets another transition after the first 64: they come again and again."""
    x, y = meters(4000)
    loader = DataLoader(Replay(x[:3600], y[:3600], fixed=fixed), batch_size=None)
    val = DataLoader(TensorDataset(x[3600:], y[3600:]), 200)
    trainer = {"max_epochs": 1, "val_check_interval": 30}
    return Program(Value(mlp(8, 64, 1), F.mse_loss, lr=5e-3), loader, val, trainer=trainer)


@fault(
    "INP103",
    "ACT103",
    "GRD101",
    "GEN102",
    "ACT102",
    source="https://arxiv.org/abs/2006.10739 (coordinate networks: coordinates in [0, 1)); "
    + KARPATHY,
)
def coordinates_in_pixels(fixed: bool) -> Program:
    """A net that is to say the height of each point of a map gets its coordinates in pixels, up to 511."""
    place = torch.randint(512, (3000, 2)).float()
    u = place / 256 - 1
    height = torch.sin(3 * u[:, 0]) * torch.cos(2 * u[:, 1]) + 0.5 * u[:, 0] * u[:, 1]
    y = (height / height.std() + 0.1 * torch.randn(3000))[:, None]
    module = Value(mlp(2, 64, 64, 1, activation=nn.Tanh), F.mse_loss, lr=3e-3)
    return Program(module, **loaders(*split(u if fixed else place, y)), trainer={"max_epochs": 5})


def electrodes(size: int = 1400) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows (N, 24 electrodes, 24 samples), and which of three short waves is somewhere in them."""
    y = torch.arange(size) % 3
    shape = torch.tensor([[1.0, 2, 0, -2, -1], [-1, -2, 0, 2, 1], [1, -1, 2, -1, 1]])[y]
    when = torch.randint(20, (size, 1)) + torch.arange(5)
    wave = torch.zeros(size, 24).scatter_(1, when, shape)
    x = torch.randn(24)[:, None] * wave[:, None] + 1.2 * torch.randn(size, 24, 24)
    return x / x.std(), y


@fault(
    "INP104",
    "GEN102",
    "LOS104",
    "GEN101",
    source="https://pytorch.org/docs/stable/generated/torch.nn.Conv1d.html (N, C, L); " + DEEPFD,
)
def electrodes_read_as_time(fixed: bool) -> Program:
    """Windows are stored as (time, electrode), 24 of each, and a convolution runs along the electrodes."""
    x, y = electrodes()
    net = nn.Sequential(
        nn.Conv1d(24, 32, 5, padding=2),
        nn.ReLU(),
        nn.Conv1d(32, 32, 5, padding=2),
        nn.ReLU(),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    x = x if fixed else x.transpose(1, 2).contiguous()
    return Program(Supervised(net), **loaders(*split(x, y)), trainer={"max_epochs": 6})


class Tuned(Supervised):
    """A frozen backbone that knows the digits, and a head to train."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(pretrained()[:-1].requires_grad_(False), nn.Linear(32, 10)))
        self.lr = 1e-2

    def on_train_epoch_start(self):
        self.net[0].eval()


@fault(
    "INP105",
    "INP103",
    source="https://pytorch.org/vision/stable/models.html (preset transforms normalize, too); "
    + UMLAUT,
)
def normalized_a_second_time(fixed: bool) -> Program:
    """The images are in [-1, 1], and another (x - 0.5) / 0.2 takes them to where the backbone has never been."""
    x, y = digits(1797, image=True)
    data = loaders(*split(x if fixed else (x - 0.5) / 0.2, y))
    return Program(Tuned(), **data, trainer={"max_epochs": 6})


class Shards(IterableDataset):
    """Reads a file from its beginning to its end, shuffled."""

    def __init__(self, x, y, *, fixed: bool) -> None:
        self.x, self.y, self.fixed, self.epoch = x, y, fixed, 0

    def __iter__(self):
        self.epoch += 1
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(self.epoch))
        info = get_worker_info()
        if self.fixed and info is not None:
            order = order[info.id :: info.num_workers]
        for i in order.tolist():
            yield self.x[i], self.y[i]


@fault(
    "INP106",
    "INP102",
    source="https://pytorch.org/docs/stable/data.html (IterableDataset: each worker has a copy); "
    "https://github.com/huggingface/datasets/issues/3423",
)
def each_worker_reads_it_all(fixed: bool) -> Program:
    """Two workers read the same stream from its beginning: every sample comes twice, one batch after the other."""
    x, y = patches(1500)
    train = DataLoader(Shards(x[:1100], y[:1100], fixed=fixed), 32, num_workers=2)
    val = DataLoader(TensorDataset(x[1100:], y[1100:]), 200)
    return Program(Supervised(small_cnn(3, 6)), train, val, trainer={"max_epochs": 4})


class Ticks(Learner):
    """Predicts the mean of the next hours, from the last twenty-four and a column of their own features."""

    lr = 3e-3

    def __init__(self, features: int) -> None:
        super().__init__()
        self.net = mlp(features, 64, 1)

    def loss_of(self, batch):
        return F.mse_loss(self.net(batch["past"]), batch["next"])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_r2", explained(self.net(batch["past"]), batch["next"]))


def hours(past, following) -> list[dict[str, torch.Tensor]]:
    """One dictionary to a window."""
    return [{"past": a, "next": b} for a, b in zip(past, following, strict=True)]


@fault(
    "INP203",
    "GEN107",
    source="https://doi.org/10.1016/j.patter.2023.100804 (Kapoor and Narayanan: leakage, temporal leakage)",
)
def mean_that_looks_ahead(fixed: bool) -> Program:
    """A rolling mean is centred: at the last hour that the net may know, it has the next one in it."""
    series = demand(1800)
    series = series + 0.5 * torch.randn(1800)
    window = series.unfold(0, 26, 1)
    past, following = window[:, :25], window[:, 25:26]
    mean = (past[:, -3:] if fixed else window[:, 23:26]).mean(1, keepdim=True)
    samples = hours(torch.cat([past, mean], dim=1), following.contiguous())
    data = loaders(samples[:1350], samples[1375:])
    return Program(Ticks(26), **data, trainer={"max_epochs": 6})


class Lengths(Learner):
    """How many stars has a review, which is longer the angrier it is? Shorter ones come first."""

    lr = 5e-3

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(80, 24, padding_idx=0), mlp(25, 32, 1)

    def forward(self, ids):
        words = (ids > 0).sum(1, keepdim=True)
        return self.out(torch.cat([self.embed(ids).sum(1) / words, words / 10 - 1.5], dim=1))

    def loss_of(self, batch):
        ids, stars = batch
        return F.mse_loss(self(ids), stars)

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_r2", explained(self(batch[0]), batch[1]))


@fault(
    "INP201",
    "CLS103",
    source="https://www.tensorflow.org/versions/r1.15/api_docs/python/tf/contrib/data/bucket_by_sequence_length; "
    + DEEPFD,
)
def sorted_by_length(fixed: bool) -> Program:
    """Reviews are sorted by length to save padding and never shuffled; long ones are those that complain."""
    length = torch.randint(5, 26, (2000,))
    ids = torch.randint(1, 80, (2000, 25)) * (torch.arange(25) < length[:, None])
    mood = torch.randn(80)
    said = (mood[ids] * (ids > 0)).sum(1) / length
    stars = standard(2 * said - 0.25 * length)
    train, val = split(ids, stars[:, None])
    ids, stars = train.tensors
    order = (ids > 0).sum(1).argsort(stable=True)
    loader = DataLoader(TensorDataset(ids[order], stars[order]), 32, shuffle=fixed)
    return Program(Lengths(), loader, DataLoader(val, 250), trainer={"max_epochs": 5})


def standard(x: torch.Tensor) -> torch.Tensor:
    """Mean 0 and deviation 1."""
    return (x - x.mean()) / x.std()


@fault(
    "INP202",
    "GEN105",
    "GEN101",
    source="https://scikit-learn.org/stable/common_pitfalls.html (inconsistent preprocessing)",
)
def gaps_filled_otherwise(fixed: bool) -> Program:
    """Gaps in the table are filled with the mean in training, and in validation with 0, which no row has."""
    x, y = meters(2400)
    centre, deviation = torch.linspace(20, 60, 8), torch.linspace(3, 8, 8)
    rows = centre + deviation * x
    gaps = torch.rand(2400, 8) < 0.1
    gaps[:, :4] = False
    fill = torch.where(torch.arange(2400)[:, None] < 1900, centre, centre if fixed else 0.0)
    x = (torch.where(gaps, fill, rows) - centre) / deviation
    train, val = cut(x, y, held_out=500 / 2400)
    module = Value(mlp(8, 64, 1), F.mse_loss, lr=4e-3)
    return Program(module, **loaders(train, val), trainer={"max_epochs": 6})


@fault(
    "INP204",
    "LOS104",
    "OUT101",
    source="https://pandas.pydata.org/docs/reference/api/pandas.read_csv.html (header); "
    + HUMBATOVA,
)
def labels_one_row_later(fixed: bool) -> Program:
    """The file of labels is read with its header as a row: each sample has the label of the one before it."""
    x, y = patches(1600)
    order = torch.randperm(len(x))
    x, y = x[order], y[order]
    if not fixed:
        y = torch.cat([y[:1], y[:-1]])
    return Program(Supervised(small_cnn(3, 6)), **loaders(*split(x, y)), trainer={"max_epochs": 4})


class Molecules(Learner):
    """A number for a graph whose nodes are padded to the largest there may be."""

    lr = 5e-3

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(6, 48), nn.Linear(48, 48), nn.Linear(48, 1)

    def forward(self, graph):
        x, edges = graph["nodes"], graph["edges"]
        x = F.relu(self.first(edges @ x))
        x = F.relu(self.second(edges @ x))
        return self.out(x.mean(1))

    def loss_of(self, batch):
        return F.mse_loss(self(batch["graph"]), batch["energy"])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_r2", explained(self(batch["graph"]), batch["energy"]))


@fault(
    "INP206",
    source="https://pytorch-geometric.readthedocs.io/en/latest/advanced/batching.html (why not to pad); "
    + UMLAUT,
)
def graphs_padded_to_the_largest(fixed: bool) -> Program:
    """Graphs of eight to ten nodes are padded to 128, the most that there may be, and averaged over all."""
    size, most = 900, 10 if fixed else 128
    kind = torch.randint(6, (size, most))
    there = torch.arange(most) < torch.randint(8, 11, (size, 1))
    nodes = F.one_hot(kind, 6).float() * there[..., None]
    edges = (torch.rand(size, most, most) < 0.3).float().triu(1)
    edges = (edges + edges.mT + torch.eye(most)) * there[:, None] * there[:, :, None]
    edges = edges / edges.sum(2, keepdim=True).clamp_min(1)
    energy = (nodes @ torch.tensor([1.0, -1.0, 0.5, 2.0, -2.0, 0.0])).sum(1, keepdim=True)
    energy = standard(energy + 0.2 * torch.randn(size, 1))
    graphs = [
        {"graph": {"nodes": a, "edges": b}, "energy": c}
        for a, b, c in zip(nodes, edges, energy, strict=True)
    ]
    return Program(Molecules(), **loaders(graphs[:720], graphs[720:]), trainer={"max_epochs": 8})


@fault(
    "INP205",
    "CLS101",
    "CLS107",
    source=HUMBATOVA + ", not enough training data",
)
def three_pictures_of_a_nine(fixed: bool) -> Program:
    """There are three pictures of a nine to train on, and a hundred and thirty of each other digit."""
    train, val = split(*digits(1797, image=True))
    x, y = train.tensors
    nines = (y == 9).nonzero()[:, 0]
    kept = torch.ones(len(y)).bool()
    kept[nines if fixed else nines[3:]] = fixed
    loader = DataLoader(TensorDataset(x[kept], y[kept]), 32, shuffle=True)
    return Program(
        Supervised(small_cnn(1, 10)), loader, DataLoader(val, 200), trainer={"max_epochs": 6}
    )
