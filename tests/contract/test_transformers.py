"""Transformers as Hugging Face writes them, tiny and with random weights: heads and neurons go."""

import random

import numpy as np
import pytest
import torch

from mipp import statistics, surgery
from mipp.planning import prunable_graph
from tests.graph.slicing import random_keep

transformers = pytest.importorskip(
    "transformers", reason="Hugging Face's models are tested where transformers is installed"
)

SMALL = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 16}
TEXT = SMALL | {"vocab_size": 30, "max_position_embeddings": 16, "intermediate_size": 20}
LLAMA = TEXT | {"num_key_value_heads": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def bert():
    config = transformers.BertConfig(**TEXT)
    return transformers.BertForSequenceClassification(config)


def distilbert():
    config = transformers.DistilBertConfig(
        vocab_size=30, max_position_embeddings=16, n_layers=2, n_heads=4, dim=16, hidden_dim=20
    )
    return transformers.DistilBertForSequenceClassification(config)


def vit():
    config = transformers.ViTConfig(**SMALL, intermediate_size=20, image_size=8, patch_size=4)
    return transformers.ViTForImageClassification(config)


def gpt2(attention="sdpa"):
    config = transformers.GPT2Config(
        vocab_size=30, n_positions=16, n_layer=2, n_head=4, n_embd=16, n_inner=20,
        bos_token_id=1, eos_token_id=2, attn_implementation=attention,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def llama(**changes):
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA | changes))


def qwen2():
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**LLAMA))


def phi3():
    return transformers.Phi3ForCausalLM(transformers.Phi3Config(**LLAMA))


MODELS = {
    "bert": (bert, 4),
    "distilbert": (distilbert, 4),
    "vit": (vit, 4),
    "gpt2": (gpt2, 4),
    "gpt2, written out": (lambda: gpt2("eager"), 4),
    "llama": (llama, 2),
    "llama, written out": (lambda: llama(attn_implementation="eager"), 2),
    "llama with one key and value head": (lambda: llama(num_key_value_heads=1), 4),
    "qwen2": (qwen2, 2),
    "phi3, whose fused projection is cut by slices": (phi3, 2),
}


def built(make):
    torch.manual_seed(0)
    return make().eval()


@pytest.mark.parametrize("name", MODELS)
def test_heads_and_neurons_go_and_masked_is_sliced(name, tmp_path):
    make, n_heads = MODELS[name]
    model = built(make)
    if name == "vit":
        inputs = {"pixel_values": torch.randn(4, 3, 8, 8)}
    else:
        tokens = torch.randint(3, 30, (4, 7))
        seen = torch.ones_like(tokens)
        seen[1, 5:] = 0
        inputs = {"input_ids": tokens, "attention_mask": seen}
    graph = prunable_graph(model, statistics.read_batches([inputs], None))
    widths = [group.n_units for group in graph.groups]
    assert widths.count(n_heads) == 2
    assert widths.count(20) == 2
    for share in (0.7, 0.3):
        keep = random_keep(graph, random.Random(2), share)
        kept = surgery.kept_indices(graph, keep)
        sizes = surgery.attribute_keeps(graph, kept)
        small = surgery.slice_model(model, kept, graph.aliases, sizes)
        masked = surgery.mask_model(model, graph, keep)
        same = surgery.same_outputs(masked, small, (), inputs, tolerance=1e-5)
        assert same.ok, same.message
        surgery.save(small, tmp_path / "small.safetensors")
        back = surgery.load(built(make), tmp_path / "small.safetensors")
        assert torch.equal(back(**inputs).logits, small(**inputs).logits)


@pytest.mark.parametrize("name", ["bert", "vit", "gpt2", "gpt2, written out"])
def test_features_of_heads_go_and_masked_is_sliced(name):
    model = built(MODELS[name][0])
    inputs = {"input_ids": torch.randint(3, 30, (4, 7))}
    if name == "vit":
        inputs = {"pixel_values": torch.randn(4, 3, 8, 8)}
    graph = prunable_graph(model, statistics.read_batches([inputs], None), head_dims=True)
    assert len(graph.products) == 2
    assert {product.power for product in graph.products} == {0}  # a number of each layer
    keep = {
        group.index: np.arange(group.n_units) < 3
        for group in graph.groups
        if "att" in group.name and group.n_units == 4
    }
    assert len(keep) == 2
    small = surgery.slice_graph(model, graph, surgery.kept_indices(graph, keep))
    masked = surgery.mask_model(model, graph, keep)
    same = surgery.same_outputs(masked, small, (), inputs, tolerance=1e-5)
    assert same.ok, same.message


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_the_residual_stream_goes_and_masked_is_sliced(name):
    model, inputs = built(MODELS[name][0]), {"input_ids": torch.randint(3, 30, (4, 7))}
    graph = prunable_graph(model, statistics.read_batches([inputs], None), residual=True)
    (stream,) = graph.inexact
    assert graph.groups[stream].n_units == 16
    keep = random_keep(graph, random.Random(2), 0.5)
    assert not keep[stream].all()
    small = surgery.slice_graph(model, graph, surgery.kept_indices(graph, keep))
    masked = surgery.mask_model(model, graph, keep)
    same = surgery.same_outputs(masked, small, (), inputs, tolerance=1e-5)
    assert same.ok, same.message
