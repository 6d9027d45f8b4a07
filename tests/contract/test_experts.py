"""Mixtures of experts of Hugging Face transformers: taken apart, pruned, put together again."""

import pytest
import torch
from torch import nn

import mipp
from mipp import prepare
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


def qwen(num_experts=4, moe_intermediate_size=8):
    config = transformers.Qwen3MoeConfig(
        **SIZES, num_experts=num_experts, num_experts_per_tok=2, head_dim=4,
        moe_intermediate_size=moe_intermediate_size,
    )  # fmt: skip
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
    apart = mipp.prepare.unstacked(model)
    torch.testing.assert_close(logits(apart), logits(model))
    assert any(isinstance(module, prepare.Experts) for module in apart.modules())
    together = mipp.prepare.restacked(apart, model)
    assert together.state_dict().keys() == before.keys()
    assert all(torch.equal(t, before[name]) for name, t in together.state_dict().items())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    small = sum(p.numel() for p in apart.parameters())
    assert small == sum(p.numel() for p in model.parameters())


@pytest.fixture(scope="module")
def halved(case):
    """The model taken apart, and a plan of half of the experts' neurons."""
    apart = mipp.prepare.unstacked(case[0])
    return apart, mipp.plan(apart, BATCHES, {"*experts*": "units=50%"}, noise=0.1)


@pytest.mark.parametrize("refit", [False, True])
def test_neurons_of_every_expert_go_and_the_small_model_is_stacked_again(
    case, halved, refit, tmp_path
):
    model, make = case
    apart, plan = halved
    small = plan.apply(refit=refit)
    widths = {
        name: module.down.in_features
        for name, module in small.named_modules()
        if isinstance(module, prepare.Expert)
    }
    whole = sum(m.down.in_features for m in apart.modules() if isinstance(m, prepare.Expert))
    assert sum(widths.values()) == whole // 2
    assert len(set(widths.values())) > 1  # each expert has a width of its own
    if not refit:
        torch.testing.assert_close(logits(small), logits(plan.mask()), rtol=1e-4, atol=1e-4)
    assert torch.isfinite(logits(small)).all()
    # back in one parameter, as wide as the widest of the layer
    stacked = mipp.prepare.restacked(small, model)
    torch.testing.assert_close(logits(stacked), logits(small), rtol=1e-4, atol=1e-4)
    name = next(name for name, _ in model.named_parameters() if name.endswith("down_proj"))
    layer = name.removesuffix(".down_proj")
    widest = max(width for path, width in widths.items() if path.startswith(f"{layer}."))
    assert stacked.get_parameter(name).shape[2] == -(-widest // 8) * 8
    # files
    mipp.save(small, tmp_path / "small.safetensors")
    again = mipp.load(mipp.prepare.unstacked(make()), tmp_path / "small.safetensors")
    torch.testing.assert_close(logits(again), logits(small))


def test_a_refit_of_experts_brings_their_outputs_nearer():
    """Positions are routed otherwise in the pruned model, so each expert keeps its own tokens."""
    model = mipp.prepare.unstacked(built(mixtral))
    plan = mipp.plan(model, BATCHES, {"*experts*": "units=60%"}, noise=0.1)
    off = [
        float((logits(plan.apply(refit=refit)) - logits(model)).square().mean())
        for refit in (False, True)
    ]
    assert off[1] < off[0]


def test_macs_of_experts_are_those_of_the_tokens_they_get():
    model = mipp.prepare.unstacked(built(mixtral))
    plan = mipp.plan(model, BATCHES, {"*experts*": "units=50%"}, noise=0.1)
    tokens, top, experts = IDS.shape[1], 2, 16 * 16 * 3
    attention = 16 * 16 * 2 + 16 * 8 * 2
    scores = 2 * 4 * 4 * tokens
    one_layer = tokens * (attention + scores + 16 * 3 + top * experts)
    assert plan.before.macs == pytest.approx(2 * one_layer + tokens * 16 * 40)
    assert plan.after.macs < plan.before.macs - 0.4 * 2 * tokens * top * experts


def qwen_of_sixteen():
    return qwen(num_experts=16)


# every method where an expert may have no tokens; the other family with one of them
@pytest.mark.parametrize(
    ("method", "make"),
    [
        ("mipp", mixtral),
        ("mipp", qwen_of_sixteen),
        ("wanda", qwen_of_sixteen),
        ("sparsegpt", qwen_of_sixteen),
    ],
)
def test_single_weights_of_experts(method, make):
    """Of sixteen experts the first examples leave some without a token."""
    model = mipp.prepare.unstacked(built(make))
    plan = mipp.plan(
        model, BATCHES, "params=60%", granularity="weight", method=method, protect=["lm_head"]
    )
    assert any(".experts." in name for name in plan.masks)
    assert torch.isfinite(logits(plan.apply(refit=True))).all()
    held = plan.apply(refit=False)
    for name, mask in plan.masks.items():
        assert not held.get_parameter(name)[~mask].any()


class Stack(nn.Module):
    """What is common to Hugging Face's experts, without their kernels."""

    def __init__(self, *, transposed=False, gated=True, bias=False):
        super().__init__()
        self.is_transposed, self.act_fn = transposed, nn.SiLU()
        up, shape = "gate_up_proj" if gated else "up_proj", (3, 16 if gated else 8, 6)
        shapes = {up: shape, "down_proj": (3, 6, 8)}
        for name, (e, m, d) in shapes.items():
            weight = torch.randn(e, d, m) if transposed else torch.randn(e, m, d)
            self.register_parameter(name, nn.Parameter(weight))
            if bias:
                self.register_parameter(f"{name}_bias", nn.Parameter(torch.randn(e, m)))
        self.gated = gated

    def _default_apply_gate(self, made):
        gate, up = made.chunk(2, -1)
        return self.act_fn(gate) * up

    _apply_gate = _default_apply_gate

    def one(self, name, x, number):
        weight, bias = getattr(self, name)[number], getattr(self, f"{name}_bias", None)
        made = x @ (weight if self.is_transposed else weight.T)
        return made if bias is None else made + bias[number]

    def forward(self, hidden_states, top_k_index, top_k_weights):
        total = torch.zeros_like(hidden_states)
        for number in range(3):
            made = self.one("gate_up_proj" if self.gated else "up_proj", hidden_states, number)
            made = self._apply_gate(made) if self.gated else self.act_fn(made)
            made = self.one("down_proj", made, number)
            total += made * ((top_k_index == number) * top_k_weights).sum(1, keepdim=True)
        return total


class Mixture(nn.Module):
    def __init__(self, experts):
        super().__init__()
        self.gate, self.experts = nn.Linear(6, 3), experts

    def forward(self, x):
        weights, index = self.gate(x).softmax(-1).topk(2, -1)
        return self.experts(x, index, weights)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_layouts_come_apart_and_back(transposed, gated, bias, dtype):
    torch.manual_seed(0)
    model = Mixture(Stack(transposed=transposed, gated=gated, bias=bias)).to(dtype).eval()
    x, tolerance = torch.randn(20, 6, dtype=dtype), 1e-5 if dtype == torch.float32 else 0.1
    apart = mipp.prepare.unstacked(model)
    torch.testing.assert_close(apart(x), model(x), rtol=tolerance, atol=tolerance)
    assert {p.dtype for p in apart.parameters()} == {dtype}
    back = mipp.prepare.restacked(apart, model)
    state = model.state_dict()
    assert back.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in back.state_dict().items())
    assert not {p.data_ptr() for p in back.parameters()} & {
        p.data_ptr() for p in apart.parameters()
    }


