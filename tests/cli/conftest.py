"""A trained network, and the command run in this process."""

import json

import pytest
from typer.testing import CliRunner

from mipp import data, models, retrain, save
from mipp.cli import app, measuring


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Weights of digits_cnn at half width, trained for two epochs."""
    model = models.build("digits_cnn", width=0.5, seed=0)
    recipe = retrain.Recipe(epochs=2, peak_lr=0.05, batch_size=32)
    batches = data.Batches(data.load("digits"), 32, shuffle=True)
    retrain.train(model, batches, recipe, progress=False)
    path = tmp_path_factory.mktemp("trained") / "full.safetensors"
    save(model, path)
    return path


class Outcome:
    """Exit code and both streams of a finished command."""

    def __init__(self, result):
        self.code, self.out, self.err = result.exit_code, result.stdout, result.stderr

    @property
    def json(self):
        """The object in the last line of stdout."""
        return json.loads(self.out.splitlines()[-1])


@pytest.fixture
def mipp(monkeypatch):
    """Runs ``mipp`` with arguments: ``mipp("eval", "--model", ...)``."""
    monkeypatch.setenv("COLUMNS", "80")
    # no test compares the milliseconds, and a second for each model is most of what a command takes
    monkeypatch.setattr(measuring, "LONGEST", 0.0)

    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Outcome(result)

    return run


@pytest.fixture
def small_cnn():
    """The options that name the trained network's model."""
    return ("--model", "digits_cnn", "--width", "0.5")
