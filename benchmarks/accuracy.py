"""How often we are right, and how often we cry wolf: the fault zoo, its fixed twins, the healthy zoo.

    python benchmarks/accuracy.py --jobs 2              # everything, under 40 minutes on two cores
    python benchmarks/accuracy.py --split develop       # those that may be used to choose limits
    python benchmarks/accuracy.py --fast                # a few of each family, under two minutes
    python benchmarks/accuracy.py nan_in_table --show   # by name (or family), with what was said
    python benchmarks/accuracy.py --kinds healthy --seeds 3   # the healthy ones from three seeds

Each program runs with `NNDebug()` from a seed of its own, in a fresh copy of everything. Results go to
benchmarks/results/accuracy.jsonl line by line; a run that was interrupted goes on where it was,
and `--again` starts anew. Held out are the last round of faults, and half of the mutants.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from faults import FAULTS, all_faults, is_held_out
from healthy import all_programs
from program import fit, seed

import lightning_nndebug
from lightning_nndebug import RULES, NNDebug

RESULTS = Path(__file__).parent / "results"
FAST = 3  # of each family


def names(
    split: str, kinds: str, *, fast: bool, chosen: list[str], seeds: int = 1
) -> Iterator[tuple[str, str, int]]:
    """Yields (kind, name, seed) of what is to be run; of several seeds, the healthy ones."""
    in_split = {
        "all": lambda _: True,
        "develop": lambda n: not is_held_out(n),
        "held_out": is_held_out,
    }[split]
    count: Counter[str] = Counter()
    for name, one in all_faults().items():
        wanted = not chosen or name in chosen or one.family in chosen
        if not wanted or not in_split(name):
            continue
        count[one.family] += 1
        if fast and count[one.family] > FAST:
            continue
        yield from ((kind, name, 0) for kind in ("sick", "fixed") if kind in kinds)
    if "healthy" in kinds:
        healthy = [n for n in all_programs() if not chosen or n in chosen]
        some = healthy[::16] if fast else healthy
        yield from (("healthy", name, number) for number in range(seeds) for name in some)
    if "mutant" in kinds:
        from faults.mutations import all_mutants

        mutants = [n for n in all_mutants() if in_split(n) and (not chosen or n in chosen)]
        yield from (("mutant", name, 0) for name in (mutants[::25] if fast else mutants))


def run(kind: str, name: str, number: int = 0) -> dict[str, Any]:
    """Runs one program with the suite, from this seed, and returns what was found."""
    asked = kind
    seed(number)
    torch.set_num_threads(1)
    expected: tuple[str, ...] = ()
    if kind == "healthy":
        make = all_programs()[name]
    elif kind == "mutant":
        from faults.mutations import is_worse, mutant

        one = mutant(name)
        make, expected = one.make, one.expected
        with quiet(io.StringIO()):
            worse = is_worse(one)
        if not worse:
            kind = "harmless"
        seed(0)
    else:
        fault = all_faults()[name]
        make, expected = (lambda: fault.make(kind == "fixed")), fault.expected
    suite, error, log = NNDebug(), "", io.StringIO()
    start = time.perf_counter()
    with quiet(log):
        try:
            trainer = fit(make(), suite)
            steps = trainer.global_step
            metrics = {k: round(v.item(), 4) for k, v in trainer.callback_metrics.items()}
        except Exception as exception:
            steps, metrics = None, {}
            error = f"{type(exception).__name__}: {exception}"[:300]
            frames = [one.f_code for one, _ in traceback.walk_tb(exception.__traceback__)]
            frames = [one for one in frames if not one.co_name.startswith("__torch_")]
            if "lightning_nndebug" in frames[-1].co_filename:
                error = f"OURS {error}"
    return {
        "asked": asked,
        "kind": kind,
        "name": name,
        "seed": number,
        "family": FAULTS[name].family
        if kind in {"sick", "fixed"}
        else {"mutant": "mutations"}.get(kind, kind),
        "expected": list(expected),
        "seconds": round(time.perf_counter() - start, 2),
        "steps": steps,
        "metrics": metrics,
        "error": error,
        "off": [line for line in log.getvalue().splitlines() if "off from here" in line],
        "findings": [
            {
                "code": one.code,
                "severity": one.severity,
                "step": one.step,
                "where": one.where,
                "message": one.message,
                "caused_by": one.caused_by,
            }
            for one in suite.findings
        ],
    }


def all_runs(jobs: int, todo: list[tuple[str, str, int]], path: Path) -> list[dict[str, Any]]:
    """Runs what is not in the file yet, line by line, and returns all that was asked for."""
    done = {}
    if path.exists():
        for line in path.read_text().splitlines():
            result = json.loads(line)
            done[result["asked"], result["name"], result["seed"]] = result
    missing = [one for one in todo if one not in done]
    with path.open("a") as file:
        for number, result in enumerate(_map(run, missing, jobs), 1):
            done[result["asked"], result["name"], result["seed"]] = result
            file.write(json.dumps(result) + "\n")
            file.flush()
            print(f"\r{number}/{len(missing)} {result['name']:<50}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return [done[one] for one in todo]


def alarms(result: dict[str, Any]) -> list[dict[str, Any]]:
    """What was said at WARNING or above, the leading finding first."""
    return [one for one in result["findings"] if one["severity"] != "info"]


def verdict(result: dict[str, Any]) -> str:
    """Returns led, named, noticed or missed for a sick program; silent or false alarm for another."""
    said = [one["code"] for one in alarms(result)]
    if result["kind"] == "harmless":
        return "silent"
    if result["kind"] in {"fixed", "healthy"}:
        return "false alarm" if said else "silent"
    expected = result["expected"]
    informed = [one["code"] for one in result["findings"]]
    advice = [code for code in expected if code in RULES and RULES[code][1].severity == 0]
    if said and said[0] in expected:
        return "led"
    if (set(said) & set(expected)) or (set(informed) & set(advice)):
        return "named" if said and said[0] not in expected else "led"
    return "noticed" if said else "missed"


def table(results: list[dict[str, Any]]) -> str:
    """Returns the results as Markdown."""
    rows = ["| family | programs | found | cause named | cause leads | steps to detect | twins |"]
    rows.append("|---|--:|--:|--:|--:|--:|--:|")
    families: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in results:
        families[one["family"]].append(one)
    sick_kinds = {"sick", "mutant"}
    ordered = [f for f in families if f not in {"healthy", "harmless"}]
    for family in [*ordered, "all"]:
        members = results if family == "all" else families[family]
        sick = [one for one in members if one["kind"] in sick_kinds]
        twins = [one for one in members if one["kind"] == "fixed"]
        judged = Counter(verdict(one) for one in sick)
        steps = [
            min(f["step"] for f in alarms(one) if f["code"] in one["expected"])
            for one in sick
            if {f["code"] for f in alarms(one)} & set(one["expected"])
        ]
        false = sum(verdict(one) == "false alarm" for one in twins)
        loud = f"{false} of {len(twins)} loud" if twins else "not run"
        named = judged["led"] + judged["named"]
        rows.append(
            f"| {family} | {len(sick)} | {share(named + judged['noticed'], len(sick))} "
            f"| {share(named, len(sick))} | {share(judged['led'], len(sick))} "
            f"| {statistics.median(steps) if steps else '-'} | {loud} |"
        )
    text = ["# Accuracy", "", stamp(), "", *rows, ""]
    healthy = families.get("healthy", [])
    if healthy:
        loud = {one["name"] for one in healthy if alarms(one)}
        programs, seeds = ({one[key] for one in healthy} for key in ("name", "seed"))
        text.append(
            f"Healthy zoo: {len(loud)} of {len(programs)} programs raise an alarm"
            + (f", with any of {len(seeds)} seeds." if len(seeds) > 1 else ".")
        )
    text += ["", "## False alarms by rule", "", "| rule | twins | healthy zoo |", "|---|--:|--:|"]
    by_rule: dict[str, Counter[str]] = defaultdict(Counter)
    for one in results:
        if one["kind"] in {"fixed", "healthy"}:
            for code in {f["code"] for f in alarms(one)}:
                by_rule[code][one["kind"]] += 1
    text += [f"| {code} | {n['fixed']} | {n['healthy']} |" for code, n in sorted(by_rule.items())]
    text += ["", "## What was not led", "", "| program | expected | said | verdict |"]
    text.append("|---|---|---|---|")
    for one in results:
        judged = verdict(one)
        if judged not in {"led", "silent"} or one["off"] or one["error"].startswith("OURS"):
            said = ", ".join(dict.fromkeys(f"{f['code']}@{f['step']}" for f in alarms(one)))
            note = f" ({one['error']})" if one["error"] else ""
            note += " OFF" if one["off"] else ""
            kind = f"{one['kind']}, seed {one['seed']}" if one["seed"] else one["kind"]
            text.append(
                f"| {one['name']} ({kind}) | {', '.join(one['expected'])} "
                f"| {said or '-'} | {judged}{note} |"
            )
    return "\n".join(text) + "\n"


def figure(results: list[dict[str, Any]], path: Path) -> None:
    """Draws, by family, how many programs were led, named, noticed and missed."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    families: dict[str, Counter[str]] = defaultdict(Counter)
    for one in results:
        if one["kind"] in {"sick", "mutant"}:
            families[one["family"]][verdict(one)] += 1
    colours = {"led": "#2a9d8f", "named": "#8ecae6", "noticed": "#e9c46a", "missed": "#d62828"}
    labels = {
        "led": "cause leads",
        "named": "cause named",
        "noticed": "something else told",
        "missed": "silent",
    }
    order = sorted(families, reverse=True)
    fig, axis = plt.subplots(figsize=(7, 0.35 * len(order) + 1.2), layout="constrained")
    left = [0] * len(order)
    for judged, colour in colours.items():
        widths = [families[family][judged] for family in order]
        axis.barh(order, widths, left=left, color=colour, label=labels[judged])
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.set_xlabel("faulty programs")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    fig.savefig(path, dpi=150)
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="programs or families; all by default")
    parser.add_argument("--split", choices=["develop", "held_out", "all"], default="all")
    parser.add_argument(
        "--kinds", default="sick,fixed,healthy", help="of sick,fixed,healthy,mutant"
    )
    parser.add_argument("--seeds", type=int, default=1, help="for each healthy program")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--fast", action="store_true", help=f"{FAST} programs of each family")
    parser.add_argument("--again", action="store_true", help="forget the results so far")
    parser.add_argument("--show", action="store_true", help="print what was said to each program")
    parser.add_argument("--results", type=Path, default=RESULTS / "accuracy.jsonl")
    parser.add_argument("--write", action="store_true", help="write accuracy.md and accuracy.png")
    options = parser.parse_args()
    if options.again:
        options.results.unlink(missing_ok=True)
    todo = [
        *names(
            options.split,
            options.kinds,
            fast=options.fast,
            chosen=options.names,
            seeds=options.seeds,
        )
    ]
    results = all_runs(options.jobs, todo, options.results)
    if options.show:
        for one in results:
            print(
                f"{one['kind']:<8}{one['name']:<42}{verdict(one):<12}{one['seconds']}s {one['error']}"
            )
            for said in one["findings"]:
                cause = f" <- {said['caused_by']}" if said["caused_by"] else ""
                text = f"{said['code']} {said['severity']}@{said['step']} {said['where']}{cause}"
                print(f"          {text}: {said['message'][:150]}")
    text = table(results)
    print(text)
    if options.write:
        options.results.with_suffix(".md").write_text(text)
        figure(results, options.results.with_suffix(".png"))


def _map(call: Callable[..., Any], todo: list[tuple[str, str, int]], jobs: int) -> Iterator[Any]:
    if jobs == 1:
        yield from (call(*one) for one in todo)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(call, *zip(*todo, strict=True), chunksize=1) if todo else ()


@contextlib.contextmanager
def quiet(log: io.StringIO) -> Iterator[None]:
    handler = logging.StreamHandler(log)
    ours = logging.getLogger("lightning_nndebug")
    propagated, ours.propagate = ours.propagate, False
    ours.addHandler(handler)
    for name in ("lightning.pytorch", "pytorch_lightning", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    old = Path.cwd()
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.chdir(directory)
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(log):
                yield
        finally:
            os.chdir(old)
            ours.removeHandler(handler)
            ours.propagate = propagated


def share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"


def stamp() -> str:
    return (
        f"{date.today()}, lightning-nndebug {lightning_nndebug.__version__}, "
        f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    main()
