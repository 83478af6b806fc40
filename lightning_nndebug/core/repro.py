"""A step in a file: enough to run it again without the user's data pipeline."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import DataLoader

if TYPE_CHECKING:
    from .measurements import Moment
    from .sandbox import Snapshot

FILE = "nan_repro.pt"

_SCRIPT = '''"""Shows the step again that was not finite, without the data pipeline it came from."""

from lightning_nndebug.core.repro import run

from {module} import {name}

if __name__ == "__main__":
    run("{file}", {name}({arguments}))
'''


def write_repro(moment: Moment, snapshot: Snapshot, batch_idx: int, limit_mb: float) -> str | None:
    """Writes ``nan_repro.pt`` and a script beside it, unless one is there or it would be too large.

    Args:
        moment: The moment before the update, so that the weights are the step's own.
        snapshot: The step's start, with its batch.
        batch_idx: The index of the batch.
        limit_mb: The largest allowed size of weights and batch together; 0 writes nothing.

    Returns:
        The path, or None if nothing was written.
    """
    directory = moment.directory
    batch = _plain(snapshot.batch)
    weights = moment.module.state_dict()
    tensors = [*weights.values(), *_tensors(batch)]
    megabytes = sum(one.nbytes for one in tensors if isinstance(one, torch.Tensor)) / 1e6
    if directory is None or batch is None or megabytes > limit_mb:
        return None
    rank = moment.trainer.global_rank
    path = Path(directory) / (FILE if rank == 0 else FILE.replace(".pt", f".rank{rank}.pt"))
    if path.exists():
        return str(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    hparams = _plain(dict(getattr(moment.module, "hparams", {}))) or {}
    # Of what the steps do not draw from, any state will do.
    states = {one.write: one.state for one in snapshot._rng}
    content = {
        "version": 1,
        "weights": weights,
        "batch": batch,
        "batch_idx": batch_idx,
        "precision": str(moment.trainer.precision),
        "torch_rng": states.get(torch.set_rng_state, torch.get_rng_state()),
        "python_rng": states.get(random.setstate, random.getstate()),
    }
    torch.save(content, path)
    kind = type(moment.module)
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    script = _SCRIPT.format(
        module=Path(main).stem if kind.__module__ == "__main__" and main else kind.__module__,
        name=kind.__qualname__,
        file=path,
        arguments=", ".join(f"{key}={value!r}" for key, value in hparams.items()),
    )
    path.with_suffix(".py").write_text(script, encoding="utf-8")
    return str(path)


def run(path: str | Path, module: Any) -> None:
    """Runs the step of a file again, under the detector that names what is not finite in it.

    Args:
        path: The file; loading it executes nothing that was pickled.
        module: The LightningModule, made as in the run; its weights come from the file.

    Raises:
        TrainingHalted: With the finding.
    """
    from lightning_nndebug import NonFiniteDetector

    content = torch.load(path, weights_only=True)
    module.load_state_dict(content["weights"])
    lightning = importlib.import_module(_namespace(module))

    class Restore(lightning.Callback):  # type: ignore[misc,name-defined]
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            torch.set_rng_state(content["torch_rng"])
            version, state, gauss = content["python_rng"]
            random.setstate((version, tuple(state), gauss))

    # The batch in the file has been through these already.
    module.on_before_batch_transfer = module.on_after_batch_transfer = lambda batch, _: batch
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=1, precision=content["precision"], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Restore(), NonFiniteDetector(halt_on="error", repro_mb=0)],
    )  # fmt: skip
    batches: Any = [content["batch"]]
    trainer.fit(module, DataLoader(batches, batch_size=None))


def _namespace(module: Any) -> str:
    names = {base.__module__.partition(".")[0] for base in type(module).__mro__}
    return "lightning.pytorch" if "lightning" in names else "pytorch_lightning"


def _plain(value: Any) -> Any:
    """Returns the value if it is built of tensors and builtins, else None: it must load safely."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, Mapping):
        items = {key: _plain(one) for key, one in value.items()}
        return None if any(one is None for one in items.values()) else items
    if isinstance(value, (list, tuple)):
        entries = [_plain(one) for one in value]
        return (
            None
            if any(one is None for one in entries)
            else type(value)(entries)
            if type(value) in (list, tuple)
            else entries
        )
    return value if isinstance(value, (int, float, str, bool)) else None


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    inner = (
        value.values()
        if isinstance(value, Mapping)
        else value
        if isinstance(value, (list, tuple))
        else ()
    )
    return [tensor for one in inner for tensor in _tensors(one)]
