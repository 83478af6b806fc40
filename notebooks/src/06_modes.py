# %% [markdown]
# # 6. Dropout that is never off
#
# Somebody wrote dropout as a function, and the function does not know of `eval()`. Validation is noisier and worse than it need be,
# and so is the model that is shipped.

# %%
from digits import Digits, compare, run
from torch import nn
from torch.nn import functional as F


class AlwaysDropping(Digits):
    def __init__(self):
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU()))
        self.head = nn.Linear(128, 10)

    def forward(self, x):
        return self.head(F.dropout(self.net(x), 0.5))


sick = run("sick", AlwaysDropping(), epochs=4)

# %% [markdown]
# The finding names the line of the call.
#
# ## The fix: tell the function


# %%
class Dropping(AlwaysDropping):
    def forward(self, x):
        return self.head(F.dropout(self.net(x), 0.5, training=self.training))


healthy = run("healthy", Dropping(), epochs=4)

# %%
for story, name in ((sick, "always dropping"), (healthy, "only in training")):
    print(f"{name:>17}: accuracy {story.metrics()['accuracy'][-1][1]:.1%}")

# %%
compare(sick, healthy)
