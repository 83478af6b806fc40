"""Losses that look unusual, and are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

RIGHT: dict[str, Callable[[Any, Any], Any]] = {}


def right(step: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Registers a step."""
    RIGHT[step.__name__] = step
    return step


ONE_LINERS: dict[str, Callable[[Any, Any], Any]] = {
    # the 28 of the feasibility study
    "cross_entropy": lambda net, b: F.cross_entropy(net.classes(b["x"]), b["y"]),
    "label_smoothing": lambda net, b: F.cross_entropy(
        net.classes(b["x"]), b["y"], label_smoothing=0.1
    ),
    "log_softmax_twice": lambda net, b: F.nll_loss(
        net.classes(b["x"]).log_softmax(1).log_softmax(1), b["y"]
    ),
    "nll_of_log_softmax": lambda net, b: F.nll_loss(net.classes(b["x"]).log_softmax(1), b["y"]),
    "classes_moved": lambda net, b: F.cross_entropy(net.classes(b["s"]).transpose(1, 2), b["tags"]),
    "step_by_step": lambda net, b: F.cross_entropy(
        torch.stack([net.classes(b["s"][:, t]) for t in range(7)], -1), b["tags"]
    ),
    "one_answer_for_all_steps": lambda net, b: F.cross_entropy(
        net.classes(b["s"])[:, 0, :, None].expand(-1, -1, 7), b["tags"]
    ),
    "classes_of_a_square_moved_by_a_view": lambda net, b: F.cross_entropy(
        net.square(b["s"]).view(4, 7, 5, 5).flatten(0, 1)[:, 0], b["tags"].flatten()
    ),
    "one_head_for_all_steps": lambda net, b: F.cross_entropy(
        net.square(b["x"])[:4].view(4, 5, 5), b["square_tags"]
    ),
    "with_logits": lambda net, b: F.binary_cross_entropy_with_logits(
        net.one(b["x"]), b["yes_column"]
    ),
    "binary_of_sigmoid": lambda net, b: F.binary_cross_entropy(
        net.one(b["x"]).sigmoid(), b["yes_column"]
    ),
    "squared_error": lambda net, b: F.mse_loss(net.one(b["x"])[:, 0], b["quantity"]),
    "relu_of_positive": lambda net, b: F.mse_loss(net.one(b["x"]).relu()[:, 0], b["counts"]),
    "distillation": lambda net, b: (
        F.kl_div(
            (net.classes(b["x"]) / 2).log_softmax(1),
            b["teacher"].softmax(1),
            reduction="batchmean",
        )
        * 4
        + F.cross_entropy(net.classes(b["x"]), b["y"])
    ),
    "distillation_of_logarithms": lambda net, b: F.kl_div(
        net.classes(b["x"]).log_softmax(1),
        b["teacher"].log_softmax(1),
        reduction="batchmean",
        log_target=True,
    ),
    "info_nce": lambda net, b: F.cross_entropy(
        F.normalize(net.embed(b["x"])) @ F.normalize(net.embed(b["x"] + 0.1)).T / 0.1,
        torch.arange(16),
    ),
    "attention_before": lambda net, b: F.cross_entropy(
        torch.softmax(net.embed(b["x"]) @ net.embed(b["x"]).T, -1) @ net.classes(b["x"]), b["y"]
    ),
    "policy_gradient": lambda net, b: (
        -(
            torch.distributions.Categorical(logits=net.classes(b["x"])).log_prob(b["y"])
            * b["quantity"]
        ).mean()
    ),
    "vae": lambda net, b: (
        F.binary_cross_entropy_with_logits(net.classes(b["x"]), b["soft"])
        - 0.5
        * (1 + net.embed(b["x"]) - net.embed(b["x"]) ** 2 - net.embed(b["x"]).exp()).sum(1).mean()
    ),
    "ignored_labels": lambda net, b: F.cross_entropy(
        net.classes(b["x"]), torch.where(b["y"] == 0, -100, b["y"])
    ),
    "mixture_of_experts": lambda net, b: F.cross_entropy(
        (net.classes(b["x"]).softmax(1)[:, :, None] * net.embed(b["x"])[:, None]).sum(1)
        @ torch.ones(6, 5),
        b["y"],
    ),
    "gaussian": lambda net, b: F.gaussian_nll_loss(
        net.one(b["x"])[:, 0], b["quantity"], F.softplus(net.one(b["x"])[:, 0])
    ),
    "ctc": lambda net, b: F.ctc_loss(
        net.classes(b["s"]).log_softmax(-1).transpose(0, 1),
        b["words"],
        torch.full((4,), 7),
        torch.full((4,), 3),
    ),
    "towards_zero": lambda net, b: F.mse_loss(net.classes(b["x"]), torch.zeros(16, 5)),
    "constant_scores": lambda net, b: F.cross_entropy(net.classes(b["x"]) * 0 + 0.2, b["y"]),
    "relu_before_the_last_layer": lambda net, b: F.cross_entropy(
        net.classes(b["x"].relu()), b["y"]
    ),
    "sigmoid_of_shares": lambda net, b: F.mse_loss(net.classes(b["x"]).sigmoid(), b["soft"]),
    "gan": lambda net, b: F.softplus(-net.one(b["x"])).mean() + F.softplus(net.one(b["x"])).mean(),
    "multiple_instances": lambda net, b: F.nll_loss(
        torch.log(net.classes(b["s"]).softmax(-1).mean(1)), b["tags"][:, 0]
    ),
    # new ones
    "quantile_regression": lambda net, b: torch.max(
        0.9 * (b["column"] - net.one(b["x"])), -0.1 * (b["column"] - net.one(b["x"]))
    ).mean(),
    "quantiles_against_quantiles": lambda net, b: F.smooth_l1_loss(
        net.classes(b["x"])[:, :, None].expand(-1, -1, 5),
        b["teacher"][:, None, :].expand(-1, 5, -1),
        reduction="none",
    ).mean(),
    "all_pairs_broadcast": lambda net, b: F.huber_loss(
        net.classes(b["x"])[:, :, None], b["teacher"][:, None, :], reduction="none"
    ).mean(),
    "all_pairs_by_hand": lambda net, b: (
        (net.one(b["x"]).squeeze(1)[:, None] - b["quantity"]).abs().mean()
    ),
    "pairwise_ranking": lambda net, b: F.margin_ranking_loss(
        net.one(b["x"])[:8, 0], net.one(b["x"])[8:, 0], torch.ones(8)
    ),
    "hinge": lambda net, b: F.multi_margin_loss(net.classes(b["x"]), b["y"]),
    "hinge_by_hand": lambda net, b: F.relu(
        1 - (2 * b["yes"] - 1) * net.one(b["x"]).squeeze(1)
    ).mean(),
    "soft_margin": lambda net, b: F.soft_margin_loss(net.one(b["x"]).squeeze(1), 2 * b["yes"] - 1),
    "poisson": lambda net, b: F.poisson_nll_loss(net.one(b["x"]).squeeze(1), b["counts"]),
    "poisson_of_rates": lambda net, b: F.poisson_nll_loss(
        F.softplus(net.one(b["x"])).squeeze(1), b["counts"], log_input=False
    ),
    "squared_error_of_counts": lambda net, b: F.mse_loss(
        net.one(b["big"]).squeeze(1), b["counted"].float()
    ),
    "brier": lambda net, b: F.mse_loss(
        net.classes(b["x"]).softmax(1), F.one_hot(b["y"], 5).float()
    ),
    "one_class_description": lambda net, b: (
        (net.embed(b["x"]) - torch.ones(6)).square().sum(1).mean()
    ),
    "diffusion": lambda net, b: F.mse_loss(
        net.classes(b["x"] + torch.randn(16, 8)), torch.randn(16, 5)
    ),
    "normalizing_flow": lambda net, b: (
        0.5 * net.embed(b["x"]).square().sum(1) - net.one(b["x"]).squeeze(1)
    ).mean(),
    "maximum_likelihood_by_hand": lambda net, b: (
        -net.classes(b["x"]).log_softmax(1).gather(1, b["y"][:, None]).mean()
    ),
    "maximum_likelihood_by_index": lambda net, b: (
        -net.classes(b["x"]).log_softmax(1)[torch.arange(16), b["y"]].mean()
    ),
    "likelihood_weighted_by_losses": lambda net, b: (
        -(net.classes(b["x"]).log_softmax(1)[range(16), b["y"]] * -b["x"].abs().sum(1)).mean()
    ),
    "values_of_actions": lambda net, b: F.smooth_l1_loss(
        net.classes(b["x"])[torch.arange(16), b["y"]], b["quantity"]
    ),
    "distances_to_a_grid": lambda net, b: (
        (net.one(b["x"]).squeeze(1) - torch.linspace(0, 1, 16)[:, None]).square().mean()
    ),
    "shares_of_classes": lambda net, b: F.cross_entropy(net.classes(b["x"]), b["soft"]),
    "likelihood_of_several_purchases": lambda net, b: F.cross_entropy(
        net.classes(b["x"]), b["many"][1:2].expand(16, -1)
    ),
    "temperature_and_tanh": lambda net, b: F.cross_entropy(
        10 * torch.tanh(net.classes(b["x"])), b["y"]
    ),
    "cosine_classifier": lambda net, b: F.cross_entropy(
        16 * F.normalize(net.embed(b["x"])) @ torch.ones(6, 5), b["y"]
    ),
    "relu_and_pooling": lambda net, b: F.cross_entropy(
        net.classes(b["s"]).relu().mean(1), b["tags"][:, 0]
    ),
    "class_weights": lambda net, b: F.cross_entropy(
        net.classes(b["x"]), b["y"], weight=torch.arange(1.0, 6.0)
    ),
    "sum_reduction": lambda net, b: F.cross_entropy(net.classes(b["x"]), b["y"], reduction="sum"),
    "multi_label": lambda net, b: F.binary_cross_entropy_with_logits(
        net.classes(b["x"]), b["many"], pos_weight=torch.full((5,), 3.0)
    ),
    "head_for_a_square": lambda net, b: F.cross_entropy(
        net.square(b["square"][:, 0]).view(4, 5, 5), b["square_tags"]
    ),
    "entropy_bonus": lambda net, b: (
        F.cross_entropy(net.classes(b["x"]), b["y"])
        - 0.01 * torch.distributions.Categorical(logits=net.classes(b["x"])).entropy().mean()
    ),
    "unlearning_beside_learning": lambda net, b: (
        F.cross_entropy(net.classes(b["x"]), b["y"])
        - 0.1 * F.cross_entropy(net.bare(b["x"]), b["y"])
    ),
    "listwise_ranking": lambda net, b: F.cross_entropy(
        net.one(b["x"]).squeeze(1), b["unit"] / b["unit"].sum()
    ),
    "exact_fit": lambda net, b: F.mse_loss(0 * net.one(b["x"]) + b["column"], b["column"]),
    "log_cosh": lambda net, b: torch.log(torch.cosh(net.one(b["x"]) - b["column"])).mean(),
    "residual_net": lambda net, b: (b["teacher"] - net.classes(b["x"])).square().mean(),
    "triplet": lambda net, b: F.triplet_margin_loss(
        net.embed(b["x"]), net.embed(b["x"].flip(0)), net.embed(b["x"].roll(1, 0))
    ),
    "same_net_twice": lambda net, b: F.kl_div(
        net.classes(b["x"]).log_softmax(1),
        net.classes(F.dropout(b["x"])).softmax(1).detach(),
        reduction="batchmean",
    ),
    "norm_before_the_loss": lambda net, b: F.cross_entropy(net.norm(net.classes(b["x"])), b["y"]),
    "sequence_of_losses": lambda net, b: sum(
        F.cross_entropy(net.classes(b["s"][:, t]), b["tags"][:, t]) for t in range(7)
    ),
    "perceiver_of_words": lambda net, b: F.cross_entropy(
        net.classes(b["s"]).flatten(0, 1), b["tags"].flatten(), ignore_index=0
    ),
    "log_of_a_mixture": lambda net, b: (
        -torch.logsumexp(net.classes(b["x"]).log_softmax(1) + b["teacher"], 1).mean()
    ),
    "heatmap_of_two_axes": lambda net, b: F.kl_div(
        net.classes(b["s"]).flatten(1).log_softmax(1).view(4, 7, 5),
        torch.rand(4, 35).softmax(1).view(4, 7, 5),
        reduction="batchmean",
    ),
}
RIGHT.update(ONE_LINERS)


