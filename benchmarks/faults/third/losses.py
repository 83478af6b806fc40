"""LOS, a third time: what is minimized is not what was meant."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from .. import HUMBATOVA, fault
from .._parts import Program, digit_loaders, digits, loaders, mlp, split, waves
from ..first._parts import meters, reviews
from ..second._parts import lesions, patches
from ._more_parts import Task, right, small_cnn


class Tagger(Task):
    """Several tags to a sentence, out of a nested batch."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.words = nn.EmbeddingBag(80, 32, mode="mean")
        last = [] if fixed else [nn.Tanh()]
        self.head = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 5), *last)

    def step(self, batch):
        logits = self.head(self.words(batch["text"]["ids"]))
        loss = F.binary_cross_entropy_with_logits(logits, batch["tags"])
        return loss, {"acc": ((logits > 0) == (batch["tags"] > 0.5)).float().mean()}


@fault(
    "LOS102",
    "OUT102",
    "ACT102",
    source=HUMBATOVA + " (the activation of the last layer)",
)
def tanh_under_a_sigmoid(fixed: bool) -> Program:
    """The head of the tags ends in a tanh: BCEWithLogitsLoss never sees a logit beyond one."""
    ids, kind = reviews(1600)
    tags = F.one_hot(kind, 4).float()
    tags = torch.cat([tags, (tags[:, :1] + tags[:, 2:3])], dim=1)
    samples = [{"text": {"ids": i}, "tags": t} for i, t in zip(ids, tags, strict=True)]
    data = loaders(samples[:1280], samples[1280:])
    return Program(Tagger(fixed=fixed), **data, trainer={"max_epochs": 6})


class Faces(Task):
    """A classifier by the angle between features and the weights of a class."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.body = small_cnn(3, flat=288, classes=32)
        self.weight = nn.Parameter(torch.randn(6, 32) / 32**0.5)
        self.scale = 12.0 if fixed else 1.0

    def step(self, batch):
        x, y = batch
        cosine = F.linear(F.normalize(self.body(x), dim=1), F.normalize(self.weight, dim=1))
        return F.cross_entropy(self.scale * cosine, y), {"acc": right(cosine, y)}


@fault(
    "LOS102",
    "OUT102",
    "GEN102",
    source="https://arxiv.org/abs/1704.06369 (NormFace: the loss of unscaled cosines has a lower bound)",
)
def cosines_without_a_scale(fixed: bool) -> Program:
    """The logits are cosines, and nothing scales them: no answer is much surer than another."""
    data = loaders(*split(*patches(1500)))
    return Program(Faces(fixed=fixed), **data, trainer={"max_epochs": 4})


class Segmenter(Task):
    """Says of each pixel whether it belongs to a lesion."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1)]
        self.net, self.fixed = nn.Sequential(*layers, nn.Sigmoid()), fixed

    def step(self, batch):
        x, mask = batch
        p = self.net(x)
        soft = 0.9 * mask + 0.05
        pair = (p, soft) if self.fixed else (soft, p)
        found = p > 0.5
        iou = (found * mask).sum() / (found + mask).clamp(max=1).sum()
        return F.binary_cross_entropy(*pair), {"iou": iou}


@fault(
    "LOS102",
    "LOS101",
    source=HUMBATOVA + " (the arguments of the loss function)",
)
def targets_come_first(fixed: bool) -> Program:
    """binary_cross_entropy(mask, p), as other libraries order them: the logarithms are those of the target."""
    data = loaders(*split(*lesions(640)), batch_size=16)
    return Program(Segmenter(fixed=fixed), **data, trainer={"max_epochs": 4})


class Locator(Task):
    """Finds the box of the only object there is."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.body, self.fixed = small_cnn(1, flat=512, classes=64), fixed
        self.box = nn.Sequential(nn.ReLU(), nn.Linear(64, 4))

    def step(self, batch):
        boxes = batch["boxes"]
        predicted = self.box(self.body(batch["image"]))
        if self.fixed:
            boxes = boxes.squeeze(1)
        error = (predicted - boxes.squeeze(1)).abs().mean()
        return F.smooth_l1_loss(predicted, boxes, beta=0.1), {"error": error}


@fault(
    "LOS103",
    "OUT101",
    "LOS104",
    source="the warning of smooth_l1_loss (a target size that is different to the input size); "
    + HUMBATOVA,
)
def box_in_a_list_of_one(fixed: bool) -> Program:
    """Boxes are (N, 1, 4), predictions (N, 4): each prediction is compared with every box of the batch."""
    image, mask = lesions(800)
    there = mask[:, 0] > 0.5
    sides = []
    for seen in (there.any(1).float(), there.any(2).float()):
        sides += [seen.argmax(1), 16 - seen.flip(1).argmax(1)]
    boxes = torch.stack([sides[i] for i in (0, 2, 1, 3)], dim=1)[:, None] / 8.0 - 1
    samples = [{"image": i, "boxes": b} for i, b in zip(image, boxes, strict=True)]
    return Program(
        Locator(fixed=fixed),
        **loaders(samples[:640], samples[640:], batch_size=16),
        trainer={"max_epochs": 5},
    )


class HalfSupervised(Task):
    """An autoencoder whose code is to tell the class as well."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=1e-3)
        self.encoder = mlp(64, 64, 8)
        self.decoder, self.head = mlp(8, 64, 64), nn.Linear(8, 10)
        self.reduction = "mean" if fixed else "sum"

    def step(self, batch):
        x, y = batch
        code = self.encoder(x)
        logits = self.head(code)
        shape = F.mse_loss(self.decoder(code), x, reduction=self.reduction)
        kind = F.cross_entropy(logits, y)
        return kind + shape, {"shape": shape, "kind": kind, "acc": right(logits, y)}


