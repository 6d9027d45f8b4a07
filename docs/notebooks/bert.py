# %% [markdown]
# # A small BERT
#
# Prune the neurons and the attention heads of a text classifier of Hugging Face's transformers. To
# need no download, the texts are made up: reviews of a few words in which *not* turns what follows
# into its opposite. A BERT with two layers learns most of that in half a minute.
#
# It needs the extra `transformers`.

# %%
import random

import matplotlib.pyplot as plt
import torch
import transformers
from transformers.utils import logging

import mipp
from mipp.integrations.transformers import from_pretrained, save_pretrained

logging.disable_progress_bar()

good, bad = "good great fine lovely superb".split(), "bad poor awful dull dreadful".split()
things, links = "plot cast music ending script".split(), "and but while yet".split()
words = ["[PAD]", "[CLS]", "the", "is", "not", "very", *good, *bad, *things, *links]
number = {word: index for index, word in enumerate(words)}


def review(draw):
    """One or three statements; the label is 1 if more of them praise than blame, else 0."""
    text, praise = ["[CLS]"], 0
    for statement in range(draw.choice([1, 3])):
        likes, negated = draw.random() < 0.5, draw.random() < 0.5
        text += [draw.choice(links)] * (statement > 0) + ["the", draw.choice(things), "is"]
        text += ["not"] * negated + ["very"] * (draw.random() < 0.3)
        text += [draw.choice(good if likes else bad)]
        praise += 1 if likes != negated else -1
    return text, int(praise > 0)


def batches(count, seed, size=64):
    """Dicts of tensors, as the model takes them."""
    draw = random.Random(seed)
    for _ in range(count):
        reviews = [review(draw) for _ in range(size)]
        length = max(len(text) for text, _ in reviews)
        ids = [[number[w] for w in text] + [0] * (length - len(text)) for text, _ in reviews]
        ids = torch.tensor(ids)
        labels = torch.tensor([label for _, label in reviews])
        yield {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


text, label = review(random.Random(2))
print(" ".join(text), "->", label)

# %%
torch.manual_seed(0)
config = transformers.BertConfig(
    vocab_size=len(words),
    hidden_size=64,
    num_hidden_layers=2,
    num_attention_heads=8,
    intermediate_size=256,
    max_position_embeddings=32,
)
model = transformers.BertForSequenceClassification(config)


def fit(model, steps, lr, seed):
    """Train on reviews that are made as it goes."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    model.train()
    for batch in batches(steps, seed):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


test = list(batches(16, seed=1000))


@torch.no_grad()
def accuracy(model):
    right = [(model(**batch).logits.argmax(1) == batch["labels"]) for batch in test]
    return 100 * torch.cat(right).float().mean().item()


fit(model, steps=700, lr=2e-3, seed=0)
print(f"{accuracy(model):.1f} % of 1024 new reviews are right")

# %% [markdown]
# ## What can go?
#
# Each layer has two groups: the neurons of its MLP and its attention heads. Padding is not
# measured, because the batches have an `attention_mask`. The pooler is as wide as the hidden size
# of the config, so it is protected. One budget, a third of the parameters, weighs neurons and heads
# against each other by what they cost.

# %%
calibration = list(batches(32, seed=2000))
plan = mipp.plan(model, calibration, "params=35%", protect=["*pooler*"])
for row in plan.summary:
    print(f"{row.name:45} {row.units_before:3} to {row.units_after:3}")
left = plan.after.params / plan.before.params
print(f"{plan.before.params:,} parameters to {plan.after.params:,} ({left:.1%})")

# %%
rows = [row for row in plan.summary[::-1] if "pooler" not in row.name]
names = [row.name.removeprefix("bert.encoder.layer.") for row in rows]
_, axes = plt.subplots()
left = [100 * row.units_after / row.units_before for row in rows]
kept = [100 * row.nats_after / row.nats_before for row in rows]
axes.barh(names, kept, color="#d7dbe8", height=0.8)
bars = axes.barh(names, left, color="#3f51b5", height=0.4)
axes.bar_label(bars, [f"{row.units_after} of {row.units_before}" for row in rows], padding=3)
axes.set(title="Units (blue) and information (grey) that stay", xlabel="%")
axes.invert_yaxis()

# %% [markdown]
# ## Prune, and compare
#
# All three get the same budget and the same refit. `random` is the mean of five draws. The standard
# error of 1024 reviews is one point, so differences of less than two mean nothing here. The task
# needs few neurons, and any of them will do once the others are fitted.

# %%
small = plan.apply()


def at_once(method, seed=0):
    one = mipp.plan(
        model, calibration, "params=35%", method=method, seed=seed, protect=["*pooler*"]
    )
    return accuracy(one.apply())


print(f"whole            {accuracy(model):.1f} %")
print(f"mipp             {accuracy(small):.1f} %")
print(f"mipp, not fitted {accuracy(plan.apply(refit=False)):.1f} %")
print(f"l2               {at_once('l2'):.1f} %")
print(f"random           {sum(at_once('random', seed) for seed in range(5)) / 5:.1f} %")

# %% [markdown]
# A hundred steps of training, a seventh of what the whole model had:

# %%
fit(small, steps=100, lr=5e-4, seed=1)
print(f"trained on       {accuracy(small):.1f} %")

# %% [markdown]
# ## A folder that transformers reads
#
# BERT's config cannot say that a layer has fewer heads, or that layers differ. So this folder is
# loaded by mipp; with MLPs of one width and all heads, it would be an ordinary checkpoint
# ([Hugging Face](../guides/hugging-face.md#save-and-load) says how).

# %%
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it says at length what the text above says
    saved = save_pretrained(small, "small-bert")
print("ordinary:", saved.ordinary)
again = from_pretrained("small-bert")
print(f"loaded:          {accuracy(again):.1f} %")