@right
def loss_inside_of_the_model(net, batch):
    """As the models of transformers do."""

    class ForSequenceClassification(nn.Module):
        def forward(self, x, labels):
            logits = net.classes(x)
            loss = nn.CrossEntropyLoss()(logits.view(-1, 5), labels.view(-1))
            return {"loss": loss, "logits": logits}

    return ForSequenceClassification()(batch["x"], batch["y"])["loss"]


@right
def focal(net, batch):
    ce = F.cross_entropy(net.classes(batch["x"]), batch["y"], reduction="none")
    return ((1 - torch.exp(-ce)) ** 2 * ce).mean()


@right
def softmax_for_a_metric(net, batch):
    scores = net.classes(batch["x"])
    scores.softmax(1).argmax(1)
    return F.cross_entropy(scores, batch["y"])


@right
def wrong_loss_for_a_log(net, batch):
    """What is only logged may be anything, even with a graph."""
    scores = net.classes(batch["x"])
    F.nll_loss(scores.softmax(1), batch["y"])
    F.cross_entropy(scores.softmax(1), batch["y"])
    return F.cross_entropy(scores, batch["y"])


@right
def soft_dice(net, batch):
    p = net.classes(batch["x"]).sigmoid()
    return 1 - (2 * (p * batch["many"]).sum() + 1) / ((p + batch["many"]).sum() + 1)


