# %% [markdown]
# # A small language model
#
# Train a Llama of two layers on the manual that Python has built in, and prune its neurons and
# heads. Read what it writes before and after, and save a folder that plain transformers loads.
#
# It needs the extra `transformers`.

# %%
from pydoc_data.topics import topics

import matplotlib.pyplot as plt
import torch
import transformers
from transformers.utils import logging

import mipp
from mipp.integrations.transformers import save_pretrained

logging.disable_progress_bar()

text = "\n".join(topics[name] for name in sorted(topics))
text = "".join(letter for letter in text if letter.isascii())
letters = sorted(set(text))
number = {letter: index for index, letter in enumerate(letters)}
tokens = torch.tensor([number[letter] for letter in text])
training, held_out = tokens[: int(0.9 * len(tokens))], tokens[int(0.9 * len(tokens)) :]
print(f"{len(tokens):,} letters, {len(letters)} different ones")


def batch(source, seed, size=32, length=64):
    """Some pieces of the text, in the form that the model takes."""
    generator = torch.Generator().manual_seed(seed)
    starts = torch.randint(len(source) - length, (size,), generator=generator)
    ids = torch.stack([source[start : start + length] for start in starts.tolist()])
    return {"input_ids": ids, "labels": ids}


# %%
torch.manual_seed(0)
config = transformers.LlamaConfig(
    vocab_size=len(letters),
    hidden_size=96,
    intermediate_size=256,
    num_hidden_layers=2,
    num_attention_heads=8,
    num_key_value_heads=8,
    max_position_embeddings=128,
    pad_token_id=None,
)
model = transformers.LlamaForCausalLM(config)


def fit(model, steps, lr, first=0):
    """Train on pieces of the text, at a rate that falls to zero."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    model.train()
    for step in range(first, first + steps):
        optimizer.zero_grad()
        model(**batch(training, step)).loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


test = [batch(held_out, 10_000 + number) for number in range(8)]


@torch.no_grad()
def perplexity(model):
    return torch.stack([model(**each).loss for each in test]).mean().exp().item()


fit(model, steps=500, lr=3e-3)
print(f"perplexity of {perplexity(model):.2f} per letter; {len(letters)} would be guessing")

# %% [markdown]
# ## Prune
#
# Half of the neurons and six of eight heads stay. `allocation="kinds"` gives all layers the same
# numbers, as the config of a Llama wants it; which units stay still differs from layer to layer.

# %%
calibration = [batch(training, 20_000 + number) for number in range(16)]
budget = {"*mlp*": "units=50%", "*attn*": "units=75%"}
plan = mipp.plan(model, calibration, budget, allocation="kinds")
for row in plan.summary:
    print(f"{row.name:32} {row.units_before:3} to {row.units_after:3}")
print(f"{plan.after.params / plan.before.params:.0%} of the parameters are left")

# %% [markdown]
# Other ways to the same widths, with the same refit, and none is trained:

# %%
found = {"whole": perplexity(model)}
for method in ("mipp", "l2", "random"):
    one = mipp.plan(model, calibration, budget, allocation="kinds", method=method)
    found[method] = perplexity(one.apply())
found["mipp, not fitted"] = perplexity(plan.apply(refit=False))

small = plan.apply()
fit(small, steps=100, lr=1e-3, first=500)
found["mipp, trained on"] = perplexity(small)
for way, value in found.items():
    print(f"{way:17} {value:.2f}")

# %%
_, axes = plt.subplots()
colors = ["#8d93a8", "#3f51b5", "#d7dbe8", "#d7dbe8", "#9fa8da", "#3f51b5"]
axes.bar_label(axes.bar(list(found), list(found.values()), color=colors), fmt="%.2f")
axes.set(title="Perplexity per letter on text that was not used (less is better)")
axes.tick_params(axis="x", labelsize=8)

# %% [markdown]
# The whole model was not trained to its end: as long as its loss still falls, some of what the
# pruned one gains is that it is trained for longer.
#
# ## What does it write?

# %%
start = torch.tensor([[number[letter] for letter in "The method is called "]])
for name, each in (("whole", model), ("small", small)):
    written = each.generate(start, max_new_tokens=60, do_sample=False)[0]
    print(f"{name}: {''.join(letters[index] for index in written.tolist())!r}")

# %% [markdown]
# ## A folder for transformers

# %%
saved = save_pretrained(small, "small-llama")
again = transformers.AutoModelForCausalLM.from_pretrained("small-llama").eval()
print("an ordinary checkpoint:", saved.ordinary)
print(f"loaded: {perplexity(again):.2f}, {again.config.num_attention_heads} heads")

# %% [markdown]
# [Hugging Face](../guides/hugging-face.md) goes on from here: Trainer, adapters, and which models
# can be saved like this. [Language model](../guides/language-model.md) has advice for large ones.
