"""What is run by a pass, also one that fails, is the model that it was; gradients are always on."""

import copy
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import mipp
from mipp.errors import InputError, SurgeryError
from mipp.tracing import guards
from mipp.tracing.guards import as_it_was, duplicate
from mipp.tracing.module_contents import SAVED

X = torch.randn(32, 6, generator=torch.Generator().manual_seed(1))


class Keeper(nn.Module):
    """Keeps what it computes in every kind of place, and counts its calls."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 12), nn.Linear(12, 8), nn.Linear(8, 3)
        self.last, self.calls, self.seen_shape = None, 0, None
        self.heads, self.by_name, self.state = [], {}, SimpleNamespace(hidden=None)
        self.register_buffer("assigned", torch.zeros(1))
        self.register_buffer("counted", torch.zeros((), dtype=torch.long))

    def forward(self, x):
        self.last = self.b(self.a(x).relu()).relu()
        self.heads.append(self.last)
        self.by_name["b"] = self.last
        self.state.hidden = self.last
        self.new = self.last
        self.calls += 1
        self.seen_shape = x.shape
        self.assigned = x.detach().mean().reshape(1)
        self.counted += 1
        return self.c(self.last)


class Breaking(Keeper):
    def forward(self, x):
        super().forward(x)
        raise RuntimeError("on purpose")


def contents(model):
    """Everything that the model holds, to compare by identity."""
    own = {k: v for k, v in vars(model).items() if not k.startswith("_")}
    tensors = [*model.buffers(), *model.parameters()]
    return (
        {name: id(value) for name, value in own.items()},
        [id(t) for t in tensors],
        [t.clone() for t in tensors],
        [p.requires_grad for p in model.parameters()],
        (list(model.heads), dict(model.by_name), dict(vars(model.state))),
    )


def unchanged(before, after):
    assert before[:2] == after[:2]
    assert all(torch.equal(a, b) for a, b in zip(before[2], after[2], strict=True))
    assert before[3] == after[3]
    assert str(before[4]) == str(after[4])


Y = X[:, 0].gt(0).long()
PASSES = {
    "Fisher": lambda m: mipp.plan(m, [X], budget="macs=50%"),
    "share of the variance": lambda m: mipp.plan(m, [X], budget="macs=50%", noise=0.1),
    "rows": lambda m: mipp.plan(m, [X], budget="macs=50%", target="outputs", noise=0.1),
    "rounds": lambda m: mipp.plan(m, [X], budget="macs=50%", rounds=2),
    "rival": lambda m: mipp.plan(m, [(X, Y)], budget="macs=50%", method="taylor"),
    "maps": lambda m: mipp.plan(m, [X], budget="macs=50%", method="thinet"),
    "single weights": lambda m: mipp.plan(m, [X], budget="params=60%", granularity="weight"),
    "layer by layer": lambda m: mipp.plan(
        m, [X], budget="params=60%", granularity="weight", method="sparsegpt"
    ).apply(),
    "refit": lambda m: mipp.plan(m, [X], budget="macs=50%").apply(),
    "latency": lambda m: mipp.plan(
        m, [X], budget="units=50%", latency=mipp.Latency(model_seconds=0.01, layer_seconds=0.001)
    ),
    "information kept": lambda m: mipp.information_kept(m, [X], {"a": [0, 1]}),
    "features": lambda m: mipp.select_features(X, m, units="features"),
    "folded": mipp.prepare.folded,
}


@pytest.mark.parametrize("name", PASSES)
def test_attributes_and_buffers_are_put_back(name):
    model = Keeper().eval()
    before = contents(model)
    PASSES[name](model)
    unchanged(before, contents(model))
    assert not hasattr(model, "new")
    copy.deepcopy(model)


def test_they_are_put_back_after_a_failure():
    model = Breaking()
    before = contents(model)
    with pytest.raises(mipp.MippError, match="on purpose"):
        mipp.plan(model, [X], budget="macs=50%")
    unchanged(before, contents(model))
    assert model.training


def test_what_an_earlier_forward_pass_has_kept_is_still_there():
    model = Keeper().eval()
    kept = model(X)
    mipp.prune(model, [X], budget="macs=50%")
    assert model.last is model.heads[0]
    assert model.calls == 1
    kept.sum().backward()
    assert model.a.weight.grad is not None


def test_activations_that_have_a_graph_are_copied_without_it():
    model = Keeper().eval()
    model(X)
    assert not model.last.is_leaf
    small = mipp.prune(model, [X], budget="macs=50%")
    twin = duplicate(model)
    for made in (small, twin):
        assert made.last.is_leaf
        assert made.last is made.heads[0] is made.state.hidden
        torch.testing.assert_close(made.last, model.last)
    copy.deepcopy(twin)


def test_what_cannot_be_copied_is_named():
    model = Keeper().eval()
    model.lock = threading.Lock()
    with pytest.raises(SurgeryError, match=r"Keeper cannot be copied.*lock.*delete it"):
        mipp.prune(model, [X], budget="macs=50%")


def test_values_that_a_fit_writes_stay():
    model = Keeper()
    with as_it_was(model, values=False):
        model(X)
    assert int(model.counted) == 1
    assert model.calls == 0


def test_a_guard_inside_another_copies_only_what_has_changed():
    model = Keeper()
    with as_it_was(model):
        model.counted += 1
        with as_it_was(model):
            outer, inner = SAVED.get()
            assert inner[id(model.assigned)][1] is outer[id(model.assigned)][1]
            assert inner[id(model.counted)][1] is not outer[id(model.counted)][1]
            model.counted += 1
            model.assigned += 1
        assert int(model.counted) == 1
        assert not model.assigned.any()
    assert int(model.counted) == 0
    assert SAVED.get() == ()


OFF = {"no_grad": torch.no_grad, "inference_mode": torch.inference_mode}


@pytest.mark.parametrize("off", OFF)
@pytest.mark.parametrize("name", sorted(PASSES.keys() - {"latency", "folded", "maps"}))
def test_gradients_may_be_off_outside(name, off):
    model = Keeper().eval()
    expected = PASSES[name](model)
    with OFF[off]():
        found = PASSES[name](model)
        assert not torch.is_grad_enabled()
    if isinstance(found, mipp.Plan):
        assert found.keep == expected.keep
        assert found.summary == expected.summary or found.record.options["method"] != "mipp"


@pytest.mark.parametrize("off", OFF)
def test_what_is_made_while_gradients_are_off_can_be_trained(off, tmp_path):
    model = Keeper().eval()
    with OFF[off]():
        plan = mipp.plan(model, [X], budget="macs=50%")
        made = [plan.apply(), plan.mask(), mipp.prepare.folded(model)]
        mipp.save(made[0], tmp_path / "small.safetensors")
        made.append(mipp.load(model, tmp_path / "small.safetensors"))
    for net in made:
        net(X).sum().backward()
        assert all(p.grad is not None for p in net.parameters())


def test_batches_from_inference_mode_and_batches_with_a_graph_are_taken():
    model, encoder = Keeper().eval(), nn.Linear(6, 6)
    with torch.inference_mode():
        batch = X.clone()
    expected = mipp.plan(model, [X], budget="macs=50%")
    assert mipp.plan(model, [batch], budget="macs=50%").keep == expected.keep
    mipp.plan(model, [{"x": batch}], budget="params=60%", granularity="weight")
    mipp.plan(model, [(batch, Y)], budget="macs=50%", method="snip")
    mipp.plan(model, [encoder(X)], budget="macs=50%")
    assert encoder.weight.grad is None


class Cached(nn.Module):
    """Works something out in its first call, as detectors do with their anchors."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(6, 8), nn.Linear(8, 2), None

    def forward(self, x):
        if self.scale is None:
            self.scale = torch.full((1,), 2.0)
        return self.b(F.relu(self.a(x)) * self.scale)


