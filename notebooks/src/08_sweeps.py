# %% [markdown]
# # 8. A sweep that knows why a trial has failed
#
# A search over learning rates spends most of its time on trials that were lost after a few steps. With `halt_on` such a trial stops
# itself, and says why. Here the search is a loop; `examples/optuna_pruning.py` and `examples/ray_tune.py` do the same with Optuna and
# Ray Tune.

# %%
import matplotlib.pyplot as plt
from digits import Digits, run

RATES = (1e-6, 1e-3, 1e-2, 3.0)

# %% [markdown]
# ## The trials

# %%
trials = {}
for rate in RATES:
    print(f"--- lr = {rate:g}")
    trials[rate] = run(f"healthy/{rate:g}", Digits(lr=rate), epochs=4, halt_on="warning")

# %% [markdown]
# ## What they cost, and what they were stopped for
#
# `Story` reads the record of a run, as `nndebug report` does; in a script, `suite.findings` has the same.

# %%
print(f"{'lr':>7}  {'steps':>5}  {'loss':>5}  stopped for")
for rate, story in trials.items():
    lead, loss = story.lead, story.curves["loss"].means[-1]
    why = f"{lead['code']} {lead['name']}" if lead else "-"
    print(f"{rate:>7g}  {story.step:>5}  {loss:>5.2f}  {why}")

# %%
figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
for colour, (rate, story) in zip(("#7b4fc9", "#1d7a46", "#1f66d0", "#c62839"), trials.items()):
    curve, lead = story.curves["loss"], story.lead
    axes.plot(curve.steps, curve.means, color=colour, linewidth=1.2, label=f"lr = {rate:g}")
    if lead:
        axes.plot(curve.steps[-1], curve.means[-1], "x", color=colour)
        axes.annotate(
            lead["code"],
            (curve.steps[-1], curve.means[-1]),
            xytext=(6, 0),
            textcoords="offset points",
            color=colour,
            fontsize=9,
            va="center",
        )
axes.set(xlabel="optimizer step", ylabel="loss", yscale="log")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1))
plt.show()

# %% [markdown]
# What differs between two trials, beside their rate: `nndebug compare A B` prints this.

# %%
from lightning_nndebug.report.compare import differences

for heading, rows in differences(trials[1e-6], trials[1e-2]).items():
    print(heading)
    for name, (a, b) in list(rows.items())[:6]:
        print(f"  {name:<22} {a!s:<34} {b}")
