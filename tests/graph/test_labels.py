"""Ties of atoms and their solution."""

import numpy as np
import pytest

from mipp.graph.labels import FIXED, Ties


@pytest.fixture
def ties():
    return Ties()


def test_ties_are_transitive_whatever_their_order(ties):
    a, b, c = ties.fresh(3), ties.fresh(3), ties.fresh(3)
    ties.tie(b, c, "")
    ties.tie(a, b, "")
    units = ties.classes().unit_of
    assert units[a].tolist() == units[c].tolist()
    assert len(set(units[a].tolist())) == 3


def test_what_is_tied_to_something_fixed_is_fixed_for_the_reason_given_first(ties):
    a, b = ties.fresh(2), ties.fresh(2)
    ties.tie(a, b, "never shown")
    ties.fix(b[:1], "first")
    ties.fix(a, "second")
    classes = ties.classes()
    assert classes.unit_of[a].tolist() == [-1, -1]
    assert [classes.reason_of[int(unit)] for unit in classes.class_of[a]] == ["first", "second"]


def test_meeting_something_unlabelled_fixes(ties):
    a, b = ties.fresh(2), ties.fresh(2)
    ties.tie(a, None, "why a")
    ties.tie(None, b, "why b")
    ties.tie(None, None, "nothing")
    classes = ties.classes()
    assert classes.unit_of[[*a, *b]].tolist() == [-1] * 4
    assert classes.reason_of[int(classes.class_of[b[0]])] == "why b"


def test_fixed_atoms_do_not_tie_what_they_meet(ties):
    a, b = ties.fresh(2), ties.fresh(2)
    ties.tie(a, np.array([FIXED, a[1]]), "zeros")
    ties.tie(b, np.array([FIXED, b[1]]), "others")
    classes = ties.classes()
    assert classes.reason_of[int(classes.class_of[a[0]])] == "zeros"
    assert classes.reason_of[int(classes.class_of[b[0]])] == "others"
    assert (classes.unit_of[[a[1], b[1]]] >= 0).all()


def test_merged_rows_are_units_and_remember_why(ties):
    a = ties.fresh(6)
    merged = ties.merge(a.reshape(3, 2), "pairs")
    classes = ties.classes()
    assert merged.tolist() == a[::2].tolist()
    assert classes.unit_of[a[::2]].tolist() == classes.unit_of[a[1::2]].tolist()
    assert classes.merged_by[int(classes.class_of[a[5]])] == "pairs"


def test_a_row_of_which_a_part_is_fixed_is_fixed(ties):
    a = ties.fresh(4)
    merged = ties.merge(np.array([[a[0], FIXED], [FIXED, a[1]], [a[2], a[3]]]), "pairs")
    assert merged.tolist() == [FIXED, FIXED, a[2]]
    assert ties.classes().unit_of[a[:2]].tolist() == [-1, -1]


def test_rows_of_one_are_not_merged(ties):
    a = ties.fresh(3)
    assert ties.merge(a[:, None], "nothing").tolist() == a.tolist()
    assert ties.classes().merged_by == {}
