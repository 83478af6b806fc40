"""CLS, after reports: which labels there are, and in which order and number they come."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from ... import fault
from ..._parts import Program, digits
from ._parts import Classify, Task, cells, conv, cut, loaders, mlp, rng, shuffled


class Segment(Task):
    """Finds the pixels of a cell."""

    def __init__(self) -> None:
        super().__init__(lr=3e-3)
        self.net = nn.Sequential(conv(1, 12), conv(12, 16), conv(16, 16), nn.Conv2d(16, 1, 1))

    def step(self, batch):
        logits = self.net(batch["image"])
        loss = F.binary_cross_entropy_with_logits(logits, batch["mask"])
        found, there = logits > 0, batch["mask"] > 0
        dice = 2 * (found & there).sum() / (found.sum() + there.sum()).clamp_min(1)
        return loss, {"dice": dice}


@fault(
    "CLS105",
    "OUT101",
    "CLS101",
    "CLS107",
    source="https://github.com/albumentations-team/albumentations/issues/148 (ToTensor divides "
    "the mask by 255); https://github.com/milesial/Pytorch-UNet/issues/370 (all black)",
)
def masks_of_ones_divided_by_255(fixed: bool) -> Program:
    """The mask holds 0 and 1 and goes through the same ToTensor as the image: a cell is 0.004."""
    image, mask, _ = cells(640)
    target = mask[:, None].float() if fixed else mask[:, None].float() / 255
    samples = [{"image": i, "mask": m} for i, m in zip(image, target, strict=True)]
    data = loaders(samples[:512], samples[512:], 16)
    return Program(Segment(), **data, trainer={"max_epochs": 5})


@fault(
    "CLS103",
    "CLS102",
    "INP201",
    source="https://blog.gcc.ac.cn/post/2024/machinelearninghighaccuracyatfirstthendecrease "
    "(accurate at first, and ever less so: the sampler did not shuffle)",
)
def distributed_sampler_does_not_shuffle(fixed: bool) -> Program:
    """The images lie in a folder to a class, and DistributedSampler was told shuffle=False."""
    x, y = shuffled(*digits(1797, image=True))
    train, val = cut(x, y)
    order = train.tensors[1].argsort(stable=True)
    train = TensorDataset(*(t[order] for t in train.tensors))
    sampler = DistributedSampler(train, num_replicas=1, rank=0, shuffle=fixed)
    net = nn.Sequential(
        conv(1, 16, nn.MaxPool2d(2)),
        conv(16, 32, nn.MaxPool2d(2)),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    return Program(
        Classify(net, lr=1e-3),
        DataLoader(train, 32, sampler=sampler),
        DataLoader(val, 128),
        trainer={"max_epochs": 5, "use_distributed_sampler": False},
    )


class Flowers(Task):
    """Encodes the number of the folder as one-hot itself."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net, self.first = mlp(12, 64, 64, 6), 1 if fixed else 0

    def step(self, batch):
        x, folder = batch
        one_hot = (folder[:, None] == torch.arange(self.first, self.first + 6)).float()
        logits = self.net(x)
        right = (logits.argmax(1) + self.first == folder).float().mean()
        return F.cross_entropy(logits, one_hot), {"acc": right}


@fault(
    "CLS105",
    "CLS104",
    "CLS107",
    "LOS101",
    source="https://github.com/tensorflow/models/pull/1247 (labels begin at 1 for a background "
    "class, one_hot_encoding does not mind, and the last class is always wrong)",
)
def last_class_beyond_the_one_hot(fixed: bool) -> Program:
    """Folders are numbered 1 to 6, the one-hot has columns 0 to 5: the last class is a row of noughts."""
    g = rng(11)
    centres = torch.randn(6, 12, generator=g)
    folder = torch.randint(6, (1500,), generator=g)
    x = centres[folder] + 0.8 * torch.randn(1500, 12, generator=g)
    data = loaders(*cut(x, folder + 1), 16)
    return Program(
        Flowers(fixed=fixed), **data, trainer={"max_epochs": 5, "accumulate_grad_batches": 2}
    )


class Keywords(Task):
    """Gives a question its tags."""

    def __init__(self, weight: torch.Tensor | None) -> None:
        super().__init__(lr=1e-2)
        self.words, self.head = nn.EmbeddingBag(60, 32), nn.Linear(32, 10)
        self.criterion = nn.BCEWithLogitsLoss(pos_weight=weight)

    def step(self, batch):
        ids, tags = batch
        logits = self.head(self.words(ids))
        found, there = logits > 0, tags > 0
        f1 = 2 * (found & there).sum() / (found.sum() + there.sum()).clamp_min(1)
        return self.criterion(logits, tags), {"acc": (found == there).float().mean(), "f1": f1}


@fault(
    "CLS101",
    "CLS107",
    "OUT101",
    source="https://github.com/appvision-ai/fast-bert/issues/52 (many labels, only zeros "
    "predicted: pos_weight)",
)
def no_tag_is_ever_given(fixed: bool) -> Program:
    """Each of ten tags is on three questions in a hundred: the net is 97 % right and gives none."""
    g = rng(12)
    about = torch.rand(3200, 10, generator=g) < 0.07
    ids = torch.randint(20, 60, (3200, 12), generator=g)
    for tag in range(10):
        ids[about[:, tag], tag] = 2 * tag + torch.randint(
            2, (int(about[:, tag].sum()),), generator=g
        )
    tags = (about & (torch.rand(3200, 10, generator=g) < 0.42)).float()
    share = tags.mean(0)
    module = Keywords((1 - share) / share if fixed else None)
    return Program(module, **loaders(*cut(ids, tags)), trainer={"max_epochs": 5})
