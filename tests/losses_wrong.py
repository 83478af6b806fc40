"""Misused losses. Each says the code it must get and a word of the message; ``# here`` is the line.

Those without a code are told by another detector: labels (CLS105), outputs (OUT102, OUT104, OUT105).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

Step = Callable[[Any, Any], Any]
WRONG: dict[str, tuple[Step, str | None, str]] = {}


def wrong(code: str | None, word: str = "") -> Callable[[Step], Step]:
    """Registers a step with the code that it must get."""

    def register(step: Step) -> Step:
        WRONG[step.__name__] = step, code, word
        return step

    return register


# -- the 32 of the feasibility study


@wrong("LOS102", "takes the softmax itself")
def softmax_into_cross_entropy(net, batch):
    return F.cross_entropy(F.softmax(net.classes(batch["x"]), 1), batch["y"])  # here


@wrong("LOS102", "takes the softmax itself")
def softmax_module_into_criterion(net, batch):
    model = nn.Sequential(net.classes, nn.Softmax(dim=1))
    return nn.CrossEntropyLoss()(model(batch["x"]), batch["y"])  # here


@wrong("LOS102", "takes the softmax itself")
def softmax_reshaped(net, batch):
    p = net.classes(batch["s"]).softmax(-1)
    return F.cross_entropy(p.reshape(-1, 5), batch["tags"].reshape(-1))  # here


@wrong("LOS102", "takes the softmax itself")
def softmax_with_label_smoothing(net, batch):
    p = F.softmax(net.classes(batch["x"]), 1)
    return F.cross_entropy(p, batch["y"], label_smoothing=0.1)  # here


@wrong("LOS102", "takes the softmax itself")
def softmax_with_soft_targets(net, batch):
    p = F.softmax(net.classes(batch["x"]), 1)
    return F.cross_entropy(p, F.one_hot(batch["y"], 5).float())  # here


@wrong("LOS102", "takes the softmax itself")
def softmax_by_hand(net, batch):
    e = torch.exp(net.classes(batch["x"]))
    return F.cross_entropy(e / e.sum(1, keepdim=True), batch["y"])  # here


@wrong("LOS102", "takes the softmax itself")
def softmax_in_half_precision(net, batch):
    p = F.softmax(net.classes(batch["x"]).bfloat16(), 1).float()
    return F.cross_entropy(p, batch["y"])  # here


@wrong(None)
def log_softmax_into_cross_entropy(net, batch):
    """Superfluous, and harmless."""
    return F.cross_entropy(F.log_softmax(net.classes(batch["x"]), 1), batch["y"])


@wrong("LOS102", "output of sigmoid")
def sigmoid_into_with_logits(net, batch):
    p = torch.sigmoid(net.one(batch["x"]))
    return F.binary_cross_entropy_with_logits(p, batch["yes_column"])  # here


@wrong("LOS102", "add up to")
def logits_into_nll(net, batch):
    return F.nll_loss(net.classes(batch["x"]), batch["y"])  # here


@wrong("LOS102", "gets probabilities")
def softmax_into_nll(net, batch):
    return F.nll_loss(F.softmax(net.classes(batch["x"]), 1), batch["y"])  # here


@wrong("LOS103", "all pairs")
def squared_error_of_a_column(net, batch):
    return F.mse_loss(net.one(batch["x"]), batch["quantity"])  # here


@wrong("LOS103", "all pairs")
def squared_error_of_a_column_by_hand(net, batch):
    return ((net.one(batch["x"]) - batch["quantity"]) ** 2).mean()  # here


@wrong("LOS103", "all pairs")
def absolute_error_of_a_column(net, batch):
    return nn.L1Loss()(net.one(batch["x"]), batch["quantity"])  # here


@wrong("LOS102", "last axis")
def classes_in_the_last_axis(net, batch):
    target = F.one_hot(batch["tags"], 5).float()
    return F.cross_entropy(net.classes(batch["s"]), target)  # here


@wrong("LOS102", "last axis")
def as_many_steps_as_classes(net, batch):
    logits = net.classes(batch["square"])
    return F.cross_entropy(logits, batch["square_tags"])  # here


@wrong("LOS102", "were viewed")
def classes_moved_by_a_view(net, batch):
    logits = net.classes(batch["s"])
    return F.cross_entropy(logits.reshape(len(logits), 5, -1), batch["tags"])  # here


@wrong("LOS102", "over the batch")
def log_softmax_over_the_batch(net, batch):
    return F.nll_loss(F.log_softmax(net.classes(batch["x"]), 0), batch["y"])  # here


@wrong(None)
def softmax_over_one_unit(net, batch):
    return F.binary_cross_entropy(F.softmax(net.one(batch["x"]), 1), batch["yes_column"])


@wrong(None)
def cross_entropy_of_one_unit(net, batch):
    return F.cross_entropy(net.one(batch["x"]), torch.zeros(16, dtype=torch.long))


@wrong("LOS102", "ReLU")
def relu_before_cross_entropy(net, batch):
    return F.cross_entropy(net.classes(batch["x"]).relu(), batch["y"])  # here


@wrong(None)
def relu_before_negative_targets(net, batch):
    return F.mse_loss(net.one(batch["x"]).relu(), batch["column"])


@wrong(None)
def sigmoid_before_large_targets(net, batch):
    return F.mse_loss(net.one(batch["x"]).sigmoid(), batch["column"])


@wrong(None)
def tanh_before_large_targets(net, batch):
    return F.l1_loss(net.one(batch["x"]).tanh(), batch["column"])


@wrong(None)
def log_of_softmax_by_hand(net, batch):
    """Right, if not safe: NAN102 tells when it fails."""
    p = F.softmax(net.classes(batch["x"]), 1)
    return -(F.one_hot(batch["y"], 5) * torch.log(p)).sum(1).mean()


@wrong(None)
def log_of_raw_scores_by_hand(net, batch):
    """No function of torch's is asked, so nobody knows what was meant."""
    scores = net.classes(batch["x"]).abs()
    return -(F.one_hot(batch["y"], 5) * torch.log(scores)).sum(1).mean()


