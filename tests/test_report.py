"""The report: what it reads out of a record, and that the page is whole."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from program import digits, fit, seed
from typer.testing import CliRunner

import lightning_nndebug
from lightning_nndebug import NNDebug
from lightning_nndebug.cli import app
from lightning_nndebug.core.layers import ROWS, condensed
from lightning_nndebug.core.record import Record
from lightning_nndebug.report import Story, write
from lightning_nndebug.report.compare import differences
from lightning_nndebug.report.drawing import Drawing, drawing
from lightning_nndebug.report.figures import _pin, _spread, inside, pictures, timeline
from lightning_nndebug.report.page import page, verdict

ROOT = Path(lightning_nndebug.__file__).parents[1]
run = CliRunner().invoke


def finding(code: str = "MOD101", step: int = 0, **values: object) -> dict:
    one = {
        "kind": "finding", "code": code, "name": "eval-while-training", "severity": "error",
        "step": step, "epoch": 0, "where": "net", "measured": 1.0, "limit": None,
        "message": "1 Dropout & more in `<eval>` mode", "means": "A part is in eval mode.",
        "causes": ["one"], "fixes": ["two"], "rank": 0, "details": {},
    }  # fmt: skip
    return {**one, **values}


def lines(steps: int = 30, **card: object) -> list[dict]:
    """A record with everything in it that the report can draw."""
    curve = [{"step": i, "loss": 2.0 / (i + 1), "learning rate": 1e-3} for i in range(steps)]
    layers = {"gradient norm": {"a": 1.0, "b": 0.1}, "weight norm": {"a": 3.0, "b": 2.0}}
    histogram = {"low": -1.0, "high": 1.0, "counts": [1, 5, 9, 4, 1]}
    tensor = {"where": "batch[0]", "type": "float32", "shape": [4, 1, 2, 2]}
    table = {
        "where": "batch[1]",
        "type": "float32",
        "shape": [2, 2],
        "rows": [[1, 0.5], [2, "nan"]],
    }
    layer = {"where": "net.0", "of": "Conv2d", "type": "float32", "shape": [4, 1, 2, 2]}
    images = {"shape": [2, 2, 2, 1], "pixels": "AAECAwQFBgc="}
    snapshots = [
        {"of": "FirstBatch", "step": 0, "tensors": [tensor, table], "images": images},
        {"of": "FirstLayers", "step": 0, "tensors": [layer]},
        *({"of": "Gradients", "step": i, "layers": layers} for i in range(0, steps, 5)),
        *({"of": "Labels", "step": i, "counts": [3, 1, 0]} for i in range(10)),
        *({"of": "Weights", "step": i, "weights": histogram, "biases": histogram} for i in (0, steps)),
        *({"of": "StepProbe", "step": i, "rate": 1e-3, "curve": {"0": 2.0, "0.3": 1.9, "1": 1.7, "10": 2.5, "100": "inf"}} for i in (1, 2, 9)),
        {"of": "Fingerprint", "step": 0, "digest": "0badf00d", "batches": 3},
        {"of": "Saliency", "step": 9, "where": "batch[0]", "images": images, "maps": images},
        {"of": "ClassCounts", "step": 9, "train": [5, 3, 2], "validation": [4, 4, 4]},
        *({"of": "Validation", "step": i, "metrics": {"val_loss": 1.0, "val_acc": 0.1 * i}} for i in (4, 9, 14)),
    ]  # fmt: skip
    return [
        {"kind": "run", "module": "Net", "started": "2026-01-01T00:00:00", "step": 0, **card},
        *({"kind": "curve", **one} for one in curve),
        *({"kind": "snapshot", **one} for one in snapshots),
        *({"kind": "vitals", "step": i, "nndebug/gradients/norm": 1.0 + i} for i in range(0, steps, 3)),
        {"kind": "about", "of": "nndebug/gradients/norm", "text": "The norm."},
        {"kind": "about", "of": "MOD101", "text": {"When it is fine": ["Frozen parts."]}},
        finding(step=3), finding("GRD101", step=4, severity="warning", caused_by="MOD101 net"),
        {"kind": "end", "step": steps, "exception": None, "seconds": 2.5},
    ]  # fmt: skip


def recorded(path: Path, content: list[dict]) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(one) + "\n" for one in content)
    (path / "record.jsonl").write_text(text)
    return path


class Page(HTMLParser):
    """Notes tags that are not closed, and what is loaded from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_startendtag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_small_and_loads_nothing(tmp_path) -> None:
    """One file, well formed, without a script; every figure has a title and a text for readers."""
    write(Story.read(recorded(tmp_path, lines())), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    parsed = Page(text)
    assert not parsed.open
    assert all(one.startswith(("data:", "#")) for one in parsed.links)
    assert "<script" not in text
    assert len(text) < 1_000_000
    figures = re.findall(r"<figure.*?</figure>", text, flags=re.DOTALL)
    assert len(figures) > 10
    assert all("<h3>" in one and ("aria-label" in one or "<table" in one) for one in figures)
    assert '<a href="#MOD101">MOD101</a> net' in text
    assert '<article id="MOD101"' in text
    assert "Frozen parts." in text
    assert "The norm. Logged as" in text
    assert "0badf00d (checksum of 3 batches)" in text
    assert "1 Dropout &amp; more in <code>&lt;eval&gt;</code> mode" in text
    assert not re.search(r"#0[0-9ab]0[0-9ab]0[0-9ab]", text), "a colour that no style sheet knows"


def test_every_figure_names_its_axes() -> None:
    """A quantity and a unit on each axis that has numbers."""
    story = Story()
    for one in lines():
        story._add(one.pop("kind"), one)
    for picture in [timeline(story), *inside(story)]:
        if isinstance(picture.drawn, Drawing):
            assert re.search(
                r">(optimizer step|step|value|class|training batch|multiple of)", picture.svg
            ), picture.title
            assert picture.title


def test_looks_that_know_of_other_classes_stand_side_by_side() -> None:
    """How many classes there are may become known late, or change with the task."""
    story = Story()
    for step, classes in enumerate((101, 2, 3)):
        shown = [4, 1, *[0] * (classes - 2)]
        story._add(
            "snapshot", {"of": "ClassCounts", "step": step, "train": shown, "validation": shown}
        )
        story._add("snapshot", {"of": "Labels", "step": step, "counts": shown})
    titles = {one.title for one in inside(story)}
    assert titles == {"Labels, batch by batch", "Labels, class by class"}


def test_pictures_for_loggers_are_in_colour(tmp_path) -> None:
    """Of the main figures, on paper, in the colours of the page."""
    drawn = pictures(Story.read(recorded(tmp_path, lines())))
    assert {"The loss", "Learning rate", "Gradients, layer by layer"} <= set(drawn)
    loss = drawn["The loss"]
    assert loss[0, 0].tolist() == [255, 255, 255]
    assert (loss == [0x1F, 0x66, 0xD0]).all(-1).any()
    assert "Gradients: norm" not in drawn, "a number that is logged anyway"


@pytest.mark.parametrize("cut", [1, 5, 20, 40, -1])
def test_half_a_record_makes_a_report(cut: int, tmp_path) -> None:
    """Of a run that was killed, be it in the middle of a line, everything up to there is shown."""
    content = lines()[:cut]
    recorded(tmp_path, content)
    with (tmp_path / "record.jsonl").open("a") as file:
        file.write('{"kind": "curve", "step": 9')
    story = Story.read(tmp_path)
    assert story.ending == "killed, or still running"
    assert "killed, or still running" in page(story)


def test_the_verdict_is_one_sentence() -> None:
    """What began first leads; what follows from another does not."""
    story = Story(step=4000, end={"exception": None})
    assert verdict(story)[0] == "Nothing found in 4,000 steps."
    story.end = None
    assert verdict(story)[0] == "Nothing found so far in 4,000 steps."
    story.findings = [
        finding(step=2, caused_by="GRD101"),
        finding("GRD101", step=3, name="exploding-gradient"),
    ]
    assert verdict(story)[0] == "Exploding gradient, from step 3 on."


def test_a_resumed_run_goes_on_and_another_one_does_not(tmp_path) -> None:
    """Both append to the record; only what begins at step 0 begins anew."""
    resumed = Story.read(recorded(tmp_path / "a", [*lines(30), *lines(3, step=30)]))
    assert len(resumed.curves["loss"].steps) == 33
    anew = Story.read(recorded(tmp_path / "b", [*lines(30), *lines(3)]))
    assert len(anew.curves["loss"].steps) == 3


def test_nan_and_infinity_are_drawn(tmp_path) -> None:
    """They come as text, and are marked at the top."""
    content = [{"kind": "curve", "step": i, "loss": "nan" if i > 5 else 1.0} for i in range(10)]
    assert "NaN or infinite" in timeline(Story.read(recorded(tmp_path, content))).svg


def test_pins_are_never_on_top_of_each_other() -> None:
    """They keep their order and their distance, and stay within the figure."""
    for ideal in ([0, 0, 0], [0.99, 1, 1], [0.5, 0.5001, 0.7], [0.2]):
        places = _spread(ideal, 0.1)
        assert all(b - a >= 0.099 for a, b in pairwise(places))
        assert min(places) >= -1e-9
        assert max(places) <= 1 + 1e-9


def test_pins_are_where_their_findings_began(tmp_path) -> None:
    """Also where the second to be read was not the second to begin."""
    content = [one for one in lines(100) if one["kind"] in ("run", "curve")]
    content += [finding(step=20), finding("LOS104", step=90), finding("ACT101", step=50)]
    recorded(tmp_path, [*content, {"kind": "end", "step": 100, "exception": None}])
    order = [20, 90, 50]
    found = [one for one in content if one["kind"] == "finding"]
    (tmp_path / "findings.json").write_text(json.dumps(found))
    story = Story.read(tmp_path)
    assert [one[0]["step"] for one in story.groups()] == order
    with drawing() as one:
        one.axes.set_xlim(0, 100)
        _pin(one.axes, story)
        pins = {text.get_text(): text.get_position()[0] for text in one.axes.texts}
    assert {name: round(100 * place) for name, place in pins.items()} == {"1": 20, "2": 90, "3": 50}


def test_layers_fit_on_a_page() -> None:
    """Parameters of a module become one row, and blocks of blocks one if they are too many."""
    assert condensed({"a.weight": 3.0, "a.bias": 4.0}) == {"a": 5.0}
    deep = {f"net.blocks.{i}.mlp.{j}.weight": 1.0 for i in range(30) for j in range(4)}
    assert list(condensed(deep))[:2] == ["net.blocks.0.mlp", "net.blocks.1.mlp"]
    assert len(condensed({f"l{i}.w": 1.0 for i in range(500)})) == ROWS


def test_a_long_record_stays_small(tmp_path) -> None:
    """100,000 steps with 148 layers take less than 10 MB, and lose neither the first nor the last."""

    class Everything:
        def curves(self) -> dict:
            return {"loss": 1.2345678901, "learning rate": 1.2345678901e-4}

        def snapshot(self) -> dict:
            rows = condensed({f"transformer.h.{i}.mlp.c_fc.weight": 1.23456789 for i in range(148)})
            return {"layers": {"gradient norm": rows, "weight norm": rows}}

    record = Record(tmp_path, {})
    for step in range(100_000):
        record.measured(step, Everything())
    record.close([], 100_000, None)
    size = (tmp_path / "record.jsonl").stat().st_size
    assert size < 2_500_000  # with four such measurements still less than 10 MB
    steps = Story.read(tmp_path).curves["loss"].steps
    assert steps[:3] == [0, 1, 2]
    assert steps[-1] > 99_000


def test_compare_says_what_differs(tmp_path) -> None:
    """The run card, the first finding, and the numbers."""
    a = recorded(tmp_path / "a", lines(module="Net"))
    b = recorded(
        tmp_path / "b", [one for one in lines(60, module="Other") if one.get("code") != "MOD101"]
    )
    sections = differences(Story.read(a), Story.read(b))
    assert sections["Run card"] == {"module": ("Net", "Other")}
    assert sections["Findings"]["first"][0].startswith("MOD101")
    assert sections["Findings"]["MOD101"] == ("step 3", "-")
    assert sections["Vitals"]["steps"] == ("30", "60")
    text = run(app, ["compare", str(a), str(b)]).stdout
    assert "Other" in text
    assert json.loads(run(app, ["compare", str(a), str(b), "--json"]).stdout)["Run card"]


def test_report_prints_findings_in_every_format(tmp_path) -> None:
    """Text, JSON and SARIF; without a format, the path of the page."""
    path = str(recorded(tmp_path, lines()))
    assert (
        "error MOD101 eval-while-training · step 3 · net"
        in run(app, ["report", path, "--format", "text"]).stdout
    )
    rows = json.loads(run(app, ["report", path, "--format", "json"]).stdout)
    assert [one["code"] for one in rows] == ["MOD101", "GRD101"]
    log = json.loads(run(app, ["report", path, "--format", "sarif"]).stdout)
    assert log["version"] == "2.1.0"
    assert Path(run(app, ["report", path]).stdout.strip()).is_file()
    missing = run(app, ["report", str(tmp_path / "nowhere")])
    assert missing.exit_code == 2
    assert "No record at" in missing.output


def test_a_suite_writes_the_report_when_it_is_asked(tmp_path) -> None:
    """True: always. None: only after a long run. False: never."""
    from cases.mod101_eval_while_training import sick

    for report, exists in ((True, True), (None, False), (False, False)):
        fit(
            sick(),
            NNDebug(report=report),
            default_root_dir=tmp_path / str(report),
            max_steps=3,
            max_epochs=None,
        )
        assert (tmp_path / str(report) / "nndebug" / "report.html").exists() == exists


def test_a_real_run_leaves_every_figure(tmp_path) -> None:
    """Loss, rates, probes, layers, labels, weights and the first images are in its record."""
    from cases._parts import Classifier
    from program import Program
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    seed(0)
    x, y = digits(256, image=True)
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    fit(
        Program(Classifier(net), loader, loader),
        NNDebug(report=True),
        default_root_dir=tmp_path,
        max_epochs=4,
    )
    story = Story.read(tmp_path)
    titles = {one.title for one in inside(story)}
    assert titles >= {
        "Learning rate", "The loss along the step", "Gradients, layer by layer", "The first batch",
        "Labels, batch by batch", "Weights, start to end", "What the loss hangs on",
    }  # fmt: skip
    batch = next(one.svg for one in inside(story) if one.title == "The first batch")
    assert batch.count("<img") == 8
    labels = " ".join(map(str, story.snapshots["FirstBatch"][0][1]["tensors"][1]["rows"]))
    assert "int64 [32]</td><td>" in batch and f"<td>{labels}</td>" in batch  # noqa: PT018
    first = "<th>net.1 <small>Linear</small></th><td>float32 [32, 64]</td><td>-1 to 1, mean"
    assert first in batch
    assert story.card["versions"]["lightning"]
    assert story.card["configuration"]["samples"] == 256
    assert story.card["data"].endswith("(checksum of 3 batches)")
    assert story.about["nndebug/gradients/norm"].startswith("The norm")
    assert (tmp_path / "nndebug" / "report.html").stat().st_size < 5_000_000


@pytest.mark.slow
def test_a_killed_run_has_a_report(tmp_path) -> None:
    """SIGKILL leaves the record up to its last line."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from cases.mod101_eval_while_training import sick\n"
        "from program import fit\n"
        "from lightning_nndebug import NNDebug\n"
        "fit(sick(), NNDebug(), default_root_dir='.', max_epochs=10_000)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(ROOT / "tests")],
        env=environment,
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    record = tmp_path / "nndebug" / "record.jsonl"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and (not record.exists() or record.stat().st_size < 40_000):
        time.sleep(0.1)
    running = Story.read(record)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    story = Story.read(record)
    assert story.step >= running.step > 10
    assert story.lead["code"] == "MOD101"
    assert "killed, or still running" in page(story)
