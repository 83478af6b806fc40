"""UPD, as people meet it."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ... import fault
from ._parts import Model, Program, digits, explained, loaders, mlp


class Squeezed(Model):
    """Digits through eight numbers, with a rate for each half."""

    def __init__(self, *, fixed: bool) -> None:
        super().__init__(3e-3)
        self.encoder, self.decoder = mlp(64, 48, 8), mlp(8, 48, 64)
        self.fixed = fixed

    def measure(self, batch):
        (x,) = batch
        out = self.decoder(self.encoder(x))
        return F.mse_loss(out, x), {"r2": explained(out, x)}

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.encoder.parameters(), lr=self.lr)
        if self.fixed:
            optimizer.add_param_group({"params": list(self.decoder.parameters())})
        else:
            optimizer = torch.optim.Adam(self.decoder.parameters(), lr=self.lr)
        return optimizer


@fault(
    "UPD101",
    "UPD102",
    "GEN102",
    source="common on forums: the second optimizer is assigned to the variable of the first",
)
def one_variable_for_both_optimizers(fixed: bool) -> Program:
    """The optimizer of the decoder is put in the variable of the encoder's, and the encoder
    stays random.
    """
    data = loaders(digits(1797)[0])
    return Program(Squeezed(fixed=fixed), **data, trainer={"max_epochs": 18})
