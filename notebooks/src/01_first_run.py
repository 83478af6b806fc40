# %% [markdown]
# # 1. A first run
#
# A small convolutional net learns to read handwritten digits. Its backbone comes from a library that hands nets over ready for
# inference, and nobody has noticed. We train it as it is, read what the suite says, follow its advice, and train it again.

# %%
from digits import Digits, backbone, compare, images, run

# %% [markdown]
# The data: 1,797 digits of 8 x 8 pixels.

# %%
import matplotlib.pyplot as plt

x, y = images()
figure, axes = plt.subplots(1, 8, figsize=(7, 1.1), layout="constrained")
for one, image, label in zip(axes, x, y):
    one.imshow(image[0], cmap="gray")
    one.set_title(int(label), fontsize=9)
    one.axis("off")
plt.show()

# %% [markdown]
# ## The sick run
#
# `NNDebug()` is all that watching takes: `Trainer(callbacks=[NNDebug()])`. Here `run` does that for us.

# %%
sick = run("sick", Digits(backbone().eval()))

# %% [markdown]
# The line to read first says what (`eval-while-training`), since when, and where (`net`). It names the library call that leaves nets
# in this state, and what to do. The page of the rule says more: `nndebug explain MOD101`.
#
# ## The fix


# %%
class Fixed(Digits):
    def on_fit_start(self):
        self.net.train()


healthy = run("healthy", Fixed(backbone().eval()))

# %% [markdown]
# ## Before and after

# %%
compare(sick, healthy, log=True)

# %% [markdown]
# Both runs left a record; `nndebug report` draws it. What it starts with:

# %%
from lightning_nndebug.report.page import verdict

for story in (sick, healthy):
    print(*verdict(story), sep="\n", end="\n\n")
