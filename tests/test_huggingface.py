"""A real Hugging Face transformer, built from a config, saved and loaded: nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import transformers
from program import Program, digits, fit, seed
from torch.utils.data import DataLoader, Dataset

from lightning_nndebug import NNDebug, check
from lightning_nndebug.core.measurements.step_probe import StepProbe


class Rows(Dataset):
    """The rows of a digit as tokens, in the dicts that Hugging Face's collators make."""

    def __init__(self) -> None:
        x, self.labels = digits(1024)
        self.tokens = ((x + 1) * 4).long() + 2

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = self.tokens[index]
        mask = torch.ones_like(tokens)
        return {"input_ids": tokens, "attention_mask": mask, "labels": self.labels[index]}


class Finetuner(pl.LightningModule):
    """Lets the model compute its own loss."""

    def __init__(self, model: transformers.PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        return self.model(**batch).loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    config = transformers.BertConfig(
        vocab_size=16, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=128, max_position_embeddings=64, num_labels=10, initializer_range=0.1,
    )  # fmt: skip
    seed(0)
    path = tmp_path_factory.mktemp("bert")
    transformers.BertForSequenceClassification(config).save_pretrained(path)
    return path


def loud(module: pl.LightningModule) -> list[str]:
    suite, data = NNDebug(), DataLoader(Rows(), batch_size=32, shuffle=True)
    seed(0)
    fit(Program(module, data, trainer={"max_epochs": 3}), suite)
    return [one.code for one in suite.findings if one.severity != "info"]


def test_a_model_comes_from_pretrained_in_eval_mode(saved: Path) -> None:
    """``from_pretrained`` returns it so, and Lightning leaves it as it is."""
    model = transformers.BertForSequenceClassification.from_pretrained(saved)
    assert not model.training
    assert loud(Finetuner(model))[0] == "MOD101"


def test_a_model_in_train_mode_is_well(saved: Path) -> None:
    """With ``train()`` there is nothing to say."""
    model = transformers.BertForSequenceClassification.from_pretrained(saved)
    assert loud(Finetuner(model.train())) == []


def test_what_the_first_step_sets_up_does_not_keep_steps_from_being_run_again(
    saved: Path, monkeypatch
) -> None:
    """The model notes in its config, at the first call, what kind of problem it is."""
    probes, take = [], StepProbe.take.__func__
    spy = classmethod(lambda *args: (probes.append(take(*args)), probes[-1])[1])
    monkeypatch.setattr(StepProbe, "take", spy)
    model = transformers.BertForSequenceClassification.from_pretrained(saved)
    loud(Finetuner(model.train()))
    assert [one.step for one in probes if one][:3] == [1, 2, 3]


def test_it_can_be_rehearsed(saved: Path) -> None:
    """A batch is learned by heart before training begins."""
    model = transformers.BertForSequenceClassification.from_pretrained(saved).train()
    assert not check(Finetuner(model), DataLoader(Rows(), batch_size=32), steps=60)
