"""Hugging Face's models, tiny and with random weights, are tuned; padding does not count."""

import pytest
import torch

import mipp

transformers = pytest.importorskip("transformers", reason="tested where transformers is installed")

SMALL = {"vocab_size": 30, "bos_token_id": 1, "eos_token_id": 2}
SETTINGS = mipp.Tune(passes=4, learning_rate=3e-3, batch_size=8)


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_positions=16, n_layer=2, n_head=2, n_embd=16, n_inner=32, initializer_range=0.3, **SMALL
    )
    return transformers.GPT2LMHeadModel(config).eval()


def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        num_hidden_layers=2, num_attention_heads=2, hidden_size=16, intermediate_size=32,
        max_position_embeddings=16, num_labels=3, initializer_range=0.3, vocab_size=30,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).eval()


def texts(fill=0):
    """Batches of texts of 3 to 8 tokens, padded at their ends with ``fill``."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for _ in range(4):
        lengths = torch.randint(3, 9, (8,), generator=generator)
        tokens = torch.randint(3, 30, (8, 8), generator=generator)
        mask = torch.arange(8) < lengths[:, None]
        made.append({"input_ids": tokens.where(mask, fill), "attention_mask": mask.long()})
    return made


@pytest.mark.parametrize("build", [gpt2, bert])
def test_it_comes_closer(build):
    whole = build()
    plan = mipp.plan(whole, texts(), "units=40%")
    small = plan.apply(refit=False)
    tuned = mipp.tune(small, whole, texts(), SETTINGS)
    assert tuned.unit == "nats"
    assert tuned.after < 0.9 * tuned.before


def test_what_stands_at_padded_positions_does_not_matter():
    whole = gpt2()
    plan = mipp.plan(whole, texts(), "units=40%")
    made = []
    for fill in (0, 7):
        small = plan.apply(refit=False)
        made.append((mipp.tune(small, whole, texts(fill), SETTINGS), small.state_dict()))
    assert made[0][0].before == pytest.approx(made[1][0].before, rel=1e-5)
    assert made[0][0].after == pytest.approx(made[1][0].after, rel=1e-3)
    unmasked = [{"input_ids": batch["input_ids"]} for batch in texts()]
    small = plan.apply(refit=False)
    assert mipp.tune(small, whole, unmasked, SETTINGS).before != pytest.approx(
        made[0][0].before, rel=1e-3
    )


def test_labels_of_minus_100_do_not_count_and_the_others_say_nothing():
    whole = gpt2()
    plan = mipp.plan(whole, texts(), "units=40%")
    labelled = []
    for shift in (0, 1):
        batches = texts()
        for batch in batches:
            labels = (batch["input_ids"] + shift) % 30
            counts = (batch["attention_mask"] == 1) & (torch.arange(8) > 1)
            batch["labels"] = labels.where(counts, -100)
        small = plan.apply(refit=False)
        labelled.append(mipp.tune(small, whole, batches, SETTINGS))
    assert labelled[0] == labelled[1]
    masked = mipp.tune(plan.apply(refit=False), whole, texts(), SETTINGS)
    assert masked.before != pytest.approx(labelled[0].before, rel=1e-3)
