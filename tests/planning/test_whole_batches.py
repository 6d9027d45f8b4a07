"""Batches that cannot be cut along dimension 0: graphs, states beside the input, adjacency."""

import warnings

import pytest
import torch
from torch import nn

import mipp
from mipp.errors import CalibrationError, GraphError, InputError
from mipp.planning import calibration
from mipp.statistics import joinable, joined


class Neighbours(nn.Module):
    """Rows are nodes; an index says who neighbours whom."""

    def __init__(self):
        super().__init__()
        self.a, self.out = nn.Linear(8, 24), nn.Linear(24, 4)

    def forward(self, x, edges):
        h = self.a(x).relu()
        return self.out(h + torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]))


class Recurrent(nn.Module):
    """The state has the examples in its second dimension."""

    def __init__(self):
        super().__init__()
        self.g = nn.GRU(8, 12, batch_first=True)
        self.a, self.out = nn.Linear(12, 16), nn.Linear(16, 4)

    def forward(self, x, state):
        return self.out(self.a(self.g(x, state)[0][:, -1]).relu())


class Dense(nn.Module):
    """A dense adjacency matrix, which has as many rows as there are nodes."""

    def __init__(self):
        super().__init__()
        self.a, self.out = nn.Linear(8, 24), nn.Linear(24, 4)

    def forward(self, x, adjacency):
        return self.out(adjacency @ self.a(x).relu())


def a_graph(nodes=40, edges=100, seed=0):
    random = torch.Generator().manual_seed(seed)
    return {
        "x": torch.randn(nodes, 8, generator=random),
        "edges": torch.randint(0, nodes, (2, edges), generator=random),
    }


def a_state(batch=8):
    return {"x": torch.randn(batch, 6, 8), "state": torch.zeros(1, batch, 12)}


def an_adjacency(nodes=20):
    return {"x": torch.randn(nodes, 8), "adjacency": torch.rand(nodes, nodes)}


KINDS = [(Neighbours, a_graph), (Recurrent, a_state), (Dense, an_adjacency)]


@pytest.mark.parametrize(("net", "batch"), KINDS)
def test_masked_and_small_model_agree_and_the_refit_helps(net, batch):
    model, given = net().eval(), batch()
    plan = mipp.plan(model, [given], budget="units=50%", noise=0.1)
    masked, small, fitted = plan.mask(), plan.apply(refit=False), plan.apply()
    assert plan.after.units * 2 == plan.before.units
    with torch.no_grad():
        full = model(**given)
        torch.testing.assert_close(masked(**given), small(**given))
        assert (fitted(**given) - full).norm() < (small(**given) - full).norm()


def test_what_is_counted_is_for_one_row_of_the_first_tensor():
    plan = mipp.plan(Neighbours().eval(), [a_graph()], budget="units=50%", noise=0.1)
    assert plan.before.macs == 8 * 24 + 24 * 4


@pytest.mark.parametrize("method", ["taylor", "synflow", "thinet", "grasp", "chip"])
def test_methods_take_graphs_whole(method):
    model, given = Neighbours().eval(), a_graph()
    data = [(given, torch.randn(40, 4))]
    plan = mipp.plan(model, data, budget="units=50%", method=method)
    with torch.no_grad():
        torch.testing.assert_close(plan.mask()(**given), plan.apply(refit=False)(**given))


def test_single_weights_of_a_model_of_graphs():
    model, given = Neighbours().eval(), [a_graph(), a_graph(seed=1)]
    plan = mipp.plan(model, given, budget="params=50%", granularity="weight", noise=0.1)
    zeroed = plan.apply()
    assert sum(int((p == 0).sum()) for p in zeroed.parameters()) > 0


def test_no_more_samples_than_asked_for_but_whole_graphs():
    (read,) = calibration(Neighbours().eval(), [a_graph(), a_graph(seed=1)], 10)
    assert len(read) == 40