@wrong("LOS102", "probabilities")
def kl_div_of_probabilities(net, batch):
    p = F.softmax(net.classes(batch["x"]), 1)
    return F.kl_div(p, batch["soft"], reduction="batchmean")  # here


@wrong("LOS102", "negative")
def kl_div_of_two_logarithms(net, batch):
    q = F.log_softmax(net.classes(batch["x"]), 1)
    return F.kl_div(q, F.log_softmax(batch["teacher"], 1), reduction="batchmean")  # here


@wrong(None)
def answers_of_one_and_two(net, batch):
    return F.binary_cross_entropy_with_logits(net.one(batch["x"]), batch["yes_column"] + 1)


@wrong("LOS102", "takes the softmax itself")
def softmax_in_a_compiled_function(net, batch):
    def loss(x, y):
        return F.cross_entropy(F.softmax(net.classes(x), 1), y)  # here

    with torch.compiler.set_stance("force_eager"):
        return torch.compile(loss, backend="eager")(batch["x"], batch["y"])


# The three without a graph are in test_losses.py, under a Trainer: detached, no_grad and argmax.

# -- new ones


@wrong("LOS102", "output of sigmoid")
def sigmoid_into_cross_entropy(net, batch):
    return F.cross_entropy(net.classes(batch["x"]).sigmoid(), batch["y"])  # here


@wrong("LOS102", "output of tanh")
def tanh_into_cross_entropy(net, batch):
    return F.cross_entropy(torch.tanh(net.classes(batch["x"])), batch["y"])  # here


@wrong("LOS102", "output of softmax")
def softmax_into_with_logits(net, batch):
    p = net.classes(batch["x"]).softmax(1)
    return F.binary_cross_entropy_with_logits(p, batch["many"])  # here


@wrong("LOS102", "output of logsigmoid")
def logsigmoid_into_with_logits(net, batch):
    p = F.logsigmoid(net.one(batch["x"]))
    return F.binary_cross_entropy_with_logits(p, batch["yes_column"])  # here


@wrong("LOS102", "output of sigmoid")
def clamped_sigmoid_into_with_logits(net, batch):
    p = net.one(batch["x"]).sigmoid().clamp(1e-6, 1 - 1e-6).squeeze(-1)
    return F.binary_cross_entropy_with_logits(p, batch["yes"])  # here


@wrong("LOS102", "ReLU")
def relu_before_with_logits(net, batch):
    scores = nn.ReLU()(net.one(batch["x"]))
    return F.binary_cross_entropy_with_logits(scores, batch["yes_column"])  # here