@fault(
    "LOS105",
    source="https://arxiv.org/abs/1705.07115 (weighing the losses of several tasks)",
)
def picture_summed_class_averaged(fixed: bool) -> Program:
    """The reconstruction is summed over pixels and batch, the cross entropy averaged: a code for one task."""
    return Program(HalfSupervised(fixed=fixed), **digit_loaders(), trainer={"max_epochs": 8})


class Denoiser(Task):
    """Cleans an image, and wants the result smooth."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        layers = [nn.Conv2d(1, 24, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(24, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 1, 3, padding=1)]
        self.net, self.weight = nn.Sequential(*layers), 1e-3 if fixed else 10.0

    def step(self, batch):
        noisy, clean = batch
        out = self.net(noisy)
        error = F.mse_loss(out, clean)
        rough = out.diff(dim=2).abs().mean() + out.diff(dim=3).abs().mean()
        return error + self.weight * rough, {"error": error, "rough": rough}


@fault(
    "LOS106",
    "LOS105",
    "OUT101",
    source="https://arxiv.org/abs/1603.08155 (perceptual losses, and the weight of total variation)",
)
def smooth_above_all(fixed: bool) -> Program:
    """The total variation weighs ten thousand times too much: the cleaned image is one grey."""
    clean = digits(1400, image=True)[0]
    data = loaders(*split(clean + 0.5 * torch.randn_like(clean), clean))
    return Program(Denoiser(fixed=fixed), **data, trainer={"max_epochs": 5})


class Counter(Task):
    """Predicts how many parcels a street gets."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net, self.fixed = mlp(6, 64, 64, 1), fixed

    def step(self, batch):
        x, count = batch
        out = self.net(x).squeeze(1)
        whole = out.round()
        loss = F.mse_loss(out if self.fixed else whole, count)
        return loss, {"right": (whole == count).float().mean()}


@fault(
    "LOS107",
    "GRD103",
    "UPD102",
    "LOS104",
    source="https://discuss.pytorch.org/t/torch-round-gradient/28628",
)
def rounded_before_the_loss(fixed: bool) -> Program:
    """Counts are whole numbers, so the net's answers are rounded before the loss: a slope of zero."""
    x = torch.randn(2000, 6)
    mean = 3 + x[:, 0] + x[:, 1] * x[:, 2] + x[:, 3].abs()
    count = (mean + 0.3 * torch.randn(2000)).round().clamp_min(0)
    return Program(Counter(fixed=fixed), **loaders(*split(x, count)), trainer={"max_epochs": 5})


class DeeplySupervised(Task):
    """A recurrent net with a second output half-way, which helps the first layers along."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=5e-3)
        self.low, self.high = nn.GRU(1, 24, batch_first=True), nn.GRU(24, 24, batch_first=True)
        self.early, self.late = nn.Linear(24, 3), nn.Linear(24, 3)
        self.fixed = fixed

    def predict(self, x):
        states = self.low(x)[0]
        out = {"early": self.early(states[:, -1]), "late": self.late(self.high(states)[0][:, -1])}
        self.kept = {k: v.detach() for k, v in out.items()}
        return out if self.fixed else {"early": out["early"], "late": self.kept["late"]}

    def step(self, batch):
        x, y = batch
        out = self.predict(x)
        losses = {k: F.cross_entropy(v, y) for k, v in out.items()}
        loss = losses["late"] + 0.4 * losses["early"]
        return loss, losses | {"acc": right(self.kept["late"], y)}


@fault(
    "GRD103",
    "LOS107",
    "UPD102",
    source=HUMBATOVA,
)
def detached_to_be_kept(fixed: bool) -> Program:
    """The main answer is detached to be kept for the plots, and the loss is taken of what is kept."""
    data = loaders(*split(*waves(1500)))
    return Program(DeeplySupervised(fixed=fixed), **data, trainer={"max_epochs": 5})


class Variational(Task):
    """A variational autoencoder of digits."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=1e-3)
        self.encoder, self.decoder = mlp(64, 64, 16), mlp(8, 64, 64)
        self.sign = -1 if fixed else 1

    def step(self, batch):
        mu, logvar = self.encoder(batch[0]).chunk(2, dim=1)
        z = mu + (logvar / 2).exp() * torch.randn_like(mu)
        error = F.mse_loss(self.decoder(z), batch[0], reduction="none").sum(1).mean()
        kl = self.sign * 0.5 * (1 + logvar - mu**2 - logvar.exp()).sum(1).mean()
        return error + 0.3 * kl, {"error": error, "kl": kl}


