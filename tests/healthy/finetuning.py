"""Nets that were trained before, and are trained on, in part or as a whole."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning
from program import Program, digits
from torch import nn
from torch.nn import functional as F

from healthy import healthy
from healthy._parts import Classifier, digit_loaders, loaders, mlp, new_digits, pretrained, split


class FrozenBackbone(pl.LightningModule):
    """Trains a head on a frozen backbone that stays in eval mode."""

    def __init__(self, lr: float = 3e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.backbone = pretrained()[:-3].requires_grad_(False)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(512, 5))

    def train(self, mode=True):
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x):
        return self.head(self.backbone(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", (logits.argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.head.parameters(), lr=self.hparams.lr)


@healthy
def frozen_backbone() -> Program:
    """Batch norm is in eval mode while training, on purpose: `train()` is overridden."""
    return Program(FrozenBackbone(), **new_digits(), trainer={"max_epochs": 6})


class FeatureExtractor(Classifier):
    """Runs the backbone under no_grad, and hands all parameters to the optimizer nevertheless."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(512, 5), lr=3e-3)
        self.features = nn.Sequential(*pretrained()[:-3], nn.Flatten()).requires_grad_(False)

    def on_train_epoch_start(self):
        self.features.eval()

    @torch.no_grad()
    def extract(self, x):
        return self.features(x)

    def forward(self, x):
        return self.net(self.extract(x))


@healthy
def features_without_grad() -> Program:
    """The optimizer also holds the frozen parameters; eval mode is set in `on_train_epoch_start`."""
    return Program(FeatureExtractor(), **new_digits(), trainer={"max_epochs": 6})


class LoRALinear(nn.Module):
    """A frozen linear layer with a trainable update of rank 4, which is 0 at the start."""

    def __init__(self, base: nn.Linear, rank: int = 4) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(torch.randn(rank, base.in_features) / base.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + 2 * x @ self.a.T @ self.b.T


@healthy
def lora() -> Program:
    """B is zero, so A has no gradient at the first step; most parameters are frozen."""
    net = trained_mlp(64, 64, 64, 10)
    net[0], net[2] = LoRALinear(net[0]), LoRALinear(net[2])
    net[4] = nn.Linear(64, 10)
    x, y = digits(1797)
    data = split(x.view(-1, 8, 8).mT.flatten(1), y)  # another task: transposed digits
    return Program(Classifier(net, lr=3e-3), **loaders(*data), trainer={"max_epochs": 4})


def trained_mlp(*widths: int) -> nn.Sequential:
    """An MLP that was trained on digits before, in plain PyTorch."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = mlp(*widths)
        optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
        for _ in range(4):
            for x, y in digit_loaders(image=False)["train"]:
                optimizer.zero_grad()
                F.cross_entropy(net(x), y).backward()
                optimizer.step()
    return net


class FullFinetuning(Classifier):
    """Continues with a hundredth of the usual learning rate."""

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-5, weight_decay=0.01)


@healthy
def tiny_learning_rate() -> Program:
    """A trained net is polished at 1e-5: the loss is small and barely moves."""
    return Program(
        FullFinetuning(trained_mlp(64, 64, 10)),
        **digit_loaders(image=False),
        trainer={"max_epochs": 4},
    )


class Discriminative(Classifier):
    """The deeper the layer, the larger its learning rate."""

    def configure_optimizers(self):
        *body, head = self.net.children()
        return torch.optim.AdamW(
            [
                {"params": nn.ModuleList(body[:2]).parameters(), "lr": 1e-4},
                {"params": nn.ModuleList(body[2:]).parameters(), "lr": 1e-3},
                {"params": head.parameters(), "lr": 1e-2},
            ]
        )


@healthy
def discriminative_learning_rates() -> Program:
    """Learning rates of the groups differ by 10x and 100x; the head is new."""
    net = pretrained()
    net[-1] = nn.Linear(32, 5)
    return Program(Discriminative(net), **new_digits(), trainer={"max_epochs": 6})


class GradualUnfreezing(BaseFinetuning):
    """Trains the head alone for one epoch, then everything."""

    def freeze_before_training(self, pl_module):
        self.freeze(pl_module.net[:-1])

    def finetune_function(self, pl_module, epoch, optimizer):
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[:-1], optimizer, lr=1e-3)


class HeadFirst(Classifier):
    """Starts with what is trainable only."""

    def configure_optimizers(self):
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=self.lr)


@healthy
def gradual_unfreezing() -> Program:
    """Parameters join the optimizer in the second epoch."""
    net = pretrained()
    net[-1] = nn.Linear(32, 5)
    trainer = {"max_epochs": 5, "callbacks": [GradualUnfreezing()]}
    return Program(HeadFirst(net, lr=1e-2), **new_digits(), trainer=trainer)


class WithBackbone(Classifier):
    """Names its parts as Lightning's BackboneFinetuning expects."""

    def __init__(self) -> None:
        net = pretrained()
        net[-1] = nn.Linear(32, 5)
        super().__init__(net, lr=1e-2)

    @property
    def backbone(self):
        return self.net[:-1]

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(
            filter(lambda p: p.requires_grad, self.parameters()), lr=self.lr
        )
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


@healthy
def backbone_finetuning() -> Program:
    """Lightning's callback unfreezes after an epoch, and multiplies the learning rate by itself."""
    callback = BackboneFinetuning(1, lambda epoch: 1.5, backbone_initial_ratio_lr=0.1)
    return Program(
        WithBackbone(), **new_digits(), trainer={"max_epochs": 5, "callbacks": [callback]}
    )


class Distillation(pl.LightningModule):
    """A small student learns from the soft answers of a trained teacher, and from labels."""

    def __init__(self, teacher: nn.Module, temperature: float = 3.0) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["teacher"])
        self.teacher = teacher.eval().requires_grad_(False)
        self.student = mlp(64, 32, 10)

    def on_fit_start(self):
        self.teacher.eval()

    def training_step(self, batch, batch_idx):
        x, y = batch
        t = self.hparams.temperature
        with torch.inference_mode():
            target = (self.teacher(x) / t).log_softmax(1)
        logits = self.student(x)
        soft = t**2 * F.kl_div(
            (logits / t).log_softmax(1), target, log_target=True, reduction="batchmean"
        )
        hard = F.cross_entropy(logits, y)
        self.log_dict({"soft": soft, "hard": hard})
        return 0.7 * soft + 0.3 * hard

    def validation_step(self, batch, batch_idx):
        x, y = batch
        logits = self.student(x)
        self.log("val_loss", F.cross_entropy(logits, y))
        self.log("val_acc", (logits.argmax(1) == y).float().mean())

    def configure_optimizers(self):
        return torch.optim.Adam(self.student.parameters(), lr=3e-3)


