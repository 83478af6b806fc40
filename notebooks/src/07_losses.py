# %% [markdown]
# # 7. A loss that gets the wrong thing
#
# The net ends in a softmax, because it is to return probabilities. `cross_entropy` takes logits, and applies a softmax of its own.
# Nothing crashes and the loss goes down, but it can never come below 1.46, and gradients fade the surer the net is. It is a mistake
# that one mostly takes for a hard problem.

# %%
from digits import Digits, backbone, compare, run
from torch import nn

sick = run("sick", Digits(nn.Sequential(backbone(), nn.Softmax(1))))

# %% [markdown]
# The finding comes with the first steps, and is an error: what a function was given is a fact, and not a matter of limits. The suite
# has listened to the calls of the usual loss functions, and names the line.
#
# ## The fix: hand over the logits

# %%
healthy = run("healthy", Digits(backbone()))

# %% [markdown]
# ## Before and after
#
# The dotted line is where the finding began. Both runs start at $\ln 10 \approx 2.3$, the loss of a net that knows nothing of ten
# classes; only one of them can leave it far behind.

# %%
compare(sick, healthy)

# %% [markdown]
# On so easy a task the accuracy hardly suffers, which is why such a mistake may live for years. Whoever reads the loss, or compares
# it with another model's, is misled:

# %%
for story, name in ((sick, "softmax twice"), (healthy, "softmax once")):
    loss = min(story.curves["loss"].means)
    print(f"{name:>13}: lowest loss {loss:.2f}, accuracy {story.metrics()['accuracy'][-1][1]:.1%}")
