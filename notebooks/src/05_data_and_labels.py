# %% [markdown]
# # 5. Data that nobody has shuffled
#
# The same net, the same digits, sorted by class as many folders of images are. Each batch pulls the net to the class at hand, and it
# forgets the one before. The loss goes down and up again, once for each class.

# %%
import matplotlib.pyplot as plt
import numpy as np
from digits import Digits, compare, images, loaders, run

x, y = images()
order = y[:1440].argsort(stable=True)
x[:1440], y[:1440] = x[:1440][order], y[:1440][order]

# %%
sick = run("sick", Digits(), loaders(x, y, shuffle=False), select=["CLS", "NAN"])

# %% [markdown]
# The rule compares how alike two samples of one step are with how alike any two samples are. In random order the two numbers agree.
#
# ## The fix

# %%
healthy = run("healthy", Digits(), loaders(x, y, shuffle=True), select=["CLS", "NAN"])

# %% [markdown]
# The labels of the first batches of both runs. Well shuffled, all columns look alike.

# %%
figure, pair = plt.subplots(1, 2, figsize=(8, 3), layout="constrained", sharey=True)
for axes, story, title in ((pair[0], sick, "sorted"), (pair[1], healthy, "shuffled")):
    counts = np.array([look["counts"] for _, look in story.snapshots["Labels"][:20]]).T
    image = axes.imshow(counts / counts.sum(0), origin="lower", aspect="auto", vmin=0, vmax=1)
    axes.set(title=title, xlabel="training batch", xticks=range(0, 20, 5))
pair[0].set_ylabel("class")
figure.colorbar(image, ax=pair, label="share of the batch")
plt.show()

# %%
compare(sick, healthy)
