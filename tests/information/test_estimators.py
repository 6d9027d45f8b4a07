"""Two arrays in, one number of nats out."""

import numpy as np
import pytest
import torch

import mipp
from lab import known
from mipp.errors import InputError
from mipp.information import Gaussian, mutual_information


def test_two_correlated_normals_have_minus_half_log_one_minus_rho_squared():
    one = known.sparse_normal(1, 0.5)
    assert mutual_information(*one.sample(20_000)) == pytest.approx(0.5, abs=0.03)


def test_it_is_symmetric_in_real_variables_and_blind_to_scale_and_rotation():
    x, y = known.dense_normal(3, 0.7).sample(500)
    once = mutual_information(x, y)
    assert mutual_information(y, x) == pytest.approx(once, rel=1e-4)
    turned = x @ np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    assert mutual_information(1e3 * turned + 5, y) == pytest.approx(once, rel=1e-3)


def test_the_bias_of_the_gaussian_is_the_product_of_dimensions_over_twice_the_rows():
    rng = np.random.default_rng(0)
    for dim, n in ((4, 400), (8, 800)):
        found = [
            mutual_information(rng.standard_normal((n, dim)), rng.standard_normal((n, dim)))
            for _ in range(20)
        ]
        assert np.mean(found) == pytest.approx(dim**2 / (2 * n), rel=0.25)


@pytest.mark.parametrize(
    "one", [known.transformed(known.sparse_normal(1, 1.0), "identity", "cube"),
            known.normal_of_variance(), known.modular_sum(0.1), known.parity(2)],
    ids=lambda one: one.name,
)  # fmt: skip
def test_the_gaussian_sees_less_than_there_is_where_the_relation_is_not_linear(one):
    assert mutual_information(*one.sample(4000)) < 0.8 * one.mi


def test_of_a_label_that_is_told_well_the_gaussian_says_more_than_its_entropy():
    one = known.two_classes(6.0)
    assert one.mi < np.log(2)
    assert mutual_information(*one.sample(2000)) > np.log(2)


def test_a_copy_has_large_but_finite_information_and_nothing_none():
    x = np.random.default_rng(0).standard_normal((100, 1))
    assert 5 < mutual_information(x, x) < 100
    assert mutual_information(np.ones((100, 1)), x) == pytest.approx(0, abs=1e-6)


def test_vectors_tensors_labels_and_booleans_are_taken():
    x, y = known.two_classes(2.0).sample(300)
    once = mutual_information(x, y)
    assert mutual_information(x[:, 0], y == 1) == pytest.approx(once, rel=1e-6)
    assert mutual_information(torch.as_tensor(x), torch.as_tensor(y)) == once
    assert mutual_information(x, y + 7, estimator=Gaussian()) == once
    assert mutual_information(x, y.astype(float)) == pytest.approx(once, rel=1e-6)


def test_it_is_public():
    assert mipp.mutual_information is mutual_information


def test_a_class_in_place_of_a_record_is_an_error_that_says_what_to_give():
    with pytest.raises(InputError, match=r"call the class: Gaussian\(\)"):
        mutual_information(np.ones(20), np.ones(20), estimator=Gaussian)


def test_an_unknown_name_is_an_error_that_names_them():
    with pytest.raises(InputError, match=r"estimator='ksg' is not known; expected one of gaussian"):
        mutual_information(np.ones(20), np.ones(20), estimator="ksg")