@right
def deep_q_learning(net, batch):
    value = net.classes(batch["x"]).gather(1, batch["y"][:, None]).squeeze(1)
    with torch.no_grad():
        target = batch["quantity"] + 0.9 * net.classes(batch["x"].roll(1, 0)).max(1).values
    return F.smooth_l1_loss(value, target)


@right
def adversarial_example(net, batch):
    """The attack maximizes what the training minimizes."""
    x = batch["x"].clone().requires_grad_()
    (slope,) = torch.autograd.grad(-F.cross_entropy(net.classes(x), batch["y"]), x)
    return F.cross_entropy(net.classes(batch["x"] - 0.1 * slope.sign()), batch["y"])


@right
def under_autocast(net, batch):
    with torch.autocast("cpu", torch.bfloat16):
        return F.cross_entropy(net.classes(batch["x"]), batch["y"])


@right
def compiled(net, batch):
    step = torch.compile(lambda x, y: F.cross_entropy(net.classes(x), y), backend="eager")
    with torch.compiler.set_stance("force_eager"):
        return step(batch["x"], batch["y"])


@right
def batch_of_one(net, batch):
    return F.mse_loss(net.one(batch["x"][:1]), batch["quantity"][:1])


@right
def weighed_by_sample(net, batch):
    error = F.mse_loss(net.one(batch["x"]), batch["column"], reduction="none")
    entropy = F.cross_entropy(net.classes(batch["x"]), batch["y"], reduction="none")
    return (error * batch["unit"][:, None]).mean() + (entropy * batch["unit"]).mean()


