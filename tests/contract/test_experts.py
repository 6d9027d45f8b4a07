"""Mixtures of experts of Hugging Face transformers: taken apart, pruned, put together again."""

import pytest
import torch
from torch import nn

import mipp
from mipp import surgery
from mipp.errors import SurgeryError

transformers = pytest.importorskip("transformers", reason="needs the extra 'transformers'")

SIZES = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32,
}  # fmt: skip
IDS = torch.randint(0, 40, (16, 9), generator=torch.Generator().manual_seed(0))
BATCHES = [{"input_ids": ids} for ids in IDS.split(8)]


def mixtral():
    config = transformers.MixtralConfig(**SIZES, num_local_experts=3, num_experts_per_tok=2)
    return transformers.MixtralForCausalLM(config)


def qwen():
    config = transformers.Qwen3MoeConfig(
        **SIZES, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8, head_dim=4
    )
    return transformers.Qwen3MoeForCausalLM(config)


def olmoe():
    config = transformers.OlmoeConfig(**SIZES, num_experts=4, num_experts_per_tok=2)
    return transformers.OlmoeForCausalLM(config)


def built(make):
    """Larger weights than the models start with, so that experts and routes differ."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(input_ids=ids).logits


MAKERS = [mixtral, qwen, olmoe]


@pytest.fixture(scope="module", params=MAKERS)
def case(request):
    return built(request.param), request.param


def test_unstacked_computes_the_same_and_back_again(case):
    model, _ = case
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    apart = mipp.unstacked(model)
    torch.testing.assert_close(logits(apart), logits(model))
    assert any(isinstance(module, surgery.Experts) for module in apart.modules())
    together = mipp.restacked(apart, model)
    assert together.state_dict().keys() == before.keys()
    assert all(torch.equal(t, before[name]) for name, t in together.state_dict().items())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    small = sum(p.numel() for p in apart.parameters())
    assert small == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("refit", [False, True])
def test_neurons_of_every_expert_go_and_the_small_model_is_stacked_again(case, refit, tmp_path):
    model, make = case
    apart = mipp.unstacked(model)
    budget = {"*experts*": "units=50%"}
    plan = mipp.plan(apart, BATCHES, budget, noise=0.1, refit=refit)
    small = plan.apply()
    widths = {
        name: module.down.in_features
        for name, module in small.named_modules()
        if isinstance(module, surgery.Expert)
    }
    whole = sum(m.down.in_features for m in apart.modules() if isinstance(m, surgery.Expert))
    assert sum(widths.values()) == whole // 2
    assert len(set(widths.values())) > 1  # each expert has a width of its own
    if not refit:
        torch.testing.assert_close(logits(small), logits(plan.mask()), rtol=1e-4, atol=1e-4)
    assert torch.isfinite(logits(small)).all()
    # back in one parameter, as wide as the widest of the layer
    stacked = mipp.restacked(small, model)
    torch.testing.assert_close(logits(stacked), logits(small), rtol=1e-4, atol=1e-4)
    name = next(name for name, _ in model.named_parameters() if name.endswith("down_proj"))
    layer = name.removesuffix(".down_proj")
    widest = max(width for path, width in widths.items() if path.startswith(f"{layer}."))
    assert stacked.get_parameter(name).shape[2] == -(-widest // 8) * 8
    # files
    mipp.save(small, tmp_path / "small.safetensors")
    again = mipp.load(mipp.unstacked(make()), tmp_path / "small.safetensors")
    torch.testing.assert_close(logits(again), logits(small))


def test_a_refit_of_experts_brings_their_outputs_nearer():
    """Positions are routed otherwise in the pruned model, so each expert keeps its own tokens."""
    model = mipp.unstacked(built(mixtral))
    plan = mipp.plan(model, BATCHES, {"*experts*": "units=60%"}, noise=0.1)
    off = [
        float((logits(plan.apply(refit=refit)) - logits(model)).square().mean())
        for refit in (False, True)
    ]
    assert off[1] < off[0]


def test_macs_of_experts_are_those_of_the_tokens_they_get():
    model = mipp.unstacked(built(mixtral))
    plan = mipp.plan(model, BATCHES, {"*experts*": "units=50%"}, noise=0.1)
    tokens, top, experts = IDS.shape[1], 2, 16 * 16 * 3
    attention = 16 * 16 * 2 + 16 * 8 * 2
    scores = 2 * 4 * 4 * tokens
    one_layer = tokens * (attention + scores + 16 * 3 + top * experts)
    assert plan.before.macs == pytest.approx(2 * one_layer + tokens * 16 * 40)
    assert plan.after.macs < plan.before.macs - 0.4 * 2 * tokens * top * experts


@pytest.mark.parametrize("method", ["mipp", "wanda", "sparsegpt"])
def test_single_weights_of_experts(method):
    model = mipp.unstacked(built(mixtral))
    plan = mipp.plan(
        model, BATCHES, "params=60%", granularity="weight", method=method, protect=["lm_head"]
    )
    assert any(".experts." in name for name in plan.masks)
    assert torch.isfinite(logits(plan.apply(refit=True))).all()
    held = plan.apply(refit=False)
    for name, mask in plan.masks.items():
        assert not held.get_parameter(name)[~mask].any()


def test_what_is_not_stacked_or_has_a_gate_of_its_own_is_refused():
    with pytest.raises(SurgeryError, match="Sequential has no experts to unstack"):
        mipp.unstacked(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(SurgeryError, match="no experts to stack; expected a model that came out"):
        mipp.restacked(mixtral(), mixtral())
    with pytest.raises(SurgeryError, match=r"like= has no 3 stacked experts at 'model\.layers\.0"):
        mipp.restacked(mipp.unstacked(mixtral()), qwen())
    config = transformers.GptOssConfig(
        **SIZES, num_local_experts=3, num_experts_per_tok=2, head_dim=4
    )
    with pytest.raises(SurgeryError, match="routes, gates or normalises in a way of its own"):
        mipp.unstacked(transformers.GptOssForCausalLM(config))
