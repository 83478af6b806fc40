"""Saliency: the gradient of the loss by the images, and nothing left behind."""

from __future__ import annotations

import base64

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from program import Program, fit
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_nndebug import NNDebug
from lightning_nndebug.core.measurements.images import is_image, thumbnails
from lightning_nndebug.core.measurements.norms import _Norm
from lightning_nndebug.report import Story

STEPS = 12


class Weighing(pl.LightningModule):
    """Its loss hangs on pixel (1, 2) of the second channel, and a little on (0, 0) of the first."""

    def __init__(self, *, automatic: bool = True, in_place: bool = False) -> None:
        super().__init__()
        self.automatic_optimization = automatic
        self.in_place = in_place
        self.scale = nn.Parameter(torch.ones(()))
        self.drop = nn.Dropout(0.5)
        self.seen: list[bool] = []

    def training_step(self, batch, batch_idx):
        (x,) = batch
        self.seen.append(x.requires_grad)
        if self.in_place:
            x.mul_(1.0)
        loss = (self.scale * (4 * x[:, 1, 1, 2] + x[:, 0, 0, 0])).mean() + 0 * self.drop(x).sum()
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trained(module, tmp_path, *callbacks):
    torch.manual_seed(0)
    data = TensorDataset(torch.rand(4 * STEPS, 3, 4, 5))
    loader = DataLoader(data, batch_size=4, shuffle=True)
    fit(Program(module, loader), *callbacks, max_epochs=1, default_root_dir=tmp_path)
    return module, torch.get_rng_state()


@pytest.mark.parametrize("automatic", [True, False])
def test_the_map_is_the_gradient(automatic: bool, tmp_path) -> None:
    """The largest over the channels, relative to the largest of the image."""
    trained(Weighing(automatic=automatic), tmp_path, NNDebug())
    step, look = Story.read(tmp_path).snapshots["Saliency"][-1]
    assert step >= 10
    assert look["images"]["shape"] == [4, 4, 5, 3]
    maps = np.frombuffer(base64.b64decode(look["maps"]["pixels"]), np.uint8).reshape(4, 4, 5)
    expected = np.zeros((4, 5))
    expected[1, 2], expected[0, 0] = 255, 63
    assert (maps == expected).all()


@pytest.mark.parametrize("automatic", [True, False])
def test_nothing_is_left_behind(automatic: bool, tmp_path) -> None:
    """The same weights, the same random numbers, and the user's step sees its batch as it was."""
    plain, dice = trained(Weighing(automatic=automatic), tmp_path / "a")
    watched, watched_dice = trained(Weighing(automatic=automatic), tmp_path / "b", NNDebug())
    assert Story.read(tmp_path / "b").snapshots["Saliency"]
    assert torch.equal(plain.scale, watched.scale)
    assert torch.equal(dice, watched_dice)
    assert watched.seen == [False] * STEPS


def test_other_measurements_of_the_same_step_do_not_take_it_for_theirs(tmp_path) -> None:
    """A frozen norm behind the images learns nothing, though it gets what has a gradient."""
    norm = _Norm(nn.BatchNorm2d(3), "net", "", torch.zeros(1))

    class Frozen(Weighing):
        def __init__(self) -> None:
            super().__init__()
            self.norm = norm.norm.requires_grad_(False)
            self.norm.register_forward_pre_hook(norm.look_at_input)

        def training_step(self, batch, batch_idx):
            self.norm(batch[0])
            return super().training_step(batch, batch_idx)

    trained(Frozen(), tmp_path, NNDebug())
    assert Story.read(tmp_path).snapshots["Saliency"]
    assert norm.is_fed
    assert not norm.is_learned


def test_a_step_that_writes_to_its_images_is_left_alone(tmp_path) -> None:
    """It could not, if they were part of a graph."""
    module, _ = trained(Weighing(in_place=True), tmp_path, NNDebug())
    assert module.seen == [False] * STEPS
    assert "Saliency" not in Story.read(tmp_path).snapshots


def test_images_have_one_or_three_channels() -> None:
    """First or last; thumbnails have them last, and are small."""
    assert is_image(torch.rand(2, 3, 8, 8))
    assert is_image(torch.rand(2, 8, 8, 1))
    assert not is_image(torch.rand(2, 16, 8, 8))
    assert not is_image(torch.rand(2, 3, 8))
    assert thumbnails(torch.rand(20, 64, 128, 3))["shape"] == [8, 16, 32, 3]
