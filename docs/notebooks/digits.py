# %% [markdown]
# # A small CNN, from start to file
#
# Train a network on handwritten digits, prune it to a quarter of its arithmetic, and look at what
# went. Then retrain it, compare it with other ways to the same size, and export it.

# %%
from statistics import mean

import matplotlib.pyplot as plt

import mipp
from mipp.graph import trace
from mipp.retrain import Recipe, evaluate, train

training = mipp.data.Batches(mipp.data.load("digits"), 64, shuffle=True)
test = mipp.data.Batches(mipp.data.load("digits", "test"), 256)

model = mipp.models.build("digits_cnn", seed=0)
train(model, training, Recipe(epochs=15, peak_lr=0.05))


def accuracy(net):
    return 100 * evaluate(net, test).accuracy


print(f"{accuracy(model):.1f} % of {evaluate(model, test).n_samples} test images are right")

# %% [markdown]
# ## Look first
#
# Which channels are there, and can they be removed? `trace` runs the model once and says so. A
# *group* is a set of channels that belong together; a *unit* is one of them.

# %%
images, labels = next(iter(test))
graph = trace(model, (images[:2],))
for group in graph.groups:
    print(f"{group.name:6} {group.n_units:3} units")
for refusal in graph.refused:
    print(f"{refusal.name:6} stays: {refusal.reason}")

# %% [markdown]
# ## Plan
#
# Nothing is changed yet. A plan measures which units the following layers depend on least, and
# spends the budget on the others.

# %%
plan = mipp.plan(model, training, budget="macs=25%")
print(plan)

# %% [markdown]
# Which layers lost what? The bars show the units. The numbers in them say how much of the
# information that the next layers receive is left.


# %%
def show_widths(plan):
    rows = plan.summary[::-1]  # from the input to the output
    _, axes = plt.subplots()
    axes.bar([row.name for row in rows], [row.units_before for row in rows], color="#d7dbe8")
    bars = axes.bar([row.name for row in rows], [row.units_after for row in rows], color="#3f51b5")
    shares = [f"{row.nats_after / row.nats_before:.1%}" for row in rows]
    axes.bar_label(bars, shares, label_type="center", color="white")
    axes.set(title="Units before (grey) and after (blue)", ylabel="units")


show_widths(plan)

# %% [markdown]
# ## Prune and retrain
#
# `apply` makes a smaller copy and fits the weights that stay to what the whole network did. That is
# least squares, not training.

# %%
small = plan.apply()
unfitted = plan.apply(refit=False)
print(f"whole               {accuracy(model):.1f} %")
print(f"pruned, not fitted  {accuracy(unfitted):.1f} %")
print(f"pruned              {accuracy(small):.1f} %")

train(small, training, Recipe(epochs=5, peak_lr=0.01))
print(f"retrained           {accuracy(small):.1f} %")

# %% [markdown]
# ## Is that good?
#
# Now a harder budget, a tenth of the MACs, reached in four ways. Units with large weights (`l2`)
# and units at random get the same refit and retraining as mipp. The last network has the widths
# that mipp chose and new weights, trained for as many epochs as the others in all.
#
# One test image is 0.28 points, so three networks say more than one.

# %%
at_once = {"mipp": [], "l2": [], "random": []}
retrained = {"mipp": [], "l2": [], "random": [], "from scratch": []}
long, short = Recipe(epochs=15, peak_lr=0.05), Recipe(epochs=5, peak_lr=0.01)
for seed in range(3):
    whole = mipp.models.build("digits_cnn", seed=seed)
    train(whole, training, long, seed=seed)
    for method in ("mipp", "l2", "random"):
        one = mipp.plan(whole, training, "macs=10%", method=method, seed=seed)
        net = one.apply()
        at_once[method].append(accuracy(net))
        train(net, training, short, seed=seed)
        retrained[method].append(accuracy(net))
        if method == "mipp":
            new = mipp.methods.scratch.same_size(one, seed=seed)
            train(new, training, Recipe(epochs=20, peak_lr=0.05), seed=seed)
            retrained["from scratch"].append(accuracy(new))

print("mean of three   at once   retrained")
for way, found in retrained.items():
    first = f"{mean(at_once[way]):.1f}" if way in at_once else "-"
    print(f"{way:13} {first:>9} {mean(found):11.1f}")

# %%
_, axes = plt.subplots()
for place, (way, found) in enumerate(retrained.items()):
    axes.plot(at_once.get(way, []), [place] * len(at_once.get(way, [])), "o", color="#9fa8da")
    axes.plot(found, [place] * 3, "o", color="#3f51b5")
axes.set(title="A tenth of the MACs: at once (light) and retrained (dark)", xlabel="accuracy, %")
axes.set_yticks(range(4), retrained)
axes.invert_yaxis()

# %% [markdown]
# ## Save and export
#
# The file has the weights and which units were kept. The ONNX file (it needs the extra `onnx`) is
# only written if onnxruntime computes the same numbers.

# %%
mipp.save(small, "small.safetensors")
same = mipp.load(mipp.models.build("digits_cnn"), "small.safetensors")
print(f"loaded: {accuracy(same):.1f} %")

made = mipp.export.export_onnx(small, images[:4], "small.onnx")
print(f"ONNX, with batches of {made.batch_sizes}: within 1e-4 is {made.difference < 1e-4}")

# %% [markdown]
# Next: [a ResNet](resnet.md), or the guide to [image classifiers](../guides/image-classifier.md)
# with a training loop of your own.