@right
def weighed_by_token_and_output(net, batch):
    scores = net.classes(batch["s"]).movedim(-1, 1)
    entropy = F.cross_entropy(scores, batch["tags"], reduction="none")
    error = F.mse_loss(net.classes(batch["x"]), batch["teacher"], reduction="none")
    by_token, by_output = torch.rand(entropy.shape[1]), torch.rand(error.shape[1])
    return (entropy * by_token).mean() + (error * by_output * batch["yes_column"]).mean()


@right
def weighed_in_all_pairs_on_purpose(net, batch):
    entropy = F.cross_entropy(net.classes(batch["x"]), batch["y"], reduction="none")
    return (entropy[None, :] * batch["unit"][:, None]).mean() + (
        entropy * batch["unit"][:, None]
    ).mean()


@right
def softmax_for_one_answer_of_many(net, batch):
    p = net.classes(batch["x"]).softmax(1)
    return F.binary_cross_entropy(p, F.one_hot(batch["y"], 5).float())


@right
def cosines_with_a_scale(net, batch):
    weight, x = F.normalize(net.classes.weight, dim=1), F.normalize(batch["x"] * net.scale)
    fixed, learned = 16 * F.linear(x, weight), F.linear(x, weight) * net.scale
    plain = F.linear(x, net.classes.weight)
    return sum(F.cross_entropy(one, batch["y"]) for one in (fixed, learned, plain))


