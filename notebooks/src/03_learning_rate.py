# %% [markdown]
# # 3. A learning rate that is wrong by far
#
# A rate that is too low looks like a hard problem, and one that is too high looks like a broken net. Every now and then the suite
# walks along the step that the optimizer has just made, shorter and longer, and looks where the loss of the *next* batch is least.

# %%
import matplotlib.pyplot as plt
from digits import Digits, compare, run

# %% [markdown]
# ## Too low

# %%
sick = run("low", Digits(lr=1e-7))

# %% [markdown]
# The advice is a number, not a direction. What the suite has seen along its steps:


# %%
def along(story, title):
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    for step, look in story.snapshots["StepProbe"][:6]:
        points = sorted((float(k), float(v)) for k, v in look["curve"].items())
        start = dict(points)[0.0]
        axes.plot(
            [k for k, _ in points if k],
            [v / start for k, v in points if k],
            "o-",
            ms=3,
            label=f"step {step}",
        )
    axes.axvline(1, color="gray", linestyle=":")
    axes.set(
        xscale="log",
        ylim=(0.7, 1.3),
        title=title,
        xlabel="multiple of the step that was made",
        ylabel="loss, relative to no step",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()


along(sick, "lr = 1e-7: the valley is far to the right")

# %% [markdown]
# ## As advised

# %%
healthy = run("healthy", Digits(lr=3e-3))
along(healthy, "lr = 3e-3: the step that was made is about right")

# %%
compare(sick, healthy)