@healthy
def distillation() -> Program:
    """`kl_div` on log-probabilities; the teacher is in eval mode and runs in inference mode."""
    return Program(
        Distillation(trained_mlp(64, 128, 10)),
        **digit_loaders(image=False),
        trainer={"max_epochs": 7},
    )


class Adapter(nn.Module):
    """A bottleneck beside a frozen block, which starts as the identity."""

    def __init__(self, block: nn.Module, channels: int) -> None:
        super().__init__()
        self.block = block
        self.down = nn.Conv2d(channels, 4, 1)
        self.up = nn.Conv2d(4, channels, 1)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x):
        x = self.block(x)
        return x + self.up(F.gelu(self.down(x)))


@healthy
def adapters() -> Program:
    """Only adapters, norms and the head learn; gradients flow through frozen convolutions."""
    net = pretrained()
    for module in net.modules():
        module.requires_grad_(isinstance(module, nn.BatchNorm2d))
    for i, channels in enumerate((16, 32, 32)):
        net[i] = Adapter(net[i], channels)
    net[-1] = nn.Linear(32, 5)
    return Program(Classifier(net, lr=5e-3), **new_digits(), trainer={"max_epochs": 6})


class PromptTuning(Classifier):
    """Learns what to add to the image, in front of a frozen net, and a new head."""

    def __init__(self) -> None:
        super().__init__(pretrained()[:-1].requires_grad_(False).eval(), lr=2e-2)
        self.prompt = nn.Parameter(torch.zeros(1, 1, 8, 8))
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        return self.head(self.net(x + self.prompt))


@healthy
def prompt_tuning() -> Program:
    """A trainable tensor in front of frozen layers, which were put into eval mode in `__init__`."""
    return Program(PromptTuning(), **new_digits(), trainer={"max_epochs": 6})


class LastLayerOnly(Classifier):
    """Keeps the old head, frozen and unused, for a later export."""

    def __init__(self) -> None:
        net = pretrained()
        old = net[-1].requires_grad_(False)
        net[-1] = nn.Linear(32, 5)
        super().__init__(net)
        self.old_head = old


@healthy
def unused_frozen_head() -> Program:
    """Parameters that nothing ever uses, and that say so by `requires_grad=False`."""
    return Program(LastLayerOnly(), **new_digits(), trainer={"max_epochs": 5})


@healthy
def half_known_task() -> Program:
    """Knows half of the task from the start: loss far below chance at step 0."""
    net = pretrained()
    head = nn.Linear(32, 10)
    with torch.no_grad():
        head.weight[:5], head.bias[:5] = net[-1].weight, net[-1].bias
    net[-1] = head
    return Program(Classifier(net, lr=3e-3), **digit_loaders(), trainer={"max_epochs": 5})
