"""Optuna: a trial that is certainly lost is pruned at once, and the study remembers why.

python examples/optuna_pruning.py
"""

from __future__ import annotations

import optuna
from _program import Classifier, batches, trainer

from lightning_nndebug import NNDebug, TrainingHalted


def objective(trial: optuna.Trial) -> float:
    model = Classifier(lr=trial.suggest_float("lr", 1e-3, 1e4, log=True))
    nndebug = NNDebug(halt_on="error")
    try:
        run = trainer(nndebug)
        run.fit(model, batches())
    except TrainingHalted as halted:
        raise optuna.TrialPruned(str(halted.findings[0].code)) from halted
    finally:
        trial.set_user_attr("findings", [one.code for one in nndebug.findings])
    return float(run.callback_metrics["loss"])


def main(trials: int = 6) -> optuna.Study:
    study = optuna.create_study(sampler=optuna.samplers.GridSampler({"lr": [0.1, 1e4]}))
    study.optimize(objective, n_trials=trials)
    for trial in study.trials:
        print(trial.number, trial.params, trial.state.name, trial.user_attrs["findings"])
    return study


if __name__ == "__main__":
    main()