@wrong("LOS102", "dropout")
def dropout_on_the_scores(net, batch):
    scores = F.dropout(net.classes(batch["x"]), 0.5)
    return F.cross_entropy(scores, batch["y"])  # here


@wrong("LOS102", "wants probabilities")
def logits_into_binary_cross_entropy(net, batch):
    return F.binary_cross_entropy(5 * net.one(batch["x"]), batch["yes_column"])  # here


@wrong("LOS102", "one sample of 16 classes")
def flat_scores_into_cross_entropy(net, batch):
    return F.cross_entropy(net.one(batch["x"]).squeeze(1), batch["yes"])  # here


@wrong("LOS102", "raw scores")
def kl_div_of_raw_scores(net, batch):
    return F.kl_div(net.classes(batch["x"]), batch["soft"], reduction="batchmean")  # here


@wrong("LOS102", "the first argument is probabilities")
def kl_div_exchanged(net, batch):
    p = net.classes(batch["x"]).softmax(1)
    return F.kl_div(p, batch["soft"].log(), reduction="batchmean")  # here


@wrong("LOS102", "log_target=True")
def kl_div_of_probabilities_as_logarithms(net, batch):
    q = net.classes(batch["x"]).log_softmax(1)
    return F.kl_div(q, batch["soft"], reduction="batchmean", log_target=True)  # here


@wrong("LOS102", "add up to")
def logits_into_ctc(net, batch):
    scores = net.classes(batch["s"]).transpose(0, 1)
    lengths = torch.full((4,), 7), torch.full((4,), 3)
    return F.ctc_loss(scores, batch["words"], *lengths)  # here


@wrong("LOS102", "gets probabilities")
def softmax_into_ctc(net, batch):
    scores = net.classes(batch["s"]).softmax(-1).transpose(0, 1)
    lengths = torch.full((4,), 7), torch.full((4,), 3)
    return F.ctc_loss(scores, batch["words"], *lengths)  # here


@wrong("LOS102", "taken for their logarithms")
def exponential_into_poisson(net, batch):
    rates = net.one(batch["x"]).exp().squeeze(1)
    return F.poisson_nll_loss(rates, batch["counts"])  # here


@wrong("LOS102", "negative")
def negative_rates_into_poisson(net, batch):
    rates = net.one(batch["x"]).squeeze(1)
    return F.poisson_nll_loss(rates, batch["counts"], log_input=False)  # here


@wrong("LOS102", "wants -1 and 1")
def zeros_and_ones_into_soft_margin(net, batch):
    return F.soft_margin_loss(net.one(batch["x"]).squeeze(1), batch["yes"])  # here


@wrong("LOS102", "wants -1 and 1")
def zeros_and_ones_into_cosine_embedding(net, batch):
    a, b = net.embed(batch["x"]), net.embed(batch["x"].flip(0))
    return F.cosine_embedding_loss(a, b, batch["yes"])  # here


@wrong("LOS102", "takes the softmax itself")
def softmax_beside_another_term(net, batch):
    p = net.classes(batch["x"]).softmax(1)
    penalty = net.classes.weight.pow(2).sum()
    return 0.5 * F.cross_entropy(p, batch["y"]) + 1e-4 * penalty  # here


@wrong("LOS102", "takes the softmax itself")
def softmax_before_focal_loss(net, batch):
    ce = F.cross_entropy(net.classes(batch["x"]).softmax(1), batch["y"], reduction="none")  # here
    return ((1 - torch.exp(-ce)) ** 2 * ce).mean()


@wrong("LOS102", "takes the softmax itself")
def softmax_under_autocast(net, batch):
    with torch.autocast("cpu", torch.bfloat16):
        p = net.classes(batch["x"]).softmax(1)
        return F.cross_entropy(p, batch["y"])  # here


@wrong("LOS103", "all pairs")
def temporal_difference_by_hand(net, batch):
    with torch.no_grad():
        target = batch["quantity"][:, None] + 0.9 * net.one(batch["x"].flip(0))
    return (net.one(batch["x"]).squeeze(1) - target).pow(2).mean()  # here


@wrong("LOS103", "all pairs")
def huber_loss_of_a_column(net, batch):
    return F.huber_loss(net.one(batch["x"]).view(-1, 1), batch["quantity"])  # here


@wrong("LOS103", "all pairs")
def smooth_loss_of_flat_predictions(net, batch):
    return F.smooth_l1_loss(net.one(batch["x"]).squeeze(), batch["column"])  # here


