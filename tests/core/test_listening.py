"""Listening: torch goes the same way with it as without."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from program import Program, fit, seed
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import NNDebug
from lightning_nndebug.core.listening import ListeningMode, hookable

is_overridden = torch.overrides.has_torch_function


class Overheard(ListeningMode):
    """Notes the names of the functions that were called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(func.__name__)
        return func(*args, **(kwargs or {}))


class Someones(TorchFunctionMode):
    """A mode of the user's own."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def layer() -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)


def test_attention_keeps_its_fast_path_and_is_heard():
    """A fused layer is one function."""
    net, x = layer().eval(), torch.randn(2, 3, 16)
    with torch.no_grad(), Overheard() as mode:
        net(x)
    assert "_transformer_encoder_layer_fwd" in mode.names


def test_a_mode_of_someone_else_still_has_its_say():
    """It may replace what is fused."""
    net, x = layer().eval(), torch.randn(2, 3, 16)
    with torch.no_grad(), Overheard() as mode, Someones():
        net(x)
    assert "_transformer_encoder_layer_fwd" not in mode.names


def test_torch_is_as_it_was_once_nobody_listens():
    """Even if one that listens is within another, and fails."""
    with pytest.raises(ValueError, match="mine"), Overheard(), Overheard():
        raise ValueError("mine")
    assert torch.overrides.has_torch_function is is_overridden


def test_nothing_in_a_fused_layer_is_hooked():
    """In train mode it is not fused."""
    net = nn.Sequential(nn.Linear(16, 16), layer().eval(), layer())
    names = {name.partition(".")[0] for name, _ in hookable(net)}
    assert names == {"", "0", "2"}


class OnFrozen(pl.LightningModule):
    """A net on a frozen encoder in eval mode, which takes its fast path in training, too."""

    def __init__(self, *, is_masked: bool) -> None:
        super().__init__()
        self.frozen = nn.TransformerEncoder(layer(), 2).requires_grad_(False)
        self.encoder = layer()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.out = nn.Linear(16, 3)
        self.is_masked = is_masked
        self.losses: list[float] = []

    def train(self, mode=True):
        super().train(mode)
        self.frozen.eval()
        return self

    def loss_of(self, batch):
        x, y = batch
        mask = x[..., 0] > 1 if self.is_masked else None
        x = self.encoder(self.frozen(x, src_key_padding_mask=mask))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        loss = F.cross_entropy(self.out(x.mean(1)), y)
        self.losses.append(loss.item())
        return loss

    def training_step(self, batch, batch_idx):
        return self.loss_of(batch)

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss_of(batch))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@pytest.mark.parametrize("is_masked", [False, True])
def test_attention_comes_to_the_same_bits_with_us(is_masked):
    """In training as in validation, whether it makes nested tensors of what is masked or not."""
    losses = []
    for callbacks in ([], [NNDebug()]):
        seed()
        x = torch.randn(192, 7, 16)
        data = TensorDataset(x, x[:, 0, :3].argmax(1))
        program = Program(
            OnFrozen(is_masked=is_masked),
            DataLoader(data, 16),
            DataLoader(data, 64),
            {"max_epochs": 3},
        )
        fit(program, *callbacks)
        losses.append(program.module.losses)
    assert losses[0] == losses[1]
