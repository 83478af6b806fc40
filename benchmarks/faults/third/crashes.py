"""ERR, a third time: what ends in an exception."""

from __future__ import annotations

import os

import lightning.pytorch as pl
import torch
from healthy._parts import new_digits, pretrained
from lightning.pytorch.callbacks import EarlyStopping
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, TensorDataset

from .. import DEEPFD, HUMBATOVA, NEURALINT, fault
from .._parts import Program, Supervised, blobs, digit_loaders, digits, loaders, mlp, scenes, split
from ..first._parts import Learner, accuracy, reviews
from ._parts import small_cnn


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, before: int, after: int, *, project: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=after // before, padding=1),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1),
        )
        change = project and before != after
        self.shortcut = nn.Conv2d(before, after, 1, stride=2) if change else nn.Identity()

    def forward(self, x):
        return F.relu(self.body(x) + self.shortcut(x))


@fault(
    "ERR101",
    source="https://arxiv.org/abs/1512.03385 (section 3.3: shortcuts where the dimensions change); "
    + NEURALINT,
)
def shortcut_of_another_width(fixed: bool) -> Program:
    """The second stage of a ResNet has twice the channels, and its shortcut is still the identity."""
    net = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        Residual(16, 16, project=fixed),
        Residual(16, 32, project=fixed),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 10),
    )
    data = digit_loaders(image=True)
    return Program(Supervised(net, lr=1e-3), **data, trainer={"max_epochs": 5})


class Table(Learner):
    """Categories are embedded, and put beside the numbers of a row."""

    lr = 5e-3

    def __init__(self, shops: int) -> None:
        super().__init__()
        self.embed, self.net = nn.Embedding(shops, 8), mlp(16, 48, 2)

    def forward(self, shop, numbers):
        return self.net(torch.cat([self.embed(shop), numbers], dim=1))

    def loss_of(self, batch):
        return F.cross_entropy(self(batch["shop"], batch["numbers"]), batch["bought"])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_acc", accuracy(self(batch["shop"], batch["numbers"]), batch["bought"]))


def visits(size: int = 2000, shops: int = 20) -> tuple[torch.Tensor, ...]:
    """In which shop, with which numbers, and whether somebody bought."""
    shop, numbers = torch.randint(shops, (size,)), torch.randn(size, 8)
    score = torch.randn(shops)[shop] + numbers[:, 0] - numbers[:, 1] + 0.3 * torch.randn(size)
    return shop, numbers, (score > 0).long()


def rows(*columns: torch.Tensor) -> list[dict[str, torch.Tensor]]:
    """One dictionary to a visit."""
    return [{"shop": a, "numbers": b, "bought": c} for a, b, c in zip(*columns, strict=True)]


@fault(
    "ERR102",
    source="https://scikit-learn.org/stable/modules/generated/sklearn.preprocessing.OrdinalEncoder.html "
    "(unknown_value); https://discuss.pytorch.org/t/embeddings-index-out-of-range-error/12582",
)
def shop_that_opened_later(fixed: bool) -> Program:
    """Validation has a shop that training has not: the encoder says -1, which is no row of an embedding."""
    shop, numbers, bought = visits()
    later = torch.arange(2000) >= 1600
    new = later & (torch.rand(2000) < 0.02)
    shop = torch.where(new, -1, shop) + (1 if fixed else 0)
    shop = torch.where(~later & (torch.rand(2000) < 0.02), 0, shop) if fixed else shop
    samples = rows(shop, numbers, bought)
    data = loaders(samples[:1600], samples[1600:])
    return Program(Table(21 if fixed else 20), **data, trainer={"max_epochs": 5})


