"""What is given in the wrong form is refused, with the right form in the text."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FEED = Path(__file__).with_name("wrong_types.py")


def _run(folder, *arguments):
    """What the program of wrong values prints, run where nothing else checks types."""
    done = subprocess.run(
        [sys.executable, FEED, *arguments], capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=600, cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("what", ["options", "records", "calls"])
def test_wrong_values_come_out_as_errors_of_mipp_and_as_nothing_else(what, tmp_path):
    found = _run(tmp_path, what)
    assert found["raw"] == []
    assert found["refused"] > 3 * found["taken"] > 0


TEXTS = [
    ("plan(protect=[NET[2]])", "InputError", r"such as protect=\['layer1.conv2'"),
    ("plan(protect=0.5)", "InputError", "of type float; expected names of groups or modules"),
    ("plan(budget=0.5)", "BudgetError", "did you mean budget='macs=50%'?"),
    ("plan(budget=['macs=50%'])", "BudgetError", "expected text that names a resource"),
    ("plan(budget='macs=0.5')", "BudgetError", "did you mean macs=50%?"),
    ("plan(budget='units=1e999')", "BudgetError", "is not finite"),
    ("plan(budget='macs=1.2.3')", "BudgetError", "cannot be read"),
    ("plan(budget={'0': 0.5})", "BudgetError", r"such as {'\*.mlp\*': 'units=50%'}"),
    ("plan(method=3)", "InputError", "method=3; expected one of mipp"),
    ("plan(refit=3)", "InputError", "refit=3; expected True, False, a mode"),
    ("plan(samples='many')", "InputError", "samples='many' was given, of type str; expected a"),
    ("plan(samples=0)", "InputError", "samples=0; expected a whole number, at least 1"),
    ("plan(seed=-1)", "InputError", "seed=-1; expected a whole number, at least 0"),
    ("plan(seed=10**30)", "InputError", "seed is a number of 31 digits; expected one below"),
    ("plan(memory=0.5)", "InputError", "memory=0.5; expected bytes or text such as '4GiB'"),
    ("plan(calibration={})", "InputError", "calibration={} .* expected a CaptureConfig"),
    ("plan(noise=0.1, estimator=Own())", "InputError", "whose noise is not a field"),
    ("plan(noise='fisher', loss=lambda *_: 3)", "InputError", "returned 3; expected the sum over"),
    ("plan(progress=3)", "InputError", "progress=3; expected True, False, None"),
    ("mipp.plans(NET, BATCHES, 'macs=50%')", "InputError", "expected a list of budgets"),
    ("mipp.plan(nn.Linear, BATCHES, 'macs=50%')", "InputError", "the class Linear; .* Call the"),
    ("mipp.Refit(ridge='x')", "InputError", r"Refit\(ridge='x'\) .* a number, such as 0.001"),
    ("mipp.Refit(min_rows=0)", "InputError", "min_rows=0; expected a number above 0"),
    ("mipp.Latency(shares=3)", "InputError", "expected a tuple, each of it a number"),
    ("mipp.Latency(model_seconds=-1)", "InputError", "expected seconds above 0"),
    ("mipp.Latency(slack=1.5)", "InputError", "expected a share, such as 0.03"),
    ("mipp.CaptureConfig(min_rows=-1)", "InputError", "min_rows=-1.*expected a number above 0"),
    ("mipp.CaptureConfig(dtype=torch.int64)", "InputError", "expected torch.float64"),
    ("mipp.Mlp(hidden=())", "InputError", "one or more widths of at least 1"),
    ("mipp.Mlp(epochs=0)", "InputError", r"Mlp\(epochs=0\); expected at least 1"),
    ("mipp.Masked(held_out=1.0)", "InputError", "above 0 below 0.9"),
    ("mipp.Masked(full_share=2.0)", "InputError", "expected a share from 0 to 1"),
    ("mipp.Gaussian(ridge=2.0)", "InputError", "expected a share, from 0 to 1"),
    ("mipp.Budget({'flops': (0.5, True)})", "BudgetError", "names flops; expected some of macs"),
    ("mipp.load(3, 'x')", "InputError", r"load\(model=3\) .* expected a Module or a function"),
    ("mipp.prepare.folded(nn.Linear)", "InputError", r"folded\(model=.*expected a Module"),
    ("mipp.original_indices('x')", "InputError", "The model is 'x'; expected a torch.nn.Module"),
    ("mipp.terc(X, X[:, 0], seed=-1)", "InputError", "seed=-1; expected a whole number from 0"),
    ("mipp.FeatureSelector(random_state=0.5).fit(X, X[:, 0])", "InputError", "random_state=0.5"),
]


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """For each expression the class and the text of its error."""
    return _run(tmp_path_factory.mktemp("texts"), "texts", *(text for text, *_ in TEXTS))


@pytest.mark.parametrize("number", range(len(TEXTS)), ids=[text for text, *_ in TEXTS])
def test_the_text_shows_the_right_form(said, number):
    _, error, text = TEXTS[number]
    assert said[number][0] == error
    assert re.search(text, said[number][1]), said[number][1]


def test_an_option_may_be_a_number_of_numpy(tmp_path):
    numbers = "plan(samples=np.int64(32), seed=np.int64(3)).record.options['samples']"
    assert _run(tmp_path, "texts", numbers) == [["int", "32"]]