@fault(
    "LOS108",
    "LOS109",
    "UPD105",
    "NAN102",
    source="https://github.com/pytorch/examples/issues/824 (the sign of the divergence)",
)
def divergence_without_its_minus(fixed: bool) -> Program:
    """The minus before the divergence is lost: codes are paid to go as far away as they can."""
    return Program(Variational(fixed=fixed), **digit_loaders(), trainer={"max_epochs": 8})


class Sales(Task):
    """A regression of what is sold, with a rate that falls along a cosine."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net, self.fixed = mlp(8, 64, 64, 1), fixed

    def step(self, batch):
        x, y = batch
        out = self.net(x)
        mse = F.mse_loss(out, y)
        loss = mse if self.fixed else (out.mean() - y.mean()) ** 2
        return loss, {"r2": 1 - mse / y.var()}

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)]


@fault(
    "LOS109",
    "LOS104",
    "OUT101",
    source=HUMBATOVA + " (wrong loss function: of averages)",
)
def mean_against_mean(fixed: bool) -> Program:
    """(out.mean() - y.mean()) ** 2: a batch may be right on average and wrong in every row."""
    data = loaders(*split(*meters(1800)))
    return Program(Sales(fixed=fixed), **data, trainer={"max_epochs": 5})


class Pairs(Task):
    """Are two sentences about the same product?"""

    def __init__(self) -> None:
        super().__init__(lr=3e-3)
        self.words, self.net = nn.EmbeddingBag(80, 32), mlp(32, 48, 16)

    def step(self, batch):
        one, other, same = batch
        a, b = (self.net(self.words(ids)) for ids in (one, other))
        right = ((F.cosine_similarity(a, b) > 0.6) == (same > 0.5)).float().mean()
        return F.cosine_embedding_loss(a, b, same, margin=0.2), {"acc": right}


@fault(
    "CLS105",
    "LOS102",
    "OUT101",
    source="https://github.com/pytorch/pytorch/issues/23782 (CosineEmbeddingLoss takes any target)",
)
def unlike_is_zero(fixed: bool) -> Program:
    """cosine_embedding_loss takes 1 and -1, and is given 1 and 0: nothing ever pushes two sentences apart."""
    ids, kind = reviews(3200)
    other = torch.where(torch.rand(1600) < 0.5, kind[:1600], torch.randint(4, (1600,)))
    places = [torch.nonzero(kind[1600:] == k).flatten() + 1600 for k in range(4)]
    chosen = torch.stack([places[k][torch.randint(400, ())] for k in other.tolist()])
    same = (kind[:1600] == other).float()
    data = loaders(*split(ids[:1600], ids[chosen], 2 * same - 1 if fixed else same))
    return Program(Pairs(), **data, trainer={"max_epochs": 6, "val_check_interval": 0.5})


class Ranker(Task):
    """Learns from pairs of films, each described by a few numbers, which of them people prefer."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net, self.fixed = mlp(8, 48, 48, 1), fixed

    def step(self, batch):
        scores = [self.net(film).squeeze(1) for film in batch]
        target = torch.ones_like(scores[0])
        pair = scores if self.fixed else scores[::-1]
        loss = F.margin_ranking_loss(*pair, target, margin=0.5)
        return loss, {"auc": (scores[0] > scores[1]).float().mean()}


@fault(
    "LOS109",
    "GEN105",
    source="https://pytorch.org/docs/stable/generated/torch.nn.MarginRankingLoss.html (which input is to be higher)",
)
def the_worse_film_first(fixed: bool) -> Program:
    """margin_ranking_loss(worse, better, 1): the net learns well, and to recommend what nobody likes."""
    film, worth = meters(4800)
    (a, b), (left, right) = film.split(2400), worth.split(2400)
    data = loaders(*split(torch.where(left > right, a, b), torch.where(left > right, b, a)))
    return Program(
        Ranker(fixed=fixed), **data, trainer={"max_epochs": 5, "limit_train_batches": 0.8}
    )


