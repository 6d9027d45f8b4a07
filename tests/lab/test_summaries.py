import pytest
from scipy.stats import binomtest

from lab.report.summaries import over_seeds, share_of_runs


def test_mean_and_sample_deviation_are_those_of_the_values():
    found = over_seeds([0.9, None, 0.7])
    assert found.mean == pytest.approx(0.8)
    assert found.n == 2
    assert found.spread == pytest.approx(0.02**0.5)  # the n - 1 of a sample: 2 * 0.1**2 / 1


def test_one_value_has_no_error_bar_and_none_has_no_summary():
    assert over_seeds([0.5]).spread is None
    assert over_seeds([None, None]) is None
    assert share_of_runs([None]) is None


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (2, 5), (5, 5), (1, 40)])
def test_the_interval_of_a_share_is_wilsons(hits, n):
    found = share_of_runs([True] * hits + [False] * (n - hits))
    truth = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert found.mean - found.below == pytest.approx(truth.low, abs=1e-5)
    assert found.mean + found.above == pytest.approx(truth.high, abs=1e-5)
