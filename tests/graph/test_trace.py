"""Tracing as a user meets it: inputs of every form, errors, and a model left as it was."""

import random

import jaxtyping
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mipp.errors import GraphError, InputError
from mipp.graph import cost, trace

from .checks import groups, refusals, traced
from .random_models import random_model


class Net(nn.Module):
    """Two layers, and a function of what is between them."""

    def __init__(self, function=F.relu):
        super().__init__()
        self.a, self.norm, self.b, self.out = (
            nn.Linear(3, 6),
            nn.BatchNorm1d(6),
            nn.Linear(6, 5),
            nn.Linear(5, 2),
        )
        self.function = function

    def forward(self, x):
        return self.out(F.relu(self.b(self.function(self.norm(self.a(x))))))


X = torch.randn(4, 3)


# ---- unsupported ops


def test_an_op_without_a_rule_is_refused_by_name_and_line_and_the_rest_is_pruned():
    graph = traced(Net(lambda x: torch.diff(x, dim=1, prepend=x.detach().clone())[:, -6:]), X)
    assert list(groups(graph)) == ["b"]
    ((n_units, reason),) = refusals(graph)["a"]
    assert n_units == 6
    assert reason.startswith("mipp has no rule for aten.diff.default (aten.diff at tests/graph/")


def test_the_reason_names_the_op_and_the_line_of_the_model():
    def median_filter(x):
        return x + torch.kthvalue(x, 3, dim=1, keepdim=True).values

    ((_, reason),) = refusals(traced(Net(median_filter), X))["a"]
    assert reason == (
        "mipp has no rule for aten.kthvalue.default (aten.kthvalue at tests/graph/test_trace.py:"
        f"{Net.forward.__code__.co_firstlineno + 1} "
        "`return self.out(F.relu(self.b(self.function(self.norm(self.a(x))))))`)"
    )


def test_no_path_of_this_machine_is_in_a_reason():
    graph = traced(Net(lambda x: x.cumsum(1)), X)
    assert not any("File" in item.reason or " /" in item.reason for item in graph.refused)


def test_nothing_prunable_is_an_error_that_lists_every_reason():
    with pytest.raises(GraphError) as error:
        trace(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)), (X,))
    text = str(error.value)
    assert text.startswith("nothing in this model can be pruned: every channel has to stay.")
    assert "\n  0: 4 channels: all 4 channels are tied into one unit by layer_norm (aten." in text
    assert "\n  2: 2 channels: it is part of the model's output" in text


def test_a_model_without_layers_is_an_error():
    with pytest.raises(GraphError, match="it has no convolution"):
        trace(nn.ReLU(), (X,))


# ---- inputs


def test_inputs_and_outputs_may_be_nested():
    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x, more, *, scale=1.0):
            hidden = F.relu(self.a(x["u"]) + self.b(more[0]) * scale)
            return {"y": self.c(hidden), "z": [x["u"], None]}

    example = {"u": torch.randn(3, 3)}, {"more": (torch.randn(3, 4),), "scale": 2.0}
    graph = trace(Nested(), (example[0],), example[1])
    assert groups(graph) == {"a": (6, ["a.weight.0", "b.weight.0"], ["c"])}


def test_intermediate_outputs_are_outputs():
    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(5, 2)

        def forward(self, x):
            features = F.relu(self.a(x))
            return self.c(F.relu(self.b(features))), {"features": features}

    graph = traced(Features(), X)
    assert list(groups(graph)) == ["b"]
    assert refusals(graph)["a"] == [(6, "it is part of the model's output")]


@pytest.mark.parametrize("n_examples", [1, 2, 7])
def test_any_number_of_examples_gives_the_same_graph(n_examples):
    graph = trace(Net().eval(), (torch.randn(n_examples, 3),))
    assert [group.n_units for group in graph.groups] == [5, 6]
    assert [consumer.uses for consumer in graph.consumers] == [1, 1]
    assert cost(graph).macs == 3 * 6 + 6 * 5 + 5 * 2


def test_a_model_that_takes_one_batch_size_only_is_traced_with_it():
    class Fixed(Net):
        def forward(self, x):
            return super().forward(x.view(3, 3))

    graph = trace(Fixed(), (torch.randn(3, 3),))
    assert cost(graph).macs == 3 * 6 + 6 * 5 + 5 * 2