@wrong("LOS103", "all pairs")
def root_of_squares_by_hand(net, batch):
    return torch.sqrt((batch["quantity"] - net.one(batch["x"])).square().mean())  # here


@wrong("LOS103", "all pairs")
def poisson_of_a_column(net, batch):
    return F.poisson_nll_loss(net.one(batch["x"]), batch["counts"])  # here


@wrong("LOS109", "negated")
def negated_cross_entropy(net, batch):
    return -F.cross_entropy(net.classes(batch["x"]), batch["y"])  # here


@wrong("LOS109", "negated")
def loss_subtracted(net, batch):
    return 1 - 2.0 * F.mse_loss(net.one(batch["x"]), batch["column"]) / 4  # here


@wrong("LOS102", "classes of a sample")
def several_classes_into_cross_entropy(net, batch):
    return F.cross_entropy(net.classes(batch["x"]), batch["many"])  # here


@wrong("LOS109", "negated")
def negated_squared_error_by_hand(net, batch):
    return -((net.one(batch["x"]) - batch["column"]) ** 2).mean()  # here


@wrong("LOS109", "log-likelihood")
def likelihood_minimized(net, batch):
    return net.classes(batch["x"]).log_softmax(1).gather(1, batch["y"][:, None]).mean()  # here


@wrong("LOS109", "log-likelihood")
def likelihood_minimized_by_index(net, batch):
    log_p = F.log_softmax(net.classes(batch["x"]), dim=1)
    return log_p[torch.arange(16), batch["y"]].sum() / 16  # here


@wrong("LOS109", "numbers of 10 classes")
def squared_error_of_classes(net, batch):
    return F.mse_loss(net.one(batch["big"]).squeeze(1), batch["digits"].float())  # here


@wrong("LOS109", "numbers of 10 classes")
def squared_error_of_classes_by_hand(net, batch):
    return (net.one(batch["big"]).squeeze(1) - batch["digits"]).pow(2).mean()  # here


@wrong("LOS109", "should be probabilities")
def answers_that_are_quantities(net, batch):
    return F.binary_cross_entropy_with_logits(net.one(batch["x"]), batch["column"])  # here


@wrong("LOS103", "weighed by every weight")
def weights_in_a_row(net, batch):
    error = F.mse_loss(net.one(batch["x"]), batch["column"], reduction="none")  # here
    return (error * batch["unit"]).sum() / batch["unit"].sum()


@wrong("LOS103", "weighed by every weight")
def weights_in_a_column(net, batch):
    entropy = F.cross_entropy(net.classes(batch["x"]), batch["y"], reduction="none")  # here
    return (batch["column"].exp() * entropy).mean()


@wrong("LOS103", "weighed by every weight")
def variances_in_a_row(net, batch):
    error = F.mse_loss(net.one(batch["x"]), batch["column"], reduction="none")  # here
    return (error / (batch["unit"] + 1)).mean()


@wrong("LOS102", "right at once")
def softmax_for_several_answers(net, batch):
    p = net.classes(batch["x"]).softmax(1)
    return F.binary_cross_entropy(p, batch["many"].float())  # here


@wrong("LOS102", "cannot fall below 0.43")
def cosines_of_classes(net, batch):
    x, weight = F.normalize(net.embed(batch["x"])), F.normalize(net.classes.weight[:, :6])
    return F.cross_entropy(F.linear(x, weight), batch["y"])  # here


@wrong("LOS102", "cosines, 0.07 at most")
def cosines_times_their_temperature(net, batch):
    one, other = (F.normalize(net.embed(batch["x"] + i), dim=1) for i in range(2))
    return F.cross_entropy(one @ other.T * 0.07, torch.arange(len(one)))  # here