def test_a_width_that_is_no_multiple_comes_back_as_it_was():
    model = qwen(moe_intermediate_size=10).eval()
    back = mipp.prepare.restacked(mipp.prepare.unstacked(model), model)
    assert all(map(torch.equal, back.state_dict().values(), model.state_dict().values()))


def test_the_stacked_model_is_a_copy_of_its_own():
    model = built(mixtral)
    small = mipp.prepare.restacked(mipp.prepare.unstacked(model), model)
    assert small.model.layers[0].mlp.experts.config is not model.model.layers[0].mlp.experts.config
    small.set_experts_implementation("eager")
    assert small.model.layers[0].mlp.experts.config._experts_implementation == "eager"
    small.train()
    assert not any(module.training for module in model.modules())


def test_experts_at_two_places_are_taken_apart_once():
    model = nn.Sequential(Mixture(Stack()), Mixture(Stack()))
    model[1].experts = model[0].experts
    apart = mipp.prepare.unstacked(model)
    assert apart[0].experts is apart[1].experts
    assert sum(p.numel() for p in apart.parameters()) == sum(p.numel() for p in model.parameters())
    back = mipp.prepare.restacked(apart, model)
    assert back[0].experts is back[1].experts


def test_experts_that_compute_something_else_are_refused():
    class Clamped(Stack):
        def forward(self, hidden_states, top_k_index, top_k_weights):
            return super().forward(hidden_states, top_k_index, top_k_weights).clamp(-1, 1)

    shared = nn.Sequential(Mixture(Stack()), Mixture(Stack()))
    shared[1].experts.down_proj = shared[0].experts.down_proj
    text = "routes, gates or normalises in a way of its own"
    with pytest.raises(SurgeryError, match=f"experts .Clamped. {text}"):
        mipp.prepare.unstacked(Mixture(Clamped()))
    with pytest.raises(SurgeryError, match="experts shares down_proj with another module"):
        mipp.prepare.unstacked(shared)
    with pytest.raises(SurgeryError, match="Stack has no experts to unstack"):
        mipp.prepare.unstacked(Stack())


def test_what_is_not_stacked_or_has_a_gate_of_its_own_is_refused():
    with pytest.raises(SurgeryError, match="Sequential has no experts to unstack"):
        mipp.prepare.unstacked(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(SurgeryError, match="no experts to stack; expected a model that came out"):
        mipp.prepare.restacked(mixtral(), mixtral())
    with pytest.raises(SurgeryError, match=r"like= has no 3 stacked experts at 'model\.layers\.0"):
        mipp.prepare.restacked(mipp.prepare.unstacked(mixtral()), qwen())
    config = transformers.GptOssConfig(
        **SIZES, num_local_experts=3, num_experts_per_tok=2, head_dim=4
    )
    with pytest.raises(SurgeryError, match="routes, gates or normalises in a way of its own"):
        mipp.prepare.unstacked(transformers.GptOssForCausalLM(config))
