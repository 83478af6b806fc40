"""How often others find what is sick, and how often they say the same of what is well.

    python benchmarks/peers.py --fast             # a few faults of each family, half an hour
    python benchmarks/peers.py --jobs 2           # all faults

The same programs as in accuracy.py, each in its sick and in its repaired form, with each tool that
is installed (see _peers.py) and with `NNDebug()`. Nobody's names are translated: a fault counts as
told apart if the tool says something of the sick form that it does not say of the repaired one.
"""

from __future__ import annotations

import argparse
import io
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from _peers import peers
from accuracy import RESULTS, names, quiet, share, stamp
from faults import all_faults
from program import fit, seed

from lightning_nndebug import NNDebug, Severity


def run(tool: str, fault: str, *, fixed: bool) -> dict[str, Any]:
    """Runs one form of a faulty program with one tool."""
    seed(0)
    torch.set_num_threads(1)
    program, error = all_faults()[fault].make(fixed), ""
    callback = NNDebug() if tool == "NNDebug" else peers()[tool]()
    with quiet(io.StringIO()):
        try:
            fit(program, callback)
        except Exception as exception:
            error = f"{type(exception).__name__}: {exception}"[:200]
    if isinstance(callback, NNDebug):
        said = {one.code for one in callback.findings if one.level >= Severity.WARNING}
    else:
        said = callback.said
    return {"tool": tool, "fault": fault, "fixed": fixed, "said": sorted(said), "error": error}


def table(results: list[dict[str, Any]]) -> str:
    """Returns a line for each tool."""
    said = {(one["tool"], one["fault"], one["fixed"]): one for one in results}
    head = ["tool", "faults", "says something", "tells it from the repaired form"]
    head += ["says something of the repaired form", "ends the repaired run with an error"]
    lines = [f"| {' | '.join(head)} |", "|---" + "|--:" * (len(head) - 1) + "|"]
    for tool in dict.fromkeys(one["tool"] for one in results):
        faults = {one["fault"] for one in results if one["tool"] == tool}
        pairs = [(said[tool, one, False], said[tool, one, True]) for one in faults]
        count = len(pairs)
        counts = [
            sum(bool(sick["said"]) for sick, _ in pairs),
            sum(bool(set(sick["said"]) - set(well["said"])) for sick, well in pairs),
            sum(bool(well["said"]) for _, well in pairs),
            sum(bool(well["error"]) for _, well in pairs),
        ]
        cells = [f"{one} ({share(one, count)})" for one in counts]
        lines.append(f"| {tool} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tools", nargs="*", help="all that are installed by default")
    parser.add_argument("--fast", action="store_true", help="a few faults of each family")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS / "peers.jsonl")
    parser.add_argument("--write", action="store_true", help="write peers.md")
    options = parser.parse_args()
    tools = options.tools or ["NNDebug", *(one for one in peers() if "wandb" not in one)]
    chosen = [name for _, name, _ in names("all", "sick", fast=options.fast, chosen=[])]
    lines = options.results.read_text().splitlines() if options.results.exists() else []
    results = [json.loads(line) for line in lines]
    done = {(one["tool"], one["fault"], one["fixed"]) for one in results}
    todo = [(tool, name, fixed) for name in chosen for tool in tools for fixed in (False, True)]
    with (
        ProcessPoolExecutor(options.jobs) as pool,
        options.results.open("a") as file,
    ):
        jobs = [
            pool.submit(run, tool, name, fixed=fixed)
            for tool, name, fixed in todo
            if (tool, name, fixed) not in done
        ]
        for job in jobs:
            results.append(job.result())
            file.write(json.dumps(results[-1]) + "\n")
            file.flush()
    wanted = {(tool, name) for tool, name, _ in todo}
    results = [one for one in results if (one["tool"], one["fault"]) in wanted]
    text = f"# The same programs, other tools\n\n{stamp()}\n\n{table(results)}\n"
    print(text)
    if options.write:
        (RESULTS / "peers.md").write_text(text)


if __name__ == "__main__":
    main()
