"""Makes the pictures of the README from real runs: a finding as printed, and a report.

python docs/pictures.py      # needs scikit-learn and Chromium; writes docs/_static
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import lightning.pytorch as pl
from rich.console import Console

from lightning_nndebug import NNDebug, TrainingHalted
from lightning_nndebug.core.findings import Finding
from lightning_nndebug.core.sinks import painted
from lightning_nndebug.demo import _RUNS, _batches

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "_static"
sys.path.insert(0, str(ROOT / "benchmarks"))

import screenshots  # noqa: E402


def main() -> None:
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        (finding,) = train("nan", Path(directory, "nan"), halt_on="error")[:1]
        print_finding(finding, OUT / "finding.svg")
        train("eval-mode", Path(directory, "eval-mode"), report=True, epochs=6)
        page = Path(directory, "eval-mode", "nndebug", "report.html")
        browser = next(found for one in screenshots._BROWSERS if (found := shutil.which(one)))
        screenshots.shoot(browser, page, 1280, "light", OUT / "report.png")
    shrink(OUT / "report.png")


def train(name: str, folder: Path, epochs: int = 4, **options: object) -> list[Finding]:
    """Makes one of the demo's runs, and returns what was found."""
    pl.seed_everything(0, verbose=False)
    run, suite = _RUNS[name], NNDebug(**options)
    with warnings.catch_warnings(), contextlib.suppress(TrainingHalted):
        warnings.simplefilter("ignore")
        pl.Trainer(
            accelerator="cpu", devices=1, max_epochs=epochs, callbacks=[suite], logger=False,
            default_root_dir=folder, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=5,
        ).fit(run.module(), *_batches(run))  # fmt: skip
    return suite.findings


def print_finding(finding: Finding, path: Path) -> None:
    """Draws a finding as the terminal shows it."""
    console = Console(record=True, width=100, file=io.StringIO())
    for line in painted(re.sub(r"/\S*/(nan/)", r"\1", str(finding)), console):
        console.print(line)
    console.print()  # or the last line would be cut at its feet
    console.save_svg(str(path), title="python train.py")


def shrink(path: Path) -> None:
    """Keeps the top of a long page, in few colours."""
    from PIL import Image

    image = Image.open(path).convert("RGB")
    image = image.crop((0, 0, image.width, min(image.height, 2000)))
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