class Positions(Learner):
    """A transformer layer over words and their learned places."""

    lr = 2e-3

    def __init__(self, places: int) -> None:
        super().__init__()
        self.word, self.place = nn.Embedding(80, 32), nn.Embedding(places, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
        self.out = nn.Linear(32, 4)

    def forward(self, ids):
        place = torch.arange(ids.shape[1], device=ids.device)
        return self.out(self.layer(self.word(ids) + self.place(place)).mean(1))

    def loss_of(self, batch):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_acc", accuracy(self(batch[0]), batch[1]))


@fault(
    "ERR102",
    source="https://discuss.pytorch.org/t/embeddings-index-out-of-range-error/12582",
)
def longer_than_its_places(fixed: bool) -> Program:
    """There are twelve learned places, as many as training has words; some texts of validation have sixteen."""
    train, (ids, y) = split(*reviews(1400))[0], reviews(200)
    longer = torch.cat([ids, torch.randint(4, 80, (200, 4))], dim=1)
    val = [*DataLoader(TensorDataset(ids[:100], y[:100]), 50)]
    val += [*DataLoader(TensorDataset(longer[100:], y[100:]), 50)]
    loader, val = DataLoader(train, 32, shuffle=True), DataLoader(val, batch_size=None)
    return Program(Positions(16 if fixed else 12), loader, val, trainer={"max_epochs": 5})


@fault(
    "ERR103",
    "LOS102",
    source="https://pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html (float targets); "
    + DEEPFD,
)
def yes_and_no_as_integers(fixed: bool) -> Program:
    """Labels of 0 and 1 are integers, as for a cross entropy, and go into the binary one."""
    x, y = blobs(1400, classes=2)

    class Binary(Supervised):
        """Says how often it is right."""

        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self.log("val_right", ((self(batch[0]) > 0) == (batch[1] > 0.5)).float().mean())

    net = nn.Sequential(mlp(16, 32, 1), nn.Flatten(0))
    module = Binary(net, F.binary_cross_entropy_with_logits, lr=2e-3)
    return Program(
        module, **loaders(*split(x, y.float() if fixed else y)), trainer={"max_epochs": 5}
    )


class Stepwise(Learner):
    """Reads a sentence with a cell, word by word, from a state of zeros."""

    lr = 5e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.embed, self.cell, self.out = nn.Embedding(80, 24), nn.GRUCell(24, 48), nn.Linear(48, 4)
        self.fixed = fixed

    def forward(self, ids):
        words = self.embed(ids)
        state = torch.zeros(len(ids), 48, dtype=words.dtype if self.fixed else torch.float32)
        for word in words.unbind(1):
            state = self.cell(word, state)
        return self.out(state)

    def loss_of(self, batch):
        return F.cross_entropy(self(batch[0]).float(), batch[1])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_acc", accuracy(self(batch[0]), batch[1]))


@fault(
    "ERR103",
    source="https://lightning.ai/docs/pytorch/stable/common/precision_intermediate.html (true half precision)",
)
def state_in_single_precision(fixed: bool) -> Program:
    """The first state of a recurrent net is asked for in float32, and the net is in bfloat16."""
    data = loaders(*split(*reviews(1600)))
    trainer = {"max_epochs": 4, "precision": "bf16-true"}
    return Program(Stepwise(fixed=fixed), **data, trainer=trainer)


class Transferred(Supervised):
    """Keeps its backbone as it is, norms included."""

    def on_train_epoch_start(self):
        self.net[:-1].eval()


@fault(
    "ERR106",
    "LOS107",
    "UPD106",
    "UPD101",
    source="https://discuss.pytorch.org/t/element-0-of-tensors-does-not-require-grad/12557; "
    + HUMBATOVA,
)
def frozen_with_its_new_head(fixed: bool) -> Program:
    """First a new head, then requires_grad_(False) for all: the order of the two lines is the fault."""
    net = pretrained()
    if fixed:
        net.requires_grad_(False)
        net[-1] = mlp(32, 64, 5)
    else:
        net[-1] = mlp(32, 64, 5)
        net.requires_grad_(False)
    return Program(Transferred(net, lr=1e-2), **new_digits(), trainer={"max_epochs": 10})


class LearnedGraph(Learner):
    """Each node of a table asks all others, along edges that are learned, too."""

    lr = 5e-3

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.nodes = nn.Parameter(0.3 * torch.randn(16, 8))
        self.lift, self.out, self.fixed = nn.Linear(1, 16), nn.Linear(16 * 16, 4), fixed

    def edges(self):
        return torch.softmax(F.relu(self.nodes @ self.nodes.T), dim=1)

    def on_fit_start(self):
        self.adjacency = self.edges()

    def forward(self, x):
        adjacency = self.edges() if self.fixed else self.adjacency
        hidden = F.relu(self.lift(x[:, :, None]))
        return self.out((hidden + adjacency @ hidden).flatten(1))

    def loss_of(self, batch):
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val_acc", accuracy(self(batch[0]), batch[1]))


@fault(
    "ERR107",
    source="https://arxiv.org/abs/1906.00121 (Graph WaveNet: the adjacency is learned); "
    "https://stackoverflow.com/questions/48274929 (backward through the graph a second time)",
)
def edges_made_once(fixed: bool) -> Program:
    """Learned edges are computed once, before training: their graph is gone with the first backward."""
    data = loaders(*split(*blobs(1400)))
    return Program(LearnedGraph(fixed=fixed), **data, trainer={"max_epochs": 5})


class ActorCritic(pl.LightningModule):
    """A bandit with a context: the actor chooses one of four arms, and the critic says what to expect."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.actor, self.critic, self.fixed = mlp(16, 48, 4), mlp(20, 48, 1), fixed

    def worth(self, x, share):
        return self.critic(torch.cat([x, share], dim=1)).squeeze(1)

    def training_step(self, batch, batch_idx):
        x, best = batch
        act, judge = self.optimizers()
        share = torch.softmax(self.actor(x), 1)
        arm = F.one_hot(torch.multinomial(share.detach(), 1)[:, 0], 4).float()
        reward = arm.gather(1, best[:, None])[:, 0]
        actor_loss = -self.worth(x, share).mean()
        critic_loss = F.mse_loss(self.worth(x, arm), reward)
        judge.zero_grad()
        if self.fixed:
            self.manual_backward(critic_loss)
            judge.step()
            actor_loss = -self.worth(x, share).mean()
        else:
            self.manual_backward(critic_loss, retain_graph=True)
            judge.step()
        act.zero_grad()
        self.manual_backward(actor_loss)
        act.step()
        self.log_dict(
            {"critic_loss": critic_loss, "actor_loss": actor_loss, "reward": reward.mean()}
        )

    def validation_step(self, batch, batch_idx):
        x, best = batch
        self.log("val_reward", accuracy(self.actor(x), best))

    def configure_optimizers(self):
        actor = torch.optim.Adam(self.actor.parameters(), lr=1e-3)
        return actor, torch.optim.Adam(self.critic.parameters(), lr=5e-3)


@fault(
    "ERR108",
    source="https://github.com/pytorch/pytorch/issues/39141 (modified by an inplace operation: step before backward)",
)
def critic_steps_before_the_actor(fixed: bool) -> Program:
    """The actor's loss has read the critic's weights, which the critic's step then changes."""
    data = loaders(*split(*blobs(2400)))
    return Program(ActorCritic(fixed=fixed), **data, trainer={"max_epochs": 6})


class Decoded(Dataset):
    """Images that a library in C decodes; one of the files is damaged."""

    def __init__(self, x, y, damaged: int) -> None:
        self.x, self.y, self.damaged = x, y, damaged

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index):
        if index == self.damaged and torch.utils.data.get_worker_info() is not None:
            os._exit(139)  # what a segmentation fault looks like from outside
        return self.x[index], self.y[index]


