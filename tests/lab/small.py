"""A suite that is done in seconds."""

TINY = """
name = "tiny"
title = "Digits, to try the runner"
about = "Made to be small."
kind = "{kind}"
stages = {stages}
seeds = {seeds}
budgets = {budgets}

[[nets]]
name = "digits_cnn"
data = "digits"
width = 0.25
epochs = 1

[calibration]
samples = 128

[retraining.trained]
epochs = 1
rate = 0.01

[retraining.init]
epochs = 1

[[methods]]
name = "mipp"

[[methods]]
label = "random, everywhere"
name = "random"
options = {{ allocation = "global" }}
{more}
"""


def tiny(kind="layers", stages=("init",), seeds=(0,), budgets=("units=50%",), more=""):
    """The text of a suite of digits; layers at init trains nothing."""
    given = {"stages": list(stages), "seeds": list(seeds), "budgets": list(budgets)}
    words = {name: repr(value).replace("'", '"') for name, value in given.items()}
    return TINY.format(kind=kind, more=more, **words)
