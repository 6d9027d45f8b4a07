"""Nats lost, followed removal by removal, are those of all errors at once."""

import pytest
import torch

from mipp.information.gaussian.errors_made import FEW, ErrorsMade

R = 24


def removal(k, seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    b = scale * torch.randn(R, k, generator=generator)
    half = torch.randn(k, 2 * k, generator=generator)
    p = (half @ half.T / k).tril()
    return b, p + p.tril(-1).T


def whole(removals):
    made = torch.eye(R, dtype=torch.float64)
    for b, p in removals:
        made += b.double() @ torch.linalg.solve(p.double(), b.double().T)
    return made


@pytest.mark.parametrize("asked", ["every time", "at the end"])
@pytest.mark.parametrize("columns", [[1, 1, 2, 1], [9, 9], [9, 1, 1, 9, 1, 2, 3]])
def test_nats_and_what_is_seen_are_those_of_all_errors(columns, asked):
    assert 3 <= FEW * R < 9
    made, removals = ErrorsMade(torch.zeros(R, R, dtype=torch.float64)), []
    assert made.nats() == 0
    for seed, k in enumerate(columns):
        removals.append(removal(k, seed))
        made.add(*removals[-1])
        if asked == "every time":
            assert made.nats() == pytest.approx(0.5 * float(whole(removals).logdet()), rel=1e-9)
    noise, b = whole(removals), removal(4, 99)[0].double()
    torch.testing.assert_close(made.seen_through(b), b.T @ torch.linalg.solve(noise, b))
    assert made.nats() == pytest.approx(0.5 * float(noise.logdet()), rel=1e-9)
    torch.testing.assert_close(made.seen_through(b), b.T @ torch.linalg.solve(noise, b))


def test_few_columns_need_no_other_factorisation(monkeypatch):
    made = ErrorsMade(torch.zeros(R, R, dtype=torch.float64))
    made.add(*removal(1, 0))
    made.nats()
    monkeypatch.setattr(
        "mipp.information.gaussian.errors_made.logdet_eye_plus",
        lambda _: pytest.fail("a whole factorisation"),
    )
    before, removals = made.nats(), [removal(1, 0)]
    for seed in range(1, 40):
        removals.append(removal(2, seed, scale=0.1))
        made.add(*removals[-1])
        assert made.nats() > before
        before = made.nats()
    assert before == pytest.approx(0.5 * float(whole(removals).logdet()), rel=1e-9)


def test_large_errors_stay_exact():
    """A million times the noise, as of a unit that the loss depends on."""
    made, removals = ErrorsMade(torch.zeros(R, R, dtype=torch.float64)), []
    for seed in range(60):
        removals.append(removal(1, seed, scale=1e3 if seed % 2 else 1e-2))
        made.add(*removals[-1])
        assert made.nats() == pytest.approx(0.5 * float(whole(removals).logdet()), rel=1e-9)


def test_a_block_that_rounding_has_made_indefinite_is_solved_all_the_same():
    made = ErrorsMade(torch.zeros(R, R, dtype=torch.float64))
    b, p = removal(2, 0)
    made.add(b, p)
    made.nats()
    odd = torch.diag(torch.tensor([1.0, -1e-9]))
    made.add(torch.cat([b[:, :1], torch.zeros(R, 1)], 1), odd)
    expected = whole([(b, p), (b[:, :1], torch.ones(1, 1))])
    assert made.nats() == pytest.approx(0.5 * float(expected.logdet()), rel=1e-6)


def test_an_inverse_that_rounding_has_spoilt_is_dropped():
    made = ErrorsMade(torch.zeros(R, R, dtype=torch.float64))
    removals = [removal(1, seed) for seed in range(3)]
    made.add(*removals[0])
    made.nats()
    made.seen_through(removals[0][0].double())
    made._inverse.fill_(-1e3)
    for some in removals[1:]:
        made.add(*some)
        assert made.nats() > 0
    assert made.nats() == pytest.approx(0.5 * float(whole(removals).logdet()), rel=1e-9)


@pytest.mark.parametrize("values", [[-1e6], [1.8, -2.4e-3], [-1.0, -5.0]])
def test_what_rounding_has_made_indefinite_is_taken_for_small(values):
    """What is removed gives errors as large as the block could be, none that are negative."""
    turn = torch.linalg.qr(removal(len(values), 0)[1])[0]
    p = turn @ torch.tensor(values).diag() @ turn.T
    made, (b, _) = ErrorsMade(torch.zeros(R, R, dtype=torch.float64)), removal(len(values), 1)
    made.add(b, p)
    assert float(torch.linalg.eigvalsh(made.matrix).min()) > -1e-9
    assert 0 < made.nats() <= 0.5 * float((1 + b.square().sum() / min(map(abs, values))).log()) * 2
    made.add(*removal(1, 2))
    assert made.seen_through(b.double()).isfinite().all()