@fault(
    "ERR110",
    source="https://github.com/pytorch/pytorch/issues/131631 (DataLoader worker exited unexpectedly)",
)
def decoder_ends_its_worker(fixed: bool) -> Program:
    """A damaged file crashes the decoder, and with it the worker process."""
    x, y = digits(1000, image=True)
    train = Decoded(x[:800], y[:800], -1 if fixed else 333)
    loader = DataLoader(train, 32, shuffle=True, num_workers=1, persistent_workers=True)
    val = DataLoader(TensorDataset(x[800:], y[800:]), 100)
    return Program(Supervised(small_cnn(1, 10), lr=3e-3), loader, val, trainer={"max_epochs": 6})


class Discs(Learner):
    """Where are the discs, of which there are one or two?"""

    lr = 2e-3

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 16, 5, padding=2),
            nn.ReLU(),
            nn.Conv2d(16, 1, 1),
        )

    def loss_of(self, batch):
        image, boxes = batch
        target = torch.zeros_like(image)
        for canvas, some in zip(target, boxes, strict=True):
            for top, left, bottom, right in some.tolist():
                canvas[0, top:bottom, left:right] = 1
        return F.binary_cross_entropy_with_logits(self.net(image), target)


def by_lists(samples):
    """Images as one tensor, boxes as a list."""
    images, boxes = zip(*samples, strict=True)
    return torch.stack(images), list(boxes)


@fault(
    "ERR113",
    source="https://pytorch.org/tutorials/intermediate/torchvision_tutorial.html (detection and its collate_fn)",
)
def images_of_one_box_and_of_two(fixed: bool) -> Program:
    """Some images have one box and others two, and the default collate function wants to stack them."""
    image, mask = scenes(640)
    boxes = []
    for i, one in enumerate(mask):
        where = one.nonzero()
        box = torch.cat([where.min(0).values, where.max(0).values + 1])
        boxes.append(torch.stack([box, box] if i % 3 == 0 else [box]))
    samples = list(zip(image, boxes, strict=True))
    collate = by_lists if fixed else None
    train = DataLoader(samples[:512], 16, shuffle=True, collate_fn=collate)
    val = DataLoader(samples[512:], 16, collate_fn=collate)
    return Program(Discs(), train, val, trainer={"max_epochs": 4})