@right
def cosines_of_samples(net, batch):
    z = F.normalize(net.embed(torch.cat([batch["x"], -batch["x"]])), dim=1)
    others = (z @ z.T / 0.2).masked_fill(torch.eye(len(z)) > 0, -1e9)
    one, other = z.chunk(2)
    return F.cross_entropy(others, torch.arange(len(z)).roll(len(z) // 2)) + F.cross_entropy(
        one @ other.T, torch.arange(len(one))
    )


@right
def a_mean_beside_each_row(net, batch):
    out = net.one(batch["x"])
    return F.mse_loss(out, batch["column"]) + (out.mean() - batch["column"].mean()) ** 2


@right
def the_mean_of_a_critic(net, batch):
    return net.one(batch["x"]).mean() - net.one(-batch["x"]).mean()


@right
def quantities_that_come_first(net, batch):
    out = net.one(batch["x"])
    return F.mse_loss(batch["column"], out) + F.l1_loss(batch["quantity"], out.squeeze(1))


@right
def divergence_the_other_way_round(net, batch):
    student = net.classes(batch["x"]).softmax(1)
    return F.kl_div(batch["teacher"].log_softmax(1), student, reduction="batchmean")


@right
def answers_that_are_learned(net, batch):
    p = net.one(batch["x"]).squeeze(1).sigmoid()
    return F.binary_cross_entropy(torch.full((len(p),), 0.3), p) + p.mean()


@right
def divergence_from_a_prior(net, batch):
    q = net.classes(batch["x"]).softmax(1)
    return F.cross_entropy(torch.zeros(len(q), 5), q) + (q * q.log()).sum(1).mean()


@right
def cosine_that_is_maximized(net, batch):
    given = net.classes(batch["x"])
    return 1 - F.cosine_similarity(given, batch["teacher"]).mean()


@right
def cosines_of_one_and_not_the_other(net, batch):
    given, teacher = net.classes(batch["x"]), batch["teacher"]
    near = F.cosine_similarity(given, teacher).mean()
    return F.cosine_similarity(given, teacher.flip(0)).mean() - near


@right
def overlap_as_a_log(net, batch):
    p = net.one(batch["x"]).squeeze(1).sigmoid()
    overlap = 2 * (p * batch["yes"]).sum() / (p.sum() + batch["yes"].sum())
    return F.binary_cross_entropy(p, batch["yes"]) - overlap.log()


@right
def overlap_with_costs(net, batch):
    p = net.one(batch["x"]).squeeze(1).sigmoid()
    return (p * batch["unit"]).sum() / p.sum()


@right
def nearest_of_all_steps(net, batch):
    apart = (net.one(batch["s"]).view(4, 1, 7) - batch["steps"]).abs()
    return apart.amin(1).mean() + apart.amin(2).mean()


@right
def per_cent_of_what_there_is(net, batch):
    counted = batch["counted"].float()
    error = (net.one(batch["big"]).squeeze(1) - counted).abs() / (counted + 1e-8)
    return torch.where(counted > 0, error, 0.0).mean()


@right
def per_cent_of_all(net, batch):
    counted = batch["counted"].float()
    return (net.one(batch["big"]).squeeze(1) - counted).abs().sum() / counted.sum()


@right
def shares_of_one_more(net, batch):
    counted = batch["counted"].float()
    return ((net.one(batch["big"]).squeeze(1) - counted).abs() / (counted + 1)).mean()


@right
def errors_by_their_variance(net, batch):
    error = net.one(batch["x"]).squeeze(1) - batch["quantity"]
    return (error.square() / batch["unit"].clamp(min=1e-7)).mean()


@right
def views_against_each_other(net, batch):
    views = batch["x"] + 0.1 * torch.randn(2, *batch["x"].shape)
    one, two = F.normalize(net.embed(views), dim=2)
    return F.cross_entropy(one @ two.T / 0.2, torch.arange(len(one)))


@right
def embeddings_that_are_all_the_same(net, batch):
    z = F.normalize(net.embed(0 * batch["x"]), dim=1)
    return F.cross_entropy(z @ z.T / 0.2, torch.arange(len(z)))


@right
def codes_that_are_kept_apart(net, batch):
    h = net.embed(torch.randn(64, *batch["x"].shape[1:]))
    z = F.normalize(h, dim=1)
    return (
        h.square().mean()
        + F.cross_entropy(net.classes(batch["x"]), batch["y"])
        + F.cross_entropy(z @ z.T / 0.2, torch.arange(len(z)))
    )


@right
def both_sides_of_an_equation(net, batch):
    x = batch["column"].detach().requires_grad_()
    height = torch.tanh(net.one(x.expand(-1, 8)))
    slope = torch.autograd.grad(height.sum(), x, create_graph=True)[0]
    return (slope + torch.sin(3 * x)).square().mean()


@right
def sums_of_all_pairs(net, batch):
    scores = net.one(batch["x"])[:, 0]
    return (scores[:, None] + batch["quantity"]).square().mean()


@right
def bias_of_each_sample(net, batch):
    return (net.one(batch["x"]) + batch["quantity"]).logsumexp(1).mean()
