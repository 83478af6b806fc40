"""Ray Train: a run that is certainly lost ends on all workers at once, and its result says why.

    python examples/ray_train.py

The ranks agree before any of them raises, so all of them end in the same step with the same reason:
none is left to wait. Ray hands back what rank 0 returns. To have the run fail instead, let
TrainingHalted through: Ray reports it as the error of each worker.
"""

from __future__ import annotations

import sys
from pathlib import Path

import ray
from ray.train import ScalingConfig
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer
from ray.train.torch import TorchTrainer

from lightning_nndebug import NNDebug, TrainingHalted


def train(config: dict) -> tuple[float, str]:
    sys.path.insert(0, config["here"])  # Ray's workers start elsewhere
    from _program import Classifier, batches, trainer

    options = {"strategy": RayDDPStrategy(), "plugins": [RayLightningEnvironment()]}
    run = prepare_trainer(trainer(NNDebug(halt_on="error"), devices="auto", **options))
    try:
        run.fit(Classifier(config["lr"]), batches())
    except TrainingHalted as halted:
        return float("inf"), halted.findings[0].code
    return float(run.callback_metrics["loss"]), ""


def main() -> None:
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)  # one CPU is for Ray itself
    try:
        for lr in (0.1, 1e4):
            config = {"lr": lr, "here": str(Path(__file__).parent)}
            workers = ScalingConfig(num_workers=2)
            result = TorchTrainer(train, train_loop_config=config, scaling_config=workers).fit()
            print(lr, *result.return_value)
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