class Pyramid(nn.Module):
    """A segmentation net that looks at the whole image, too, as DeepLab does."""

    def __init__(self, *, norm: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU())
        middle = [nn.BatchNorm2d(16)] if norm else []
        self.whole = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), *middle, nn.ReLU()
        )
        self.end = nn.Sequential(nn.Conv2d(32, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 1, 1))

    def forward(self, x):
        x = self.stem(x)
        whole = self.whole(x).expand(-1, -1, *x.shape[2:])
        return self.end(torch.cat([x, whole], dim=1)).squeeze(1)


@fault(
    "ERR114",
    "STR104",
    source="https://arxiv.org/abs/1706.05587 (DeepLabv3: batch norm behind image pooling, with a batch of 1)",
)
def pooled_to_one_pixel(fixed: bool) -> Program:
    """Batches of one image, and a batch norm behind global pooling: there is one value to each channel."""
    image, mask = scenes(200)
    data = loaders(*split(image, mask.float()), batch_size=1)
    trainer = {"max_epochs": 2, "accumulate_grad_batches": 4}
    module = Supervised(Pyramid(norm=not fixed), F.binary_cross_entropy_with_logits, lr=3e-3)
    return Program(module, **data, trainer=trainer)


class Auxiliary(nn.Module):
    """A net with a second head halfway, which answers in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
        self.early, self.late = nn.Linear(64, 10), mlp(64, 48, 10)

    def forward(self, x):
        x = self.start(x)
        return (self.late(x), self.early(x)) if self.training else self.late(x)


class Inception(Supervised):
    """Trains both heads, if it is told so."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(Auxiliary(), lr=2e-3)
        self.fixed = fixed

    def training_step(self, batch, batch_idx):
        x, y = batch
        out = self(x)
        if self.fixed:
            loss = F.cross_entropy(out[0], y) + 0.4 * F.cross_entropy(out[1], y)
        else:
            loss = F.cross_entropy(out, y)
        self.log("train_loss", loss)
        return loss


@fault(
    "ERR116",
    source="https://pytorch.org/tutorials/beginner/finetuning_torchvision_models_tutorial.html (is_inception)",
)
def inception_answers_twice(fixed: bool) -> Program:
    """In train mode the net gives its answer and an auxiliary one, and cross_entropy gets the pair."""
    return Program(Inception(fixed=fixed), **digit_loaders(), trainer={"max_epochs": 5})


class TwoSites(Supervised):
    """Validates on the data of two sites."""

    def validation_step(self, batch, batch_idx, dataloader_idx: int = 0):
        x, y = batch
        self.log("val_loss", self.loss(self(x), y))
        self.log(f"val_acc_{dataloader_idx}", accuracy(self(x), y), add_dataloader_idx=False)


@fault(
    "ERR117",
    source="https://lightning.ai/docs/pytorch/stable/extensions/logging.html (add_dataloader_idx)",
)
def second_site_renames_the_metric(fixed: bool) -> Program:
    """With a second val loader val_loss is called val_loss/dataloader_idx_0, and EarlyStopping waits for it."""
    x, y = digits(1797)
    train, *val = (
        TensorDataset(x[part], y[part])
        for part in (slice(0, 1300), slice(1300, 1550), slice(1550, None))
    )
    name = "val_loss/dataloader_idx_0" if fixed else "val_loss"
    trainer = {"max_epochs": 5, "callbacks": [EarlyStopping(name, patience=4)]}
    module = TwoSites(mlp(64, 64, 10))
    loader = DataLoader(train, 32, shuffle=True)
    return Program(module, loader, [DataLoader(one, 125) for one in val], trainer=trainer)


class Resumed(Supervised):
    """Starts from weights that were saved elsewhere."""

    def __init__(self, net, weights) -> None:
        super().__init__(net, lr=1e-3)
        self.weights = weights

    def on_fit_start(self):
        self.net.load_state_dict(self.weights)


@fault(
    "ERR112",
    source="https://discuss.pytorch.org/t/solved-keyerror-unexpected-key-module-encoder-embedding-weight-in-state-dict/1686",
)
def keys_with_module_before(fixed: bool) -> Program:
    """The weights were saved from DataParallel: each of their names begins with "module."."""
    other = mlp(64, 64, 10)
    weights = other.state_dict() if fixed else nn.DataParallel(other).state_dict()
    return Program(Resumed(mlp(64, 64, 10), weights), **digit_loaders(), trainer={"max_epochs": 5})
