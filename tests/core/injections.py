"""Ways to make a NaN, and healthy look-alikes; ``# here`` marks the line that is to be named."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins import MixedPrecision
from torch import nn
from torch.utils.checkpoint import checkpoint

INF, NAN = math.inf, math.nan


@dataclass(frozen=True)
class Injection:
    """A module, a batch, and what the tracer has to say of them."""

    build: Callable[[], tuple[pl.LightningModule, Any]]
    op: str | tuple[str, ...] | None  # None: healthy
    kind: str
    name: str | None
    submodule: str
    line: int | None
    contributor: str | None = None
    trainer: dict[str, Any] = field(default_factory=dict)
    batches: int = 1


INJECTIONS: dict[str, Injection] = {}
HEALTHY: dict[str, Injection] = {}


def _tagged(function: Callable) -> int | None:
    lines, first = inspect.getsourcelines(function)
    found = [first + i for i, text in enumerate(lines) if text.rstrip().endswith("# here")]
    return found[0] if found else None


def inject(
    op: str | tuple[str, ...] | None,
    kind: str = "forward",
    *,
    name: str | None = None,
    submodule: str = "",
    contributor: str | None = None,
    batches: int = 1,
    trainer: Callable[[], dict[str, Any]] | None = None,
):
    """Registers a function that builds module and batch, or a loss ``(z, y)`` of 16 x 4 logits."""

    def register(function: Callable) -> Callable:
        def build() -> tuple[pl.LightningModule, Any]:
            if "z" in inspect.signature(function).parameters:
                return Classifier(function), labelled()
            return function()

        zoo = INJECTIONS if op else HEALTHY
        zoo[function.__name__] = Injection(
            build, op, kind, name, submodule, _tagged(function), contributor,
            trainer() if trainer else {}, batches,
        )  # fmt: skip
        return function

    return register


def healthy(**options: Any):
    return inject(None, **options)


def labelled(size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, 8, generator=generator)
    return x, torch.randint(0, 4, (size,), generator=generator)


class Module(pl.LightningModule):
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


class Classifier(Module):
    def __init__(self, loss: Callable) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        self.loss = loss

    def training_step(self, batch, batch_idx):
        x, y = batch
        return self.loss(self.net(x), y)


class Step(Module):
    """A module of these children, whose step is the given function."""

    def __init__(self, step: Callable, **children: nn.Module) -> None:
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)
        self.step = step

    def training_step(self, batch, batch_idx):
        return self.step(self, batch, batch_idx)


def fp16(scale: float) -> dict[str, Any]:
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler=scaler)]}


# --- one operation at its singular point, forward


@inject("log")
def log_of_zero(z, y):
    p = torch.relu(z)
    return -torch.log(p).mean()  # here


@inject("log")
def log_of_negative(z, y):
    return z.log().sum()  # here


@inject("log2")
def entropy_in_bits(z, y):
    p = (z * 1000).softmax(1)
    bits = torch.log2(p)  # here
    return -(p * bits).sum(1).mean()


@inject("log1p")
def log1p_of_minus_one(z, y):
    return torch.log1p(-torch.sigmoid(z * 1000)).mean()  # here


@inject("log")
def binary_cross_entropy_by_hand(z, y):
    p, t = torch.sigmoid(z * 1000), F.one_hot(y, 4)
    return -(t * (p + 1e-3).log() + (1 - t) * (1 - p).log()).mean()  # here


@inject("div")
def division_by_zero(z, y):
    weight = torch.relu(z)
    ratio = z / weight  # here
    return ratio.mean()


@inject("div")
def normalized_zero_vector(z, y):
    z = z * 0
    unit = z / z.pow(2).sum(1, keepdim=True)  # here
    return unit.mean()


@inject("reciprocal")
def reciprocal_of_zero(z, y):
    return (1.0 / torch.relu(z)).mean()  # here


@inject("rsqrt")
def rsqrt_of_zero(z, y):
    return torch.relu(z).rsqrt().mean()  # here


@inject("sqrt")
def sqrt_of_negative(z, y):
    variance = z.pow(2).mean(0) - 3.0
    return variance.sqrt().sum()  # here


@inject("exp")
def exp_overflow(z, y):
    e = torch.exp(z.abs() * 1000)  # here
    return (e / e.sum(1, keepdim=True)).mean()


@inject("exp")
def gaussian_likelihood(z, y):
    variance = torch.exp(-500 * z[:, 1].abs() - 50 + 100 * z[:, 1].abs()).mean() * 0
    precision = torch.exp(200 + z[:, 1].abs())  # here
    return (precision * (z[:, 0] - y).pow(2) - 1).mean() + variance


@inject("sinh")
def sinh_overflow(z, y):
    s = torch.sinh(200 + z.abs())  # here
    return (s / s).mean()


@inject("pow")
def power_overflow(z, y):
    p = (z.abs() * 1e10 + 1e10) ** 5  # here
    return (p - p.mean()).mean()


@inject("pow")
def power_of_negative_base(z, y):
    return (z**1.5).mean()  # here


@inject("acos")
def acos_beyond_one(z, y):
    cosine = 1.5 + z.abs()
    return torch.acos(cosine).mean()  # here


@inject("atanh")
def atanh_at_one(z, y):
    return torch.atanh(torch.tanh(z * 1000)).mean()  # here


@inject("erfinv")
def erfinv_at_one(z, y):
    return torch.erfinv(torch.sign(z.abs())).mean()  # here


@inject("logit")
def logit_at_one(z, y):
    return torch.logit(torch.sigmoid(z * 1000)).mean()  # here


@inject("digamma")
def digamma_of_zero(z, y):
    return torch.digamma(torch.relu(z)).mean()  # here


@inject("mul")
def zero_times_infinity(z, y):
    keep = (z.sum(1, keepdim=True) > 100).float()
    bias = (1 - keep) * INF * 0 + keep * z  # here
    return bias.mean()


@inject("mul")
def mask_by_multiplication(z, y):
    keep = F.one_hot(y, 4).float()
    scores = z + (1 - keep) * -INF  # here
    return scores.softmax(1).pow(2).mean()


@inject("sub", contributor="full")
def infinity_minus_infinity(z, y):
    far = torch.full((16, 4), INF)
    gap = far - far  # here
    return (z * gap).mean()


@inject("var")
def variance_of_one_sample(z, y):
    return (z[:1] / z[:1].var(0)).mean()  # here


@inject("std")
def std_of_one_sample(z, y):
    one = z[:1]
    return ((one - one.mean(0)) / (one.std(0) + 1e-6)).mean()  # here


@inject("mean")
def mean_of_nothing(z, y):
    missing = z[y == 99]
    return F.cross_entropy(z, y) + missing.mean()  # here


@inject("nll_loss_forward")
def all_labels_ignored(z, y):
    return F.cross_entropy(z, torch.full_like(y, -100))  # here


@inject("masked_fill", "constant")
def label_is_masked(z, y):
    z = z.masked_fill(F.one_hot(y, 4).bool(), -INF)  # here
    return F.cross_entropy(z, y)


# --- narrow formats


@inject("mul")
def half_product(z, y):
    h = (z * 3000).half()
    v = h * h  # here
    return (v.float() - v.float().mean()).mean()


@inject("_to_copy")
def half_cast(z, y):
    return F.cross_entropy((z * 3e6).half().float(), y)  # here


@inject("sum")
def half_sum(z, y):
    h = (z.abs() + 10).half() * 1000
    total = h.sum()  # here
    return total.float() / 64


@inject("mul")
def bfloat16_product(z, y):
    h = (z.abs() + 1).bfloat16() * 1e30
    v = h * 1e10  # here
    return (v / v).float().mean()


@inject("pow")
def float32_square(z, y):
    v = (z * 1e25).square()  # here
    return (v / v.sum()).mean()


@inject("cumprod")
def float32_cumprod(z, y):
    c = torch.cumprod(z.abs() * 1e15 + 1e15, 1)  # here
    return (c / c).mean()


@inject("mm")
def float32_matmul(z, y):
    similarity = (z * 1e20) @ (z * 1e20).T  # here
    return similarity.softmax(1).mean()


@inject(("mul", "bmm"))
def float32_einsum(z, y):
    a = torch.einsum("bi,bj->bij", z * 1e25, z * 1e25)  # here
    return (a - a.mean()).mean()


# --- where values go


@inject("div_")
def in_place_division(z, y):
    z = z * 1
    z.div_(torch.relu(z))  # here
    z.mul_(2).add_(1)
    return z.mean()


@inject("log")
def assigned_to_a_slice(z, y):
    out = torch.zeros(16, 4)
    out[:, :2] = z[:, :2]
    out[3, 2:] = torch.log(z[3, 2:] * 0)  # here
    return out.mean()


@inject("log")
def put_at_an_index(z, y):
    out = torch.zeros(16)
    rows = torch.tensor([1, 5, 7])
    out[rows] = (z[rows, 0] * 0).log()  # here
    return out.mean()


@inject("log")
def target_without_gradient(z, y):
    with torch.no_grad():
        target = torch.log(torch.relu(z))  # here
    return F.mse_loss(z, target)


@inject("log")
def mapped_over_samples(z, y):
    return torch.vmap(lambda v: torch.log(v.abs() * (v > 0)).sum())(z).mean()  # here


@inject("exp")
def several_lines(z, y):
    return torch.log(
        torch.sum(
            torch.exp(  # here
                z.abs() * 1000,
            ),
            1,
        )
    ).mean()


@inject("empty")
def uninitialized_memory(z, y):
    torch.use_deterministic_algorithms(True)  # fills empty memory with NaN
    try:
        out = torch.empty(16, 4)  # here
    finally:
        torch.use_deterministic_algorithms(False)
    out[:, :3] = z[:, :3]
    return out.mean()


@inject("log", batches=1)
def freed_memory_is_used_again(z, y):
    for _ in range(20):
        legitimate = torch.log(torch.relu(z.detach()))
        del legitimate
        torch.from_numpy(np.zeros((16, 4), dtype=np.float32)).mul(2)
    return torch.log(torch.relu(z) * 2).mean()  # here


# --- attention


@inject("_softmax", contributor="masked_fill")
def fully_masked_softmax(z, y):
    mask = torch.zeros(16, 4, dtype=torch.bool)
    mask[2] = True
    a = z.masked_fill(mask, -INF)
    return a.softmax(-1).pow(2).mean()  # here


@inject("sub", contributor="masked_fill")
def mask_minus_its_maximum(z, y):
    bias = torch.zeros(16, 4).masked_fill(F.one_hot(y, 4).bool() | (y == 0)[:, None], -INF)
    bias = bias - bias.amax(1, keepdim=True)  # here
    return (z + bias).softmax(1).pow(2).mean()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)

    def forward(self, x, mask):
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(-1, -2) / math.sqrt(8)
        scores = scores.masked_fill(mask[:, None, :], -INF)
        return scores.softmax(-1) @ v


def sequences(padded: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(4, 5, dtype=torch.bool)
    mask[1, 3:] = True
    mask[2] = padded
    return x, mask


@inject("_softmax", submodule="layers.0", contributor="masked_fill")
def fully_padded_attention():
    class Own(Attention):
        def forward(self, x, mask):
            q, k, v = self.qkv(x).chunk(3, -1)
            scores = q @ k.transpose(-1, -2) / math.sqrt(8)
            scores = scores.masked_fill(mask[:, None, :], -INF)
            return scores.softmax(-1) @ v  # here

    def step(self, batch, batch_idx):
        return self.layers[0](*batch).pow(2).mean()

    return Step(step, layers=nn.ModuleList([Own()])), sequences()


@inject("_softmax", submodule="mha", contributor="masked_fill_")
def fully_padded_multihead_attention():
    def step(self, batch, batch_idx):
        x, mask = batch
        out, _ = self.mha(x, x, x, key_padding_mask=mask)  # here
        return out.pow(2).mean()

    return Step(step, mha=nn.MultiheadAttention(8, 2, batch_first=True)), sequences()


@inject("_softmax", submodule="", contributor="add")
def mask_of_the_batch_hides_all():
    def step(self, batch, batch_idx):
        x, mask = batch
        return (self.net(x) + mask).softmax(1).pow(2).mean()  # here

    mask = torch.zeros(16, 4)
    mask[3] = -INF
    return Step(step, net=nn.Linear(8, 4)), (labelled()[0], mask)


# --- backward


@inject("div", "backward")
def sqrt_at_zero(z, y):
    d = torch.relu(z).sum(1) * 0
    return d.sqrt().mean() + z.mean()  # here


@inject(("div", "mul"), "backward")
def norm_at_zero(z, y):
    d = z - z.detach()
    return torch.sqrt((d * d).sum(1)).mean()  # here


@inject("div", "backward")
def pairwise_distances(z, y):
    d = (z[:, None] - z[None]).pow(2).sum(-1).sqrt()  # here
    return d.mean()


@inject("div", "backward")
def hypot_at_zero(z, y):
    z = z * (z > 9)
    return torch.hypot(z[:, 0], z[:, 1]).mean()  # here


@inject("rsqrt", "backward")
def acos_at_one(z, y):
    cosine = torch.ones(16, 4) + z * 0
    return torch.acos(cosine).mean()  # here


@inject("rsqrt", "backward")
def asin_at_one(z, y):
    return torch.asin(z.sign() + z * 0).mean()  # here


@inject("pow", "backward")
def power_at_zero(z, y):
    p = z.abs() * (z > 0)
    return p.pow(0.5).mean()  # here


@inject("pow", "backward")
def focal_loss(z, y):
    p = (z * 1000).softmax(1)[:, 1]
    return (-((1 - p) ** 0.5) * (p + 1e-6).log()).mean()  # here


@inject("div", "backward")
def where_trap_of_log(z, y):
    z = z.abs() * (z > 0)
    log = torch.log(z)  # here
    return torch.where(z > 0, log, 0.0).mean()


@inject("div", "backward")
def where_trap_of_division(z, y):
    z = z.abs() * (z > 0)
    quotient = (y[:, None] + 1.0) / z  # here
    return torch.where(z > 0, quotient, 0.0).clamp(max=10).mean()


@inject("exp")
def where_trap_of_exp(z, y):
    e = torch.exp(z * 1000)  # here
    return torch.where(z > 0, 0.0, e).mean()


@inject("div", "backward")
def where_trap_of_sqrt(z, y):
    root = (z.abs() * (z > 0)).sqrt()  # here
    return torch.where(z > 0, root, z).mean()


@inject("div", "backward")
def logsumexp_by_hand(z, y):
    z = z + torch.zeros(16, 1).masked_fill((y == 0)[:, None], -INF)
    lse = z.exp().sum(1).log()  # here
    return torch.where(lse.isinf(), 0.0, lse).mean()


@inject("_to_copy", "backward")
def gradient_cast_to_half(z, y):
    h = z.half()
    return (h.float() * 1e8).mean()  # here


@inject("div", "backward", submodule="net.2")
def hook_on_a_tensor(z, y):
    def hook(gradient):
        return gradient / (gradient * 0)  # here

    z.register_hook(hook)
    return F.cross_entropy(z, y)


class LogOfZero(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.log(x.abs() * 0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


@inject("log")
def custom_forward():
    class Function(LogOfZero):
        @staticmethod
        def forward(ctx, x):
            return torch.log(x.abs() * 0)  # here

    return Classifier(lambda z, y: Function.apply(z).mean()), labelled()


@inject("div", "backward")
def custom_backward():
    class Function(LogOfZero):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.abs()

        @staticmethod
        def backward(ctx, gradient):
            (x,) = ctx.saved_tensors
            positive = torch.relu(x)
            return gradient * x / positive  # here

    return Classifier(lambda z, y: Function.apply(z).mean()), labelled()


@inject("div", "backward")
def gradient_penalty():
    def step(self, batch, batch_idx):
        x = batch[0].clone().requires_grad_()
        (g,) = torch.autograd.grad(self.net(x).sum() * 0, x, create_graph=True)
        penalty = g.pow(2).sum(1).sqrt()  # here
        return (penalty - 1).pow(2).mean()

    net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
    return Step(step, net=net), labelled()


# --- modules


@inject("log", submodule="head.inner")
def in_a_submodule():
    class Log(nn.Module):
        def forward(self, x):
            return torch.log(torch.relu(x))  # here

    head = nn.Module()
    head.inner = Log()
    return Step(
        lambda self, batch, _: self.head.inner(self.net(batch[0])).mean(),
        net=nn.Linear(8, 4),
        head=head,
    ), labelled()


@inject("div", submodule="norm")
def normalization_by_hand():
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(4))

        def forward(self, h):
            mean, variance = h.mean(0), h.var(0, unbiased=False)
            with torch.no_grad():
                self.mean.lerp_(mean, 0.1)
            return (h - mean) / variance.sqrt()  # here

    x, y = labelled()
    net = nn.Sequential(nn.Linear(8, 4))
    return Step(
        lambda self, b, _: F.cross_entropy(self.norm(self.net(b[0])), b[1]), net=net, norm=Norm()
    ), (x * 0, y)


@inject("native_layer_norm", submodule="norm")
def layer_norm_without_epsilon():
    def step(self, batch, batch_idx):
        return self.norm(self.net(batch[0]) * 0).mean()  # here

    return Step(step, net=nn.Linear(8, 8), norm=nn.LayerNorm(8, eps=0.0)), labelled()


@inject("convolution", submodule="net")
def convolution_overflow():
    def step(self, batch, batch_idx):
        h = self.net(batch[0][:, None] * 1e37)  # here
        return (h - h.mean()).mean()

    net = nn.Conv1d(1, 2, 3)
    nn.init.constant_(net.weight, 100.0)
    return Step(step, net=net), labelled()


@inject("mm")
def recurrence_overflow():
    def step(self, batch, batch_idx):
        h = batch[0]
        for _ in range(60):
            h = h @ self.net.weight  # here
        return (h - h.mean()).mean()

    net = nn.Linear(8, 8)
    nn.init.eye_(net.weight).data.mul_(30)
    return Step(step, net=net), labelled()


@inject(("mm", "addmm", "add"), submodule="rnn")
def rnn_overflow():
    def step(self, batch, batch_idx):
        out, _ = self.rnn(batch[0])  # here
        return (out - out.mean()).mean()

    rnn = nn.RNN(8, 8, nonlinearity="relu")
    for weight in rnn.parameters():
        nn.init.constant_(weight, 50.0)
    return Step(step, rnn=rnn), (torch.rand(60, 3, 8),)


@inject(("mul", "pow", "div"))
def depends_on_dropout():
    def step(self, batch, batch_idx):
        keep = self.drop(torch.ones(16, 4))
        ratio = self.net(batch[0]) / keep  # here
        return ratio.mean()

    return Step(step, net=nn.Linear(8, 4), drop=nn.Dropout(0.5)), labelled()


@inject("mm")
def diverged_weights():
    def step(self, batch, batch_idx):
        h = self.a(batch[0])
        h = h @ self.b.weight  # here
        return (h - h.mean()).mean()

    a, b = nn.Linear(8, 8), nn.Linear(8, 8)
    nn.init.constant_(a.weight, 1e25)
    nn.init.constant_(b.weight, 1e25)
    return Step(step, a=a, b=b), labelled()


# --- what was there before the step


@inject("sub", "input", name="batch[0]")
def nan_in_the_batch():
    def step(self, batch, batch_idx):
        x, y = batch
        x = (x - 1.0) / 2.0  # here
        return F.cross_entropy(self.net(x), y)

    x, y = labelled()
    x[3, 2] = NAN
    return Step(step, net=nn.Linear(8, 4)), (x, y)


@inject("addmm", "input", name="batch['features']['x']", submodule="net")
def infinity_in_the_batch():
    def step(self, batch, batch_idx):
        z = self.net(batch["features"]["x"])  # here
        return F.cross_entropy(z, batch["y"])

    x, y = labelled()
    x[3, 2] = INF
    return Step(step, net=nn.Linear(8, 4)), {"features": {"x": x}, "y": y}


@inject("addmm", "input", name="batch[0]", submodule="net")
def log_of_zero_in_the_data():
    def step(self, batch, batch_idx):
        z = self.net(batch[0])  # here
        return F.cross_entropy(z, batch[1])

    x, y = labelled()
    return Step(step, net=nn.Linear(8, 4)), (torch.log(torch.relu(x)), y)


@inject("mse_loss", "input", name="batch[1]['target']")
def nan_in_the_target():
    def step(self, batch, batch_idx):
        return F.mse_loss(self.net(batch[0]), batch[1]["target"])  # here

    target = torch.zeros(16, 4)
    target[1, 1] = NAN
    return Step(step, net=nn.Linear(8, 4)), [labelled()[0], {"target": target}]


@inject(("mkldnn_rnn_layer", "lstm", "mm", "addmm"), "input", name="batch[1][0]", submodule="lstm")
def nan_in_the_hidden_state():
    def step(self, batch, batch_idx):
        out, _ = self.lstm(batch[0], batch[1])  # here
        return out.pow(2).mean()

    h = torch.zeros(1, 3, 8)
    h[0, 1, 1] = NAN
    return Step(step, lstm=nn.LSTM(8, 8)), [torch.randn(5, 3, 8), (h, torch.zeros(1, 3, 8))]


@inject("addmm", "parameter", name="net.weight", submodule="net")
def infinite_parameter():
    def step(self, batch, batch_idx):
        return F.cross_entropy(self.net(batch[0]), batch[1])  # here

    net = nn.Linear(8, 4)
    net.weight.data[1, 3] = INF
    return Step(step, net=net), labelled()


@inject("embedding", "parameter", name="table.weight", submodule="table")
def nan_row_of_an_embedding():
    def step(self, batch, batch_idx):
        return F.cross_entropy(self.net(self.table(batch[1])), batch[1])  # here

    table = nn.Embedding(4, 8)
    table.weight.data[2] = NAN
    return Step(step, table=table, net=nn.Linear(8, 4)), labelled()


@inject("mul", "buffer", name="scale.value")
def nan_in_a_buffer():
    def step(self, batch, batch_idx):
        z = self.net(batch[0]) * self.scale.value  # here
        return F.cross_entropy(z, batch[1])

    scale = nn.Module()
    scale.register_buffer("value", torch.tensor([1.0, NAN, 1.0, 1.0]))
    return Step(step, net=nn.Linear(8, 4), scale=scale), labelled()


@inject("mul", "outside")
def nan_in_an_attribute():
    def step(self, batch, batch_idx):
        z = self.net(batch[0]) * self.weights  # here
        return F.cross_entropy(z, batch[1])

    module = Step(step, net=nn.Linear(8, 4))
    module.weights = torch.tensor([1.0, NAN, 1.0, 1.0])
    return module, labelled()


@inject(("lift_fresh", "detach", "mul"), "outside")
def made_by_numpy(z, y):
    with np.errstate(all="ignore"):
        a = np.log(np.zeros(4, dtype=np.float32)) * 0
    w = torch.from_numpy(a)  # here
    return F.cross_entropy(z * w, y)


@inject("full", "constant")
def nan_in_the_code(z, y):
    score = torch.full((16, 4), NAN)  # here
    return (score + z).mean()


# --- buffers that the step spoils itself


@inject("log")
def spoils_running_statistics():
    def step(self, batch, batch_idx):
        h = self.norm(self.net(batch[0]))
        z = torch.log(torch.relu(h))  # here
        z = self.late(z)
        return z.mean()

    return Step(
        step, net=nn.Linear(8, 4), norm=nn.BatchNorm1d(4), late=nn.BatchNorm1d(4)
    ), labelled()


@inject("log")
def spoils_its_own_normalizer():
    def step(self, batch, batch_idx):
        h = torch.log(torch.relu(self.net(batch[0])))  # here
        with torch.no_grad():
            self.norm.scale.mul_(0.9).add_(0.1 * h.mean())
        return (h / self.norm.scale).mean()

    norm = nn.Module()
    norm.register_buffer("scale", torch.ones(()))
    return Step(step, net=nn.Linear(8, 4), norm=norm), labelled()


# --- ways to run a step


def _checkpointed(function: Callable, reentrant: bool) -> pl.LightningModule:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            return function(self.layer(x))

    def step(self, batch, batch_idx):
        h = self.pre(batch[0])
        h = checkpoint(self.block, h, use_reentrant=reentrant)
        return F.cross_entropy(self.head(h), batch[1])

    return Step(step, pre=nn.Linear(8, 8), block=Block(), head=nn.Linear(8, 4))


@inject("log", submodule="block")
def checkpoint_forward():
    def function(h):
        return torch.log(torch.relu(h))  # here

    return _checkpointed(function, False), labelled()


@inject("log", submodule="block")
def reentrant_checkpoint_forward():
    def function(h):
        return torch.log(torch.relu(h))  # here

    return _checkpointed(function, True), labelled()


@inject("div", "backward", submodule="block")
def checkpoint_backward():
    def function(h):
        return torch.sqrt(h.abs() * (h > 0))  # here

    return _checkpointed(function, False), labelled()


@inject("div", "backward", submodule="block")
def reentrant_checkpoint_backward():
    def function(h):
        return torch.sqrt(h.abs() * (h > 0))  # here

    return _checkpointed(function, True), labelled()


@inject(("addmm", "_to_copy"), submodule="a")
def autocast_to_half():
    def step(self, batch, batch_idx):
        with torch.autocast("cpu", dtype=torch.float16):
            h = self.a(batch[0])
            h = self.a(h)  # here
        return F.cross_entropy(h.float(), torch.zeros(16, dtype=torch.long))

    a = nn.Linear(8, 8)
    a.weight.data.mul_(3000)
    return Step(step, a=a), labelled()


@inject("exp", trainer=lambda: {"precision": "bf16-mixed"})
def bfloat16_mixed(z, y):
    e = torch.exp(z.abs() * 1e4)  # here
    return (e / e.sum()).mean()


@inject("addmm", submodule="b", trainer=lambda: fp16(1024.0))
def half_mixed():
    def step(self, batch, batch_idx):
        h = self.b(self.a(batch[0]))  # here
        return F.cross_entropy(h.float(), torch.zeros(16, dtype=torch.long))

    a, b = nn.Linear(8, 8), nn.Linear(8, 8)
    a.weight.data.mul_(1000)
    b.weight.data.mul_(1000)
    return Step(step, a=a, b=b), labelled()


@inject("div", "backward", trainer=lambda: fp16(1024.0))
def half_mixed_backward(z, y):
    return (z.float().abs() * (z > 0)).sqrt().mean()  # here


@inject("log", batches=4, trainer=lambda: {"accumulate_grad_batches": 4})
def accumulated():
    def step(self, batch, batch_idx):
        z = self.net(batch[0])
        if batch_idx == 2:
            z = torch.log(torch.relu(z))  # here
        return z.mean()

    return Step(step, net=nn.Linear(8, 4)), labelled()


class Gan(pl.LightningModule):
    def __init__(self, generate: Callable) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.g, self.d = nn.Linear(4, 8), nn.Linear(8, 1)
        self.generate = generate

    def training_step(self, batch, batch_idx):
        real, _ = batch
        g, d = self.optimizers()
        noise = torch.randn(len(real), 4)
        self.toggle_optimizer(d)
        fake = self.d(self.g(noise).detach())
        self.manual_backward(F.softplus(fake).mean() + F.softplus(-self.d(real)).mean())
        d.step()
        d.zero_grad()
        self.untoggle_optimizer(d)
        self.toggle_optimizer(g)
        self.manual_backward(self.generate(self.d(self.g(noise))))
        g.step()
        g.zero_grad()
        self.untoggle_optimizer(g)

    def configure_optimizers(self):
        return torch.optim.Adam(self.g.parameters()), torch.optim.Adam(self.d.parameters())


@inject("log")
def manual_optimization():
    def generate(score):
        return -torch.log(torch.sigmoid(score * 1e5)).mean()  # here

    return Gan(generate), labelled()


@inject("div", "backward")
def manual_optimization_backward():
    def generate(score):
        return (score - score.detach()).abs().sqrt().mean()  # here

    return Gan(generate), labelled()


@inject("log")
def manual_optimization_with_closure():
    class Closure(Gan):
        def training_step(self, batch, batch_idx):
            _, d = self.optimizers()

            def closure():
                d.zero_grad()
                loss = torch.log(self.d(batch[0]) * 0).mean()  # here
                self.manual_backward(loss)

            d.step(closure=closure)

    return Closure(None), labelled()


@inject("log", submodule="sub")
def compiled_submodule():
    class Sub(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            h = torch.relu(self.layer(x))
            return torch.log(h)  # here

    def step(self, batch, batch_idx):
        return self.sub(batch[0]).mean()

    return Step(step, sub=torch.compile(Sub(), backend="aot_eager")), labelled()


@inject("div", "backward", submodule="sub")
def module_compiled_in_place():
    class Sub(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)

        def forward(self, x):
            return (self.layer(x) * 0).sqrt()  # here

    def step(self, batch, batch_idx):
        return self.sub(batch[0]).mean()

    sub = Sub()
    sub.compile(backend="aot_eager")
    return Step(step, sub=sub), labelled()


@inject("div")
def compiled_function():
    def ratio(z):
        return z / torch.relu(z)  # here

    compiled = torch.compile(ratio, backend="aot_eager")
    return Classifier(lambda z, y: compiled(z).mean()), labelled()


@inject("div", batches=8)
def depends_on_a_counter():
    def step(self, batch, batch_idx):
        self.calls += 1
        return self.net(batch[0]).mean() / torch.tensor(float(self.calls != 5))  # here

    module = Step(step, net=nn.Linear(8, 4))
    module.calls = 0
    return module, labelled()


@inject("div", batches=40)
def depends_on_a_generator():
    def step(self, batch, batch_idx):
        luck = torch.rand((), generator=self.generator) > 0.2
        return self.net(batch[0]).mean() / luck  # here

    module = Step(step, net=nn.Linear(8, 4))
    module.generator = torch.Generator().manual_seed(3)
    return module, labelled()


@inject("div", batches=40)
def depends_on_numpy():
    def step(self, batch, batch_idx):
        luck = torch.tensor(float(np.random.rand() > 0.2))  # noqa: NPY002
        return self.net(batch[0]).mean() / luck  # here

    return Step(step, net=nn.Linear(8, 4)), labelled()


@inject("log")
def causal_mask_is_innocent():
    def step(self, batch, batch_idx):
        q, k, v = self.qkv(batch[0]).chunk(3, -1)
        a = q @ k.transpose(-1, -2) + torch.full((5, 5), -INF).triu(1)
        p = torch.relu(a.softmax(-1) @ v)
        return -p.log().mean()  # here

    return Step(step, qkv=nn.Linear(8, 24)), sequences()


@inject("sqrt")
def infinite_distance_is_innocent(z, y):
    d = torch.cdist(z, z.detach() + 0.1) + torch.diag(torch.full((16,), INF))
    return d.min(1).values.mean() + (z - 3).sqrt().mean()  # here


# --- healthy: infinities that are meant, and singular points that PyTorch takes care of


@healthy()
def causal_mask(z, y):
    a = z @ z.T
    a = a.masked_fill(torch.ones(16, 16).triu(1).bool(), -INF)
    return (a.softmax(1) @ z).pow(2).mean()


@healthy()
def causal_mask_in_a_buffer():
    def step(self, batch, batch_idx):
        q, k, v = self.qkv(batch[0]).chunk(3, -1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask.value)
        return out.pow(2).mean()

    mask = nn.Module()
    mask.register_buffer("value", torch.full((5, 5), -INF).triu(1))
    return Step(step, qkv=nn.Linear(8, 24), mask=mask), sequences()


@healthy()
def causal_attention():
    def step(self, batch, batch_idx):
        q, k, v = self.qkv(batch[0]).chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).pow(2).mean()

    return Step(step, qkv=nn.Linear(8, 24)), sequences()


@healthy()
def partly_padded_attention():
    def step(self, batch, batch_idx):
        return self.attention(*batch).pow(2).mean()

    return Step(step, attention=Attention()), sequences(padded=False)


@healthy()
def partly_padded_encoder():
    def step(self, batch, batch_idx):
        x, mask = batch
        return self.encoder(x, src_key_padding_mask=mask).pow(2).mean()

    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return Step(step, encoder=nn.TransformerEncoder(layer, 2)), sequences(padded=False)


@healthy()
def fully_masked_attention_of_pytorch():
    """Since 2.5 scaled_dot_product_attention gives zeros for a row without keys."""

    def step(self, batch, batch_idx):
        x, mask = batch
        q = self.net(x)
        mask = ~mask[:, None, :]
        keep = mask.any(-1, keepdim=True)
        out = F.scaled_dot_product_attention(q, q, q, attn_mask=mask | ~keep)
        return (out * keep).pow(2).mean()

    return Step(step, net=nn.Linear(8, 8)), sequences()


@healthy()
def mask_in_the_batch():
    def step(self, batch, batch_idx):
        x, mask = batch
        return (self.net(x) + mask).softmax(1).pow(2).mean()

    mask = torch.zeros(16, 4)
    mask[:, 3] = -INF
    return Step(step, net=nn.Linear(8, 4)), (labelled()[0], mask)


@healthy()
def mined_distances(z, y):
    d = torch.cdist(z, z.detach() + 0.1) + torch.diag(torch.full((16,), INF))
    return d.min(1).values.mean()


@healthy()
def infinite_positions_dropped(z, y):
    d = 1 / torch.relu(z.detach())
    return (z * torch.where(d.isinf(), 0.0, d).clamp(max=10)).mean()


@healthy()
def top_k_filter(z, y):
    least = z.topk(2).values[:, -1:]
    return z.masked_fill(z < least, -INF).softmax(1).pow(2).mean()


@healthy()
def logsumexp_of_some(z, y):
    z = torch.where(F.one_hot(y, 4).bool(), -INF, z)
    return torch.logsumexp(z, 1).mean()


@healthy()
def unlikely_paths(z, y):
    log_probs = z.reshape(4, 4, 4).log_softmax(-1)
    targets = torch.ones(4, 3, dtype=torch.long)
    lengths = torch.tensor([4, 4, 4, 4])
    return F.ctc_loss(log_probs, targets, lengths, torch.tensor([3, 3, 1, 1]), zero_infinity=True)


@healthy()
def running_minimum():
    def step(self, batch, batch_idx):
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.best.value = torch.minimum(self.best.value, loss.detach())
        return loss

    best = nn.Module()
    best.register_buffer("value", torch.tensor(INF))
    return Step(step, net=nn.Linear(8, 4), best=best), labelled()


@healthy()
def missing_values_selected_away():
    def step(self, batch, batch_idx):
        x, y = batch
        complete = ~x.isnan().any(1)
        return F.cross_entropy(self.net(x[complete]), y[complete])

    x, y = labelled()
    x[3, 2] = NAN
    return Step(step, net=nn.Linear(8, 4)), (x, y)


@healthy()
def missing_values_imputed():
    def step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self.net(torch.nan_to_num(x)), y)

    x, y = labelled()
    x[3, 2] = NAN
    return Step(step, net=nn.Linear(8, 4)), (x, y)


@healthy()
def missing_targets():
    def step(self, batch, batch_idx):
        x, y = batch
        return (self.net(x)[~y.isnan()] - y[~y.isnan()]).pow(2).mean()

    target = torch.zeros(16, 4)
    target[1, 1] = NAN
    return Step(step, net=nn.Linear(8, 4)), (labelled()[0], target)


@healthy()
def double_where(z, y):
    safe = torch.where(z > 0, z, 1.0)
    return torch.where(z > 0, safe.log(), 0.0).mean()


@healthy()
def vector_norm_at_zero(z, y):
    return (z * 0).norm(dim=1).mean() + z.mean()


@healthy()
def atan2_at_zero(z, y):
    z = z * (z > 9)
    return torch.atan2(z[:, 0], z[:, 1]).mean()


@healthy()
def zero_slope_hides_infinite_slope(z, y):
    return torch.relu(z).sqrt().mean()


@healthy()
def std_of_equal_samples(z, y):
    return (z * 0).std(0).mean() + z.mean()


@healthy()
def x_log_x_at_zero(z, y):
    p = torch.relu(z.detach())
    return (torch.xlogy(p, p) * z).mean()


@healthy()
def some_labels_ignored(z, y):
    return F.cross_entropy(z, torch.where(y == 0, -100, y))


@healthy()
def memory_written_before_read(z, y):
    out = torch.empty(16, 4)
    for i in range(16):
        out[i] = z[i]
    noise = torch.empty(16, 4).normal_()
    return (out + 0.1 * noise).mean()


@healthy()
def gumbel_softmax(z, y):
    return F.gumbel_softmax(z, hard=True).mean() + z.mean()


@healthy()
def max_pool():
    def step(self, batch, batch_idx):
        return F.max_pool1d(self.net(batch[0])[:, None], 3, padding=1).mean()

    return Step(step, net=nn.Linear(8, 8)), labelled()


@healthy(trainer=lambda: fp16(2.0**40))
def search_for_the_scale(z, y):
    return F.cross_entropy(z, y)


@healthy(trainer=lambda: {"precision": "bf16-mixed"})
def bfloat16_training(z, y):
    return F.cross_entropy(z, y)


@healthy()
def checkpointed_batch_norm():
    block = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3))

    def step(self, batch, batch_idx):
        h = checkpoint(self.block, batch[0], use_reentrant=False)
        return F.cross_entropy(self.head(h), batch[1])

    return Step(step, block=block, head=nn.Linear(8, 4)), labelled()


@healthy()
def healthy_gan():
    return Gan(lambda score: F.softplus(-score).mean()), labelled()