def test_what_a_model_has_cached_under_inference_mode_is_no_hindrance():
    model = Cached().eval()
    with torch.inference_mode():
        model(X)
    kept = model.scale
    mipp.plan(model, [X], budget="units=50%")
    assert model.scale is kept


def test_a_model_made_under_inference_mode_is_refused():
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    with pytest.raises(InputError, match=r"made under torch.inference_mode.*copy.deepcopy"):
        mipp.plan(model, [X], budget="macs=50%")
    mipp.plan(copy.deepcopy(model), [X], budget="macs=50%")


def test_a_sparse_buffer_is_as_before():
    model = nn.Sequential(nn.Linear(4, 3))
    model.register_buffer("adjacency", torch.eye(3).to_sparse())
    with as_it_was(model), as_it_was(model):
        model.adjacency.mul_(2)
    assert torch.equal(model.adjacency.to_dense(), torch.eye(3))


class Reader(nn.Module):
    """Notes whether cuDNN is switched on in passes whose gradients are wanted."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(4, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        hidden = self.lstm(x)[0]
        if torch.is_grad_enabled():
            seen.append(torch.backends.cudnn.enabled)
        return self.head(hidden[:, -1])


seen: list[bool] = []


@pytest.mark.parametrize("method", ["mipp", "taylor"])
def test_gradients_of_recurrent_layers_on_cuda_do_without_cudnn(monkeypatch, method):
    torch.manual_seed(0)
    model = Reader().eval()
    batches = [(torch.randn(16, 5, 4), torch.randint(0, 3, (16,)))]
    monkeypatch.setattr(guards, "recurrent_on_cuda", lambda module: isinstance(module, nn.LSTM))
    seen.clear()
    plan = mipp.plan(model, batches, "units=50%", method=method, progress=False)
    assert seen
    assert not any(seen)
    seen.clear()
    plan.apply(tune=mipp.Tune(passes=1), refit=False, progress=False)
    assert seen
    assert not any(seen)
    assert torch.backends.cudnn.enabled


def test_cudnn_stays_on_for_layers_that_it_can_go_back_through():
    seen.clear()
    batches = [(torch.randn(16, 5, 4), torch.randint(0, 3, (16,)))]
    with guards.recurrent_gradients(Reader()):
        assert torch.backends.cudnn.enabled
    mipp.plan(Reader().eval(), batches, "units=50%", progress=False)
    assert seen[-1], "the pass with gradients; torch.export traces without cuDNN"