@wrong("LOS102", "the most likely one, and never the answer")
def views_with_themselves(net, batch):
    z = F.normalize(net.embed(torch.cat([batch["x"], -batch["x"]])), dim=1)
    return F.cross_entropy(z @ z.T / 0.2, torch.arange(len(z)).roll(len(z) // 2))  # here


@wrong("LOS109", "wrong in every row")
def means_of_a_batch(net, batch):
    return (net.one(batch["x"]).mean() - batch["quantity"].mean()) ** 2  # here


@wrong("LOS109", "wrong in every row")
def means_in_a_loss_function(net, batch):
    return F.l1_loss(net.one(batch["x"]).mean(), batch["column"].mean())  # here


@wrong("LOS102", "wants the predictions first")
def targets_come_first(net, batch):
    p = net.one(batch["x"]).squeeze(1).sigmoid()
    return F.binary_cross_entropy(0.9 * batch["yes"] + 0.05, p)  # here


@wrong("LOS102", "wants the predictions first")
def answers_come_first(net, batch):
    p = net.one(batch["x"]).squeeze(1).sigmoid()
    return F.binary_cross_entropy((batch["y"] > 1).float(), p)  # here


@wrong("LOS102", "wants the predictions first")
def classes_come_first(net, batch):
    return F.cross_entropy(F.one_hot(batch["y"], 5).float(), net.classes(batch["x"]))  # here


@wrong("LOS102", "the second logarithms")
def teachers_come_first(net, batch):
    student = net.classes(batch["x"]).log_softmax(1)
    return F.kl_div(batch["teacher"].softmax(1), student)  # here


@wrong("LOS103", "all pairs")
def quantities_come_first_in_pairs(net, batch):
    return F.mse_loss(batch["quantity"], net.one(batch["x"]))  # here


@wrong("LOS109", "minimized")
def cosine_that_is_minimized(net, batch):
    return F.cosine_similarity(net.classes(batch["x"]), batch["teacher"]).mean()  # here


@wrong("LOS103", "all pairs")
def steps_along_another_axis(net, batch):
    p = net.one(batch["s"]).view(4, 1, 7)
    return (p - batch["steps"]).abs().mean()  # here


@wrong("LOS103", "all pairs")
def steps_along_another_axis_in_a_function(net, batch):
    return F.mse_loss(net.one(batch["s"]).transpose(1, 2), batch["steps"])  # here


@wrong("LOS109", "divided by their targets")
def per_cent_of_counts(net, batch):
    counted = batch["counted"].float()
    error = (net.one(batch["big"]).squeeze(1) - counted).abs()  # here
    return (error / (counted + 1e-8)).mean()


@wrong("LOS109", "divided by their targets")
def per_cent_of_counts_that_are_clamped(net, batch):
    counted = batch["counted"].float()
    error = F.l1_loss(net.one(batch["big"]).squeeze(1), counted, reduction="none")  # here
    return 100 * (error / counted.clamp(min=1e-6)).sum() / len(error)


@wrong("LOS109", "divided by their targets")
def squared_shares_of_counts(net, batch):
    counted = batch["counted"].float()
    error = net.one(batch["big"]).squeeze(1) - counted  # here
    return ((error / (counted + 1e-7)) ** 2).mean()


@wrong("LOS109", "both views of it are the same")
def view_against_itself(net, batch):
    z = F.normalize(net.embed(torch.randn(64, *batch["x"].shape[1:])), dim=1)
    return F.cross_entropy(z @ z.T / 0.2, torch.arange(len(z)))  # here


@wrong("LOS109", "both views of it are the same")
def twice_the_same_view_among_all_others(net, batch):
    z = F.normalize(net.embed(torch.randn(32, *batch["x"].shape[1:]).repeat(2, 1)), dim=1)
    others = (z @ z.T / 0.2).masked_fill(torch.eye(len(z)) > 0, -1e9)
    return F.cross_entropy(others, torch.arange(len(z)).roll(len(z) // 2))  # here


# -- made probabilities twice


@wrong("LOS102", "the sigmoid of a sigmoid")
def sigmoid_in_the_net_and_in_the_step(net, batch):
    model = nn.Sequential(net.one, nn.Sigmoid())
    p = torch.sigmoid(model(batch["x"]).squeeze(1))
    return F.binary_cross_entropy(p, batch["yes"])  # here


@wrong("LOS102", "the log_softmax of a softmax")
def softmax_in_the_net_and_its_logarithm_in_the_step(net, batch):
    model = nn.Sequential(net.classes, nn.Softmax(dim=1))
    return F.nll_loss(F.log_softmax(model(batch["x"]), dim=1), batch["y"])  # here


@wrong("LOS103", "all pairs")
def both_sides_of_an_equation(net, batch):
    x = batch["column"].detach().requires_grad_()
    height = torch.tanh(net.one(x.expand(-1, 8)))
    slope = torch.autograd.grad(height.sum(), x, create_graph=True)[0]
    load = torch.sin(3 * x[:, 0])
    return (slope + load).square().mean()  # here
