"""GEN, a fourth time: what is learned is not what was to be learned, or too little of it."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, TensorDataset

from .. import fault
from .._parts import Program
from ._parts_a import Sorter, Trained, dense, dice, feed, small_convnet, tables


class Explains(Trained):
    """A regression that says how much of the variance it explains."""

    def __init__(self, net: nn.Module, lr: float = 2e-3) -> None:
        super().__init__()
        self.net, self.lr = net, lr

    def measure(self, batch):
        x, y = batch
        out = self.net(x)
        r2 = 1 - F.mse_loss(out, y) / y.var().clamp_min(1e-6)
        return {"loss": F.mse_loss(out, y), "r2": r2}


@fault(
    "INP203",
    "GEN101",
    "GEN105",
    source="https://datarekha.com/interview/machine-learning/target-encoding-leakage/, "
    "https://stats.stackexchange.com/posts/567095 (target encoding)",
)
def average_of_the_shop_includes_the_sale(fixed: bool) -> Program:
    """A shop is encoded as the mean of its sales, the very sale among them, and most shops have two."""
    g = dice(51)
    n, shops = 2400, 1000
    x = torch.randn(n, 8, generator=g)
    shop = torch.randint(shops, (n,), generator=g)
    fame = 0.4 * torch.randn(shops, generator=g)
    y = x[:, 0] + 0.7 * x[:, 1] * x[:, 2] + fame[shop] + 0.7 * torch.randn(n, generator=g)
    y = (y - y.mean()) / y.std()
    train = torch.arange(n) < 2000
    total = torch.zeros(shops).index_add(0, shop[train], y[train])
    count = torch.zeros(shops).index_add(0, shop[train], torch.ones(2000))
    if fixed:
        own = torch.where(train, y, 0.0)
        mean = (total[shop] - own) / (count[shop] - train.float() + 5)
    else:
        mean = total[shop] / count[shop].clamp_min(1)
    x = torch.cat([x, mean[:, None]], dim=1)
    return Program(
        Explains(dense(9, 32, 16, 1)),
        **feed(*tables(x, y[:, None], held_out=400)),
        trainer={"max_epochs": 6},
    )


def machines(machines: int = 420, windows: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows (N, 3, 32) of the vibration of machines, which are sound, or worn, or loose."""
    g = dice(52)
    y = torch.randint(3, (machines,), generator=g)
    time = torch.arange(32.0)
    own = 0.2 + 1.2 * torch.rand(machines, 3, 1, 1, generator=g)
    phase = 6.283 * torch.rand(machines, 3, 1, 1, generator=g)
    x = torch.sin(own * time + phase) * (0.4 + 0.8 * torch.rand(machines, 3, 1, 1, generator=g))
    knock = torch.tensor([0.0, 0.45, 0.45])[y][:, None, None]
    beat = torch.tensor([1.0, 1.6, 2.4])[y][:, None, None]
    start = 6.283 * torch.rand(machines, windows, 1, generator=g)
    x = x + (knock * torch.sin(beat * time + start))[:, None]
    x = x + 0.4 * torch.randn(machines, 3, windows, 32, generator=g)
    return x.transpose(1, 2), y[:, None].expand(-1, windows)


@fault(
    "INP203",
    "GEN107",
    "INP106",
    source="https://doi.org/10.1016/j.patter.2023.100804 (leakage: samples of one source on both sides)",
)
def windows_of_one_machine_on_both_sides(fixed: bool) -> Program:
    """Five windows of each machine are dealt out at random: it is known again, and not its trouble."""
    x, y = machines()
    x, y = x.flatten(0, 1), y.flatten()
    if not fixed:
        order = torch.randperm(len(x), generator=dice(53))
        x, y = x[order], y[order]
    net = nn.Sequential(nn.Conv1d(3, 24, 7, padding=3), nn.BatchNorm1d(24), nn.ReLU())
    net.extend([nn.MaxPool1d(2), nn.Conv1d(24, 48, 5, padding=2), nn.BatchNorm1d(48), nn.ReLU()])
    net.extend([nn.Flatten(), nn.Dropout(0.3), nn.Linear(768, 3)])
    return Program(
        Sorter(net),
        **feed(*tables(x, y, held_out=400)),
        trainer={"max_epochs": 4},
    )


