# %% [markdown]
# # 2. A NaN, and where it came from
#
# Each image is standardized by itself. One scan out of 1,440 is blank: its standard deviation is 0, and 0 / 0 is NaN. After one such
# batch every weight is NaN, and the loss never comes back. Which operation was it, on which line, and what did it get?

# %%
from digits import Digits, compare, images, loaders, run

x, y = images()
x[700] = -1  # the blank scan


# %%
class PerImage(Digits):
    def forward(self, x):
        axes = (1, 2, 3)
        return super().forward((x - x.mean(axes, keepdim=True)) / x.std(axes, keepdim=True))


sick = run("sick", PerImage(), loaders(x, y), halt_on="error")

# %% [markdown]
# The finding names the division and its line, shows the zero in the denominator, and leaves a script that makes the same NaN again
# in one step. With `halt_on="error"` the run stops there, before the update: its weights are still clean.
#
# ## The fix that it prints: an eps in the denominator


# %%
class PerImageWithEps(Digits):
    def forward(self, x):
        axes = (1, 2, 3)
        return super().forward(
            (x - x.mean(axes, keepdim=True)) / (x.std(axes, keepdim=True) + 1e-8)
        )


healthy = run("healthy", PerImageWithEps(), loaders(x, y))

# %%
compare(sick, healthy, log=True)

# %% [markdown]
# What exactly is known of the culprit is in the details of the finding:

# %%
import json

print(json.dumps(sick.lead["details"]["culprit"], indent=1)[:1200])