def test_what_does_not_depend_on_the_examples_is_counted_once():
    class Hyper(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Parameter(torch.randn(4, 3))
            self.a, self.b, self.out = nn.Linear(3, 6), nn.Linear(6, 5), nn.Linear(3, 4)

        def forward(self, x):
            table = self.b(F.relu(self.a(self.tokens)))
            return self.out(x).softmax(-1) @ table

    graph = trace(Hyper(), (torch.randn(2, 3),))
    assert cost(graph).macs == 4 * (3 * 6 + 6 * 5) + 3 * 4 + 4 * 5


def test_no_grad_and_autocast_blocks_are_looked_into():
    class Blocks(Net):
        def forward(self, x):
            with torch.no_grad():
                x = F.relu(self.a(x))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                x = self.b(x)
            return self.out(F.relu(x.float()))

    assert [group.name for group in trace(Blocks(), (X,)).groups] == ["b", "a"]


def test_sizes_that_depend_on_values_keep_their_channels_only():
    class Ragged(Net):
        def forward(self, x):
            x = self.norm(self.a(x))
            kept = x[x.sum(1) > 0]
            return super().forward(self.out(self.b(F.relu(x)))[:, :1].expand(-1, 3)), kept.sum()

    graph = trace(Ragged(), (X,))
    assert "b" in groups(graph)
    assert "a" in refusals(graph)


@pytest.fixture
def unchecked():
    """Arguments of wrong types reach the package's own guards."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (X, "args is a Tensor; a tuple of the model's inputs was expected. For one input write"),
        ((3,), "the example holds no tensor with a batch dimension"),
        ((torch.tensor(1.0),), "the example holds no tensor with a batch dimension"),
        ((torch.zeros(0, 3),), r"an input of shape \(0, 3\), which holds no example"),
    ],
)
def test_examples_that_are_none_are_refused(args, text, unchecked):
    with pytest.raises(InputError, match=text):
        trace(Net(), args)


def test_a_model_that_is_none_is_refused(unchecked):
    with pytest.raises(
        InputError, match=r"The model is <function relu.*>; expected a torch\.nn\.Module"
    ):
        trace(F.relu, (X,))


def test_a_model_that_cannot_be_exported_is_an_error_with_its_cause():
    class Broken(Net):
        def forward(self, x):
            if x.sum() > 0:
                return super().forward(x)
            return self.out(x)

    with pytest.raises(GraphError) as error:
        trace(Broken(), (X,))
    text = str(error.value)
    assert text.startswith("torch.export cannot trace Broken: GuardOnDataDependentSymNode: ")
    assert "take out of forward any `if` on tensor values" in text


def test_wrong_shapes_are_an_error_with_their_cause():
    with pytest.raises(GraphError, match=r"cannot trace Net: .*Check that model"):
        trace(Net(), (torch.randn(4, 7),))


# ---- wrappers


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch.compile itself
def test_wrapped_models_have_the_names_of_what_is_inside():
    plain = trace(Net(), (X,))
    for wrapped in (
        nn.DataParallel(Net()),
        torch.compile(Net()),
        nn.DataParallel(torch.compile(Net())),
    ):
        graph = trace(wrapped, (X,))
        assert graph.shapes == plain.shapes
        assert groups(graph) == groups(plain)


def test_distributed_models_are_unwrapped():
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        graph = trace(nn.parallel.DistributedDataParallel(Net()), (X,))
    finally:
        torch.distributed.destroy_process_group()
    assert list(groups(graph)) == ["b", "a"]


# ---- the model is left as it was


class Failing(Net):
    def forward(self, x):
        super().forward(x)
        raise RuntimeError("on purpose")


def state(model):
    return {
        "training": [module.training for module in model.modules()],
        "hooks": [
            (
                len(module._forward_hooks),
                len(module._forward_pre_hooks),
                len(module._backward_hooks),
            )
            for module in model.modules()
        ],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "requires_grad": [parameter.requires_grad for parameter in model.parameters()],
        "identity": [id(t) for t in [*model.parameters(), *model.buffers()]],
        "pointers": [t.data_ptr() for t in [*model.parameters(), *model.buffers()]],
        "grads": [None if p.grad is None else p.grad.tolist() for p in model.parameters()],
        "weights": [t.tolist() for t in [*model.parameters(), *model.buffers()]],
        "random": torch.get_rng_state().tolist(),
        "grad_mode": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("kind", [Net, Failing])
def test_the_model_is_left_as_it_was(kind):
    model = kind(lambda x: F.dropout(x, 0.5) + torch.rand_like(x))
    model.train()
    model.norm.eval()
    model.b.weight.requires_grad_(False)
    Net.forward(model, X).sum().backward()
    seen = []
    model.a.register_forward_hook(lambda *_: seen.append(1))
    before = state(model)
    if kind is Failing:
        with pytest.raises(GraphError, match="RuntimeError: on purpose"):
            trace(model, (X,))
    else:
        trace(model, (X,))
    assert state(model) == before


def test_the_example_is_left_as_it_was():
    class InPlace(Net):
        def forward(self, x):
            return super().forward(x.mul_(2))

    example = X.clone()
    trace(InPlace(), (example,))
    assert torch.equal(example, X)


def test_the_same_model_gives_the_same_graph_twice():
    model, batch = random_model(random.Random(5))
    first, second = trace(model, (batch,)), trace(model, (batch,))
    assert (first.groups, first.consumers, first.macs) == (
        second.groups,
        second.consumers,
        second.macs,
    )
    assert first.axes.keys() == second.axes.keys()
