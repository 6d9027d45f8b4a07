# %% [markdown]
# # A ResNet, and how far it goes
#
# Residual connections tie channels of many layers together. Here a ResNet-20 is pruned to four
# sizes, to see where its accuracy breaks. The one with a tenth of the MACs is then trained on, with
# the whole network as its teacher.
#
# The same lines take a network of timm or torchvision, such as
# `timm.create_model("resnet18", num_classes=10, in_chans=1)`.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import mipp
from mipp.graph import trace
from mipp.retrain import Recipe, evaluate, train

training = mipp.data.Batches(mipp.data.load("digits"), 64, shuffle=True)
test = mipp.data.Batches(mipp.data.load("digits", "test"), 256)

model = mipp.models.build("resnet20b", width=0.5, in_channels=1, seed=0)
train(model, training, Recipe(epochs=6, peak_lr=0.1))


def accuracy(net):
    return 100 * evaluate(net, test).accuracy


print(f"{accuracy(model):.1f} % of the test images are right")

# %% [markdown]
# ## Which channels belong together?
#
# The blocks of a stage are added to the same stream. A channel of that stream can only be removed
# from all of them at once, so these layers are one group. The channels inside a block are free.

# %%
images, _ = next(iter(test))
graph = trace(model, (images[:2],))


def layers_of(group):
    return {axis.tensor.rpartition(".")[0] for axis in group.producers}


for group in graph.groups:
    layers = layers_of(group)
    if len(layers) > 1:
        print(f"{group.n_units} channels of {len(layers)} layers: {', '.join(sorted(layers))}")
print(len(graph.groups), "groups in all")

# %% [markdown]
# ## Four budgets, one measurement
#
# `mipp.plans` measures once for all budgets. For comparison, the units with the smallest weights
# go, the same share from each layer. Both get the same refit, and nothing is trained. One network
# proves little, so there are three.

# %%
shares = [50, 25, 10, 5]
budgets = [f"macs={share}%" for share in shares]
networks = [model]
for seed in (1, 2):
    networks.append(mipp.models.build("resnet20b", width=0.5, in_channels=1, seed=seed))
    train(networks[-1], training, Recipe(epochs=6, peak_lr=0.1), seed=seed)

found = {}
for way, settings in {"mipp": {}, "l2": {"method": "l2", "allocation": "uniform"}}.items():
    plans = [mipp.plans(network, training, budgets, **settings) for network in networks]
    found[way] = torch.tensor([[accuracy(plan.apply()) for plan in each] for each in plans])

print(f"whole    {sum(map(accuracy, networks)) / 3:.1f} %")
print("MACs   ", *(f"{share:4}%" for share in shares))
for way, values in found.items():
    print(f"{way:7}", *(f"{value:5.1f}" for value in values.mean(0)))

# %%
_, axes = plt.subplots()
for (way, values), color in zip(found.items(), ("#3f51b5", "#e08a3c"), strict=True):
    axes.plot(shares, values.mean(0), color=color, label=way)
    axes.plot(shares, values.T, "o", color=color, alpha=0.4)
axes.set(
    title="Accuracy without retraining: mean, and three networks",
    xlabel="MACs that are left, %",
    ylabel="accuracy, %",
)
axes.legend(frameon=False)
axes.invert_xaxis()

# %% [markdown]
# ## What a tight budget takes
#
# At a tenth of the MACs: the share of the units that each group keeps. The streams that several
# blocks write to are dark. They keep more: a channel of a stream is read by many layers.

# %%
plan = mipp.plan(model, training, "macs=10%")
tied = {group.name for group in graph.groups if len(layers_of(group)) > 1}
rows = plan.summary[::-1]
_, axes = plt.subplots(figsize=(7, 4))
axes.barh(
    [row.name for row in rows],
    [100 * row.units_after / row.units_before for row in rows],
    color=["#3f51b5" if row.name in tied else "#9fa8da" for row in rows],
)
axes.set(title="Units that stay at a tenth of the MACs", xlabel="%")
axes.invert_yaxis()

# %% [markdown]
# ## Train on, with a teacher
#
# Four epochs, once with the labels alone, and once with the outputs of the whole network beside
# them.

# %%
plain, taught = plan.apply(), plan.apply()
print(f"at once       {accuracy(plain):.1f} %")
train(plain, training, Recipe(epochs=4, peak_lr=0.02))
print(f"retrained     {accuracy(plain):.1f} %")
recipe = Recipe(epochs=4, peak_lr=0.02, distill_weight=0.5)
train(taught, training, recipe, teacher=model)
print(f"with teacher  {accuracy(taught):.1f} %")

# %% [markdown]
# One of 359 test images is 0.28 points, and this is one network: small differences here mean
# nothing. [Results](../research/results.md) has such comparisons over several networks.
#
# ## Save
#
# The file has both the weights and the indices of the channels that were kept.
# `mipp.inspect_file` says what is in such a file.

# %%
mipp.save(taught, "small.safetensors")
print(f"{Path('small.safetensors').stat().st_size / 1024:.0f} KiB")
fresh = mipp.models.build("resnet20b", width=0.5, in_channels=1)
same = mipp.load(fresh, "small.safetensors").eval()
print("the same outputs:", torch.equal(same(images), taught.eval()(images)))

# %% [markdown]
# Fewer MACs are not always less time. [Latency](../guides/latency.md) prunes to a time that is
# measured, and [quantize and export](../guides/quantize-and-export.md#fewer-macs-and-no-less-time)
# says why the two differ.