def test_graphs_of_several_sizes_are_refitted_on_all_of_them():
    model = Neighbours().eval()
    graphs = [a_graph(30, 80), a_graph(40, 90, 1), a_graph(20, 70, 2)]
    plan = mipp.plan(model, graphs, budget="units=50%", noise=0.1)

    @torch.no_grad()
    def error(small):
        return sum(float((small(**g) - model(**g)).square().sum()) for g in graphs)

    fitted = plan.apply()
    for one in graphs:
        alone = mipp.Plan.from_json(plan.to_json(), model, [one]).apply()
        assert error(fitted) < error(alone)


def test_a_constant_beside_the_input_does_not_keep_batches_apart():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.out = nn.Linear(8, 24), nn.Linear(24, 4)

        def forward(self, x, scale):
            return self.out(self.a(x).relu() * scale)

    model, scale = Scaled().eval(), torch.rand(24)
    batches = [{"x": torch.randn(16, 8), "scale": scale} for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = joined(joinable(model, calibration(model, batches, None)))
    assert torch.equal(whole.kwargs["x"], torch.cat([batch["x"] for batch in batches]))
    assert torch.equal(whole.kwargs["scale"], scale)


def test_a_plan_that_is_read_again_takes_graphs_too():
    model, given = Neighbours().eval(), a_graph()
    plan = mipp.plan(model, [given], budget="units=50%", noise=0.1)
    read = mipp.Plan.from_json(plan.to_json(), model, [given])
    for mine, other in zip(read.apply().parameters(), plan.apply().parameters(), strict=True):
        torch.testing.assert_close(mine, other)


# ---- models that fail on what they are given


class Fails(nn.Module):
    """Runs on batches of no more than so many examples."""

    def __init__(self, most):
        super().__init__()
        self.a, self.out, self.most = nn.Linear(8, 16), nn.Linear(16, 4), most

    def forward(self, x):
        if len(x) > self.most:
            raise KeyError("too many")
        return self.out(self.a(x).relu())


@pytest.mark.parametrize("options", [{}, {"granularity": "weight"}])
def test_a_model_that_fails_on_the_first_batch_says_why(options):
    text = r"Fails fails on the first calibration batch: KeyError: 'too many' .*runs in eval mode"
    with pytest.raises(CalibrationError, match=text):
        mipp.plan(Fails(0).eval(), [torch.randn(16, 8)], budget="params=50%", **options)


@pytest.mark.parametrize("options", [{}, {"granularity": "weight"}])
def test_a_model_that_fails_on_a_later_batch_names_it(options):
    batches = [torch.randn(8, 8), torch.randn(12, 8)]
    with pytest.raises(CalibrationError, match=r"fails on batch 1: KeyError: 'too many'\. .*leave"):
        mipp.plan(Fails(8).eval(), batches, budget="params=50%", **options)


@pytest.mark.parametrize("options", [{}, {"granularity": "weight"}])
def test_an_output_without_a_gradient_is_refused(options):
    class Detached(Fails):
        def forward(self, x):
            return super().forward(x).detach()

    with pytest.raises(CalibrationError, match="No gradient leads from the model's output"):
        mipp.plan(Detached(99).eval(), [torch.randn(16, 8)], budget="params=50%", **options)


def test_weights_on_the_meta_device_are_refused():
    with pytest.raises(InputError, match="parameters on the meta device, which have no values"):
        mipp.plan(Fails(99).eval().to("meta"), [torch.randn(16, 8)], budget="units=50%")


def test_sparse_inputs_are_refused_by_the_op_that_has_no_rule():
    class Sparse(Dense):
        def forward(self, x, adjacency):
            return self.out(torch.sparse.mm(adjacency, self.a(x)).relu())

    batch = an_adjacency()
    batch["adjacency"] = batch["adjacency"].to_sparse()
    with pytest.raises(GraphError, match=r"mipp has no rule for aten\._sparse_mm"):
        mipp.plan(Sparse().eval(), [batch], budget="units=50%", noise=0.1)