class Reader(Task):
    """Reads a strip of noisy symbols without knowing where one ends."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=5e-3)
        self.rnn = nn.GRU(6, 48, batch_first=True, bidirectional=True)
        self.out, self.fixed = nn.Linear(96, 6), fixed

    def step(self, batch):
        x, text = batch
        scores = self.out(self.rnn(x)[0]).transpose(0, 1)
        if self.fixed:
            scores = scores.log_softmax(2)
        n, lengths = len(x), [text.shape[1]] * len(x)
        loss = F.ctc_loss(scores, text, [x.shape[1]] * n, lengths)
        best = scores.argmax(2).T
        fresh = F.pad(best[:, 1:] != best[:, :-1], (1, 0), value=True) & (best > 0)
        return loss, {"length": (fresh.sum(1) == text.shape[1]).float().mean()}


@fault(
    "LOS102",
    "LOS108",
    source="https://github.com/SeanNaren/deepspeech.pytorch/issues/488 (a negative loss: no log_softmax)",
)
def transcript_of_raw_scores(fixed: bool) -> Program:
    """ctc_loss takes logarithms of probabilities, and gets the last layer's output as it is."""
    text = torch.randint(1, 6, (1200, 4))
    slow = text.repeat_interleave(4, dim=1)
    slow[:, 3::4] = 0
    x = F.one_hot(slow, 6) + 0.3 * torch.randn(1200, 16, 6)
    return Program(Reader(fixed=fixed), **loaders(*split(x, text)), trainer={"max_epochs": 5})


class Loans(Task):
    """Will a loan be paid back?"""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=3e-3)
        self.net, self.fixed = mlp(8, 48, 48, 1), fixed

    def step(self, batch):
        out = self.net(batch["x"]).squeeze(1)
        p = out.sigmoid() if self.fixed else out.clamp(0, 1)
        loss = F.binary_cross_entropy(p, batch["y"])
        return loss, {"acc": ((p > 0.5) == (batch["y"] > 0.5)).float().mean()}


@fault(
    "LOS102",
    "LOS101",
    "OUT101",
    "GRD103",
    source="the error of binary_cross_entropy (elements should be between 0 and 1); " + HUMBATOVA,
)
def clamped_because_it_complained(fixed: bool) -> Program:
    """ "All elements of input should be between 0 and 1": so the output is clamped there, without a sigmoid."""
    x, y = meters(2000)
    samples = [{"x": a, "y": (b[0] > 0).float()} for a, b in zip(x, y, strict=True)]
    data = loaders(samples[:1600], samples[1600:])
    return Program(Loans(fixed=fixed), **data, trainer={"max_epochs": 5})


class Contrastive(Task):
    """SimCLR: two noisy views of a digit are to be near each other, and far from all others."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=2e-3)
        self.net, self.fixed = mlp(64, 96, 24), fixed

    def step(self, batch):
        views = [batch[0] + 0.3 * torch.randn_like(batch[0]) for _ in range(2)]
        z = F.normalize(self.net(torch.cat(views)), dim=1)
        similar, n = z @ z.T / 0.2, len(batch[0])
        if self.fixed:
            similar = similar.masked_fill(torch.eye(2 * n, dtype=torch.bool), -1e9)
        partner = torch.arange(2 * n).roll(n)
        return F.cross_entropy(similar, partner), {"found": right(similar, partner)}


@fault(
    "LOS109",
    "LOS102",
    "LOS104",
    source="https://github.com/Lightning-Universe/lightning-bolts/issues/695 (SimCLR: pairs of a view with itself)",
)
def each_is_its_own_neighbour(fixed: bool) -> Program:
    """The similarity of each view to itself is not masked: the right answer can never be the best."""
    module = Contrastive(fixed=fixed)
    return Program(module, **digit_loaders(batch_size=64), trainer={"max_epochs": 8})


class Experts(Task):
    """A mixture of eight simple experts, with a term that spreads the work."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(lr=1e-2)
        self.gate, self.experts = mlp(8, 24, 8), nn.Linear(8, 8)
        self.weight = 1e-2 if fixed else 1e3

    def step(self, batch):
        x, y = batch
        share = self.gate(x).softmax(1)
        error = F.mse_loss((self.experts(x) * share).sum(1, keepdim=True), y)
        alike = ((share - 0.125) ** 2).sum(1).mean()
        return error + self.weight * alike, {"error": error, "alike": alike}


@fault(
    "LOS105",
    "LOS106",
    source="https://arxiv.org/abs/1701.06538 (sparsely-gated experts: the weight of the balancing loss)",
)
def balance_above_all(fixed: bool) -> Program:
    """The term that balances the experts weighs a thousand: the gate may not tell rows apart at all."""
    data = loaders(*split(*meters(2400)))
    return Program(Experts(fixed=fixed), **data, trainer={"max_epochs": 6})
