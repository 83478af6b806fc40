# %% [markdown]
# # 4. A gradient that dies on its way
#
# Twelve layers with sigmoids between them. Each passes at most a quarter of the gradient on: what reaches the first layers is next to
# nothing, and they stay as they were drawn.

# %%
import matplotlib.pyplot as plt
import numpy as np
from digits import Digits, compare, run
from matplotlib.colors import LogNorm
from torch import nn


def deep(activation, depth=12, width=32):
    layers = [nn.Flatten(), nn.Linear(64, width), activation()]
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


# %%
sick = run("sick", Digits(deep(nn.Sigmoid)), epochs=4)

# %% [markdown]
# ## The fix: an activation whose slope is 1, and an initialization made for it


# %%
def initialized(net):
    for one in net:
        if isinstance(one, nn.Linear):
            nn.init.kaiming_normal_(one.weight, nonlinearity="relu")
            nn.init.zeros_(one.bias)
    return net


healthy = run("healthy", Digits(initialized(deep(nn.ReLU)), lr=1e-3), epochs=8)

# %% [markdown]
# The norm of the gradient, layer by layer over time, as the report draws it:


# %%
def heat_map(axes, story, title):
    looks = story.layers()["gradient norm"]
    table = np.array([list(values.values()) for _, values in looks]).T
    image = axes.imshow(table, aspect="auto", norm=LogNorm(1e-8, 10), cmap="viridis")
    axes.set(title=title, xlabel="look", ylabel="layer, first at the top")
    return image


figure, pair = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained", sharey=True)
heat_map(pair[0], sick, "sigmoid")
image = heat_map(pair[1], healthy, "ReLU")
figure.colorbar(image, ax=pair, label="gradient norm")
plt.show()

# %%
compare(sick, healthy)
