"""Ray Tune: a trial that is certainly lost ends at once, and its result says why.

    python examples/ray_tune.py

Ray Train starts one worker a process: the ranks agree before any of them raises, so all of them end
in the same step. Let TrainingHalted through there, and Ray reports it as the error of the run.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ray
from ray import tune

from lightning_nndebug import NNDebug, TrainingHalted


def train(config: dict) -> None:
    sys.path.insert(0, config["here"])  # Ray's workers start elsewhere
    from _program import Classifier, batches, trainer

    nndebug = NNDebug(halt_on="error")
    loss, reason = float("inf"), ""
    try:
        run = trainer(nndebug)
        run.fit(Classifier(config["lr"]), batches())
        loss = float(run.callback_metrics["loss"])
    except TrainingHalted as halted:
        reason = halted.findings[0].code
    tune.report({"loss": loss, "halted_by": reason})


def main() -> tune.ResultGrid:
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        here = str(Path(__file__).parent)
        grid = {"lr": tune.grid_search([0.1, 1e4]), "here": here}
        results = tune.Tuner(train, param_space=grid).fit()
        for one in results:
            print(one.config["lr"], one.metrics["loss"], one.metrics["halted_by"])
        return results
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
