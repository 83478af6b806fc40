"""Six thousand samples go into each update of a net that a few hundred would serve as well."""

from __future__ import annotations

from program import Program, digits

from cases._parts import Classifier, loader


def program(batches: int) -> Program:
    train = loader(*digits(), batch_size=256)
    trainer = {"max_steps": 36, "accumulate_grad_batches": batches}
    return Program(Classifier(), train, trainer=trainer)


def sick() -> Program:
    return program(batches=24)


def healthy() -> Program:
    return program(batches=1)