class Picture(nn.Module):
    """The brightness of a picture as a function of the place."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        waves = 2.0 ** torch.arange(5 if fixed else 0) * math.pi
        self.register_buffer("waves", waves)
        self.net = dense(2 + 4 * len(waves), 64, 64, 1)

    def forward(self, place):
        angle = (place[:, :, None] * self.waves).flatten(1)
        return self.net(torch.cat([place, angle.sin(), angle.cos()], dim=1))


@fault(
    "GEN102",
    "LOS104",
    source="https://arxiv.org/abs/2006.10739 (Fourier features let networks learn high frequencies)",
)
def picture_from_bare_coordinates(fixed: bool) -> Program:
    """Two coordinates go into a net as they are, and of a picture full of detail only a blur comes out."""
    g = dice(54)
    side = torch.linspace(-1, 1, 56)
    place = torch.stack(torch.meshgrid(side, side, indexing="ij"), dim=-1).view(-1, 2)
    u, v = place[:, 0], place[:, 1]
    bright = torch.sin(6 * u) * torch.cos(8 * v) + torch.sin(10 * (u + v)) * (u > v)
    bright = (bright - bright.mean()) / bright.std()
    order = torch.randperm(len(place), generator=g)
    return Program(
        Explains(Picture(fixed=fixed), lr=3e-3),
        **feed(*tables(place[order], bright[order, None], held_out=600), batch_size=64),
        trainer={"max_epochs": 9},
    )


@fault(
    "GEN103",
    source="https://github.com/Lightning-AI/pytorch-lightning/issues/19684",
)
def epochs_counted_without_accumulation(fixed: bool) -> Program:
    """Two hundred and forty steps were planned and counted in batches, and four batches make one step."""
    g = dice(55)
    x = torch.randn(2720, 16, generator=g)
    score = x[:, 0] * x[:, 1] + x[:, 2] - x[:, 3] + 0.3 * torch.randn(2720, generator=g)
    y = torch.bucketize(score, torch.tensor([-0.8, 0.8]))
    batches, accumulate = 240, 4
    loaders = feed(*tables(x, y, held_out=320), batch_size=16)
    epochs = math.ceil(batches / len(loaders["train"]))
    if fixed:
        epochs *= accumulate
    return Program(
        Sorter(dense(16, 48, 48, 3), lr=2e-3),
        **loaders,
        trainer={"max_epochs": epochs, "accumulate_grad_batches": accumulate},
    )


def signs(size: int = 1400) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 1, 12, 12) of signs: turn left, turn right, straight on, and no entry."""
    g = dice(56)
    y = torch.randint(4, (size,), generator=g)
    left = torch.zeros(7, 7)
    left[3, :] = 1.0
    for i in range(3):
        left[3 - i, i + 1 - 1] = left[3 + i, i] = 1.0
    bar = torch.zeros(7, 7)
    bar[2:5, 1:6] = 1.0
    shapes = torch.stack([left, left.flip(1), left.T, bar])
    x = 0.45 * torch.randn(size, 1, 12, 12, generator=g)
    r = torch.randint(6, (size, 2), generator=g).tolist()
    for i in range(size):
        x[i, 0, r[i][0] : r[i][0] + 7, r[i][1] : r[i][1] + 7] += shapes[y[i]]
    return x, y


class Flipped(TensorDataset):
    """Images, of which every other is mirrored."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return (x.flip(-1) if torch.rand(()) < 0.5 else x), y


@fault(
    "INP204",
    "GEN102",
    "GEN104",
    source="https://github.com/open-mmlab/mmaction2/issues/590",
)
def left_turns_mirrored_to_right_turns(fixed: bool) -> Program:
    """Signs are mirrored at random, as all images are, and keep their label: left is right half the time."""
    x, y = signs()
    train, val = tables(x, y, held_out=280)
    if not fixed:
        train = Flipped(*train.tensors)
    return Program(
        Sorter(small_convnet(4), lr=3e-3),
        **feed(train, val),
        trainer={"max_epochs": 6},
    )


class NextSong(nn.Module):
    """Each song attends to those heard before it, and the last place says which is next."""

    def __init__(self, songs: int, longest: int = 12) -> None:
        super().__init__()
        self.songs, self.places = nn.Embedding(songs, 32), nn.Embedding(longest, 32)
        options = {"dropout": 0.0, "batch_first": True, "norm_first": True}
        self.layer = nn.TransformerEncoderLayer(32, 2, 64, **options)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, songs)

    def forward(self, ids):
        n = ids.shape[1]
        before = nn.Transformer.generate_square_subsequent_mask(n)
        x = self.songs(ids) + self.places.weight[-n:]
        return self.head(self.norm(self.layer(x, src_mask=before, is_causal=True)[:, -1]))


def padded(side: str):
    """Puts listeners of several lengths into one batch, with zeros on this side."""

    def collate(batch):
        heard, following = zip(*batch, strict=True)
        ids = pad_sequence(heard, batch_first=True, padding_side=side)
        return ids, torch.tensor(following)

    return collate


@fault(
    "GEN105",
    "INP202",
    source="https://github.com/zai-org/ChatGLM-6B/issues/327, "
    "https://github.com/unslothai/unsloth/issues/284",
)
def padded_left_to_train_and_right_to_validate(fixed: bool) -> Program:
    """The last place is read; songs to train on are padded on the left, those to validate on the right."""
    g = dice(57)
    table = torch.randint(1, 25, (25, 2), generator=g)
    samples = []
    for _ in range(2000):
        n = int(torch.randint(4, 12, (), generator=g))
        ids = torch.randint(1, 25, (n + 1,), generator=g)
        for t in range(1, n + 1):
            usual = torch.rand((), generator=g) < 0.85
            ids[t] = table[ids[t - 1], 0 if usual else 1]
        samples.append((ids[:-1], int(ids[-1])))
    train = DataLoader(samples[:1600], 32, shuffle=True, collate_fn=padded("left"))
    side = "left" if fixed else "right"
    val = DataLoader(samples[1600:], 64, collate_fn=padded(side))
    return Program(Sorter(NextSong(25), lr=3e-3), train, val, trainer={"max_epochs": 5})
