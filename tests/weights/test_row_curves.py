"""The curves of wide layers' rows, and the weights they keep, against the exact elimination."""

import torch

from mipp.selection.spend_weights import Choice, spend
from mipp.weights import chosen, curves_of, row_curves
from mipp.weights.regression import Rows, errors_left


def problem(m, d):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    mixing *= torch.arange(1, d + 1).unsqueeze(1) ** -0.5
    x = (torch.randn(8 * d, d, generator=generator, dtype=torch.float64) @ mixing).relu()
    weight = torch.randn(m, d, generator=generator, dtype=torch.float64)
    moment = x.T @ x / len(x)
    return Rows(moment, weight, 0.1 * ((weight @ moment) * weight).sum(1))


def kept(curves, share):
    choice = Choice(curves.kept.numpy(), curves.nats.numpy())
    return torch.from_numpy(spend({"": choice}, share * choice.whole, None)[""])


def test_alike_rows_of_a_wide_layer_keep_nearly_equally_many_weights(monkeypatch):
    monkeypatch.setattr(row_curves, "EXACT", 0)
    rows = problem(16, 96)
    rows = Rows(rows.covariance, rows.weight[:1].expand(16, 96), rows.noise[:1].expand(16))
    keep = kept(curves_of([rows], [torch.ones(16, 96, dtype=torch.bool)], None), 0.4)
    # a round of the path halves a row: without points between they keep 47 or 23
    assert keep.max() - keep.min() <= 3


def test_a_wide_layer_loses_nearly_as_little_as_by_exact_elimination_and_swaps(monkeypatch):
    rows = problem(48, 96)
    whole = [torch.ones(48, 96, dtype=torch.bool)]
    lost = []
    for most in (1e12, 0):
        monkeypatch.setattr(row_curves, "EXACT", most)
        curves = curves_of([rows], whole, None)
        assert (curves.nats.diff(dim=1) >= 0).all()
        assert (curves.kept[:, -1] == 0).all()
        keep = kept(curves, 0.3)
        mask = chosen([rows], whole, curves, keep, None)[0]
        assert torch.equal(mask.sum(1), keep)
        lost.append(float(rows.nats(errors_left(rows, mask)).sum()))
    assert lost[1] < 1.04 * lost[0]


def test_prices_from_products_in_bfloat16_are_nearly_the_same(monkeypatch):
    monkeypatch.setattr(row_curves, "EXACT", 0)
    exact = problem(48, 96)
    nats = []
    for dtype in (torch.float32, torch.bfloat16):
        rows = Rows(exact.covariance.float(), exact.weight.float(), exact.noise.float())
        object.__setattr__(rows, "coarse", rows.correlation.to(dtype))
        whole = [torch.ones(48, 96, dtype=torch.bool)]
        nats.append(curves_of([rows], whole, None).nats.sum(0))
    assert not torch.equal(*nats)
    torch.testing.assert_close(nats[1], nats[0], rtol=0.01, atol=0.01 * float(nats[0][-1]))
