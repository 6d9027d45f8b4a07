"""Suites by name or path, checked before anything runs; errors name the key and the file."""

import json
import tomllib
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from mipp import data, methods, models, retrain, selection
from mipp.bench import contenders, kinds
from mipp.bench.suite import FOLDER, Method, Net, Suite
from mipp.errors import InputError, MippError
from mipp.measurements import Item


def names() -> list[str]:
    """Names of the suites that come with the package."""
    files = resources.files("mipp.bench") / "suites"
    return sorted(f.name.removesuffix(".toml") for f in files.iterdir() if f.name.endswith(".toml"))


def load(wanted: str, *, smoke: bool = False) -> Suite:
    """The suite of that name, or in that file, checked; with ``smoke`` its tiny version.

    Raises:
        InputError: no such suite, or a file with a mistake; names the key and what was expected.
    """
    path = Path(wanted)
    if wanted in names():
        where = f"{wanted}.toml"
        text = (resources.files("mipp.bench") / "suites" / where).read_text()
    elif path.suffix == ".toml" and path.is_file():
        where, text = str(path), path.read_text()
    else:
        raise InputError(
            f"suite {wanted!r} was given; expected one of {', '.join(names())}, or the path of a "
            ".toml file that is there."
        )
    suite = read(text, where)
    return suite.smaller() if smoke else suite


def read(text: str, where: str) -> Suite:
    """A suite from the text of a file; ``where`` names it in errors."""
    try:
        # through JSON: strict tuples take its arrays, but no lists
        suite = Suite.model_validate_json(json.dumps(tomllib.loads(text), default=str))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where} is no TOML: {error}. Mend it there.") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise InputError(f"{where}: {key}: {_expected(first['type'], first['msg'])}") from error
    for version in (suite, suite.smaller()):
        _check(version, where)
    return suite


def items(suite: Suite) -> list[Item]:
    """All that the suite measures, in order and each once."""
    kind = kinds.get(suite.kind)
    found = kind.expand(suite, kind.settings_of(suite))
    return list({item.id: item for item in found}.values())


def _check(suite: Suite, where: str) -> None:
    """Raise `InputError` for what the types alone do not tell."""
    key = "kind"
    try:
        kind = kinds.get(suite.kind)
        key = "settings"
        kind.settings_of(suite)
        for index, net in enumerate(suite.nets):
            key = f"nets.{index}"
            _check_net(net)
        for index, budget in enumerate(suite.budgets):
            key = f"budgets.{index}"
            selection.parse_budget(budget)
        for index, method in enumerate(suite.methods):
            key = f"methods.{index} ({method.shown})"
            _check_method(method, suite)
        key = "smoke.methods"
        _check_smoke(suite)
        key = "methods"
        _check_labels(suite)
        key = "settings"
        list(kind.expand(suite, kind.settings_of(suite)))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, (key, *first["loc"])))
        raise InputError(f"{where}: {key}: {_expected(first['type'], first['msg'])}") from error
    except MippError as error:
        raise InputError(f"{where}: {key}: {error}") from error


def _check_net(net: Net) -> None:
    models.spec(net.name)
    retrain.recipe_for(net.name)
    if net.data not in data.names() and not FOLDER.fullmatch(net.data):
        raise InputError(
            f"data = {net.data!r}; expected one of {', '.join(data.names())}, or "
            "'folder:NAME@SIZE', a class-per-folder tree in the data folder and pixels."
        )


def _check_method(method: Method, suite: Suite) -> None:
    contenders.arguments(method.name, method.options)
    record = contenders.record_of(method.name, method.options)
    if record is None:
        return
    stages = suite.stages if method.stages is None else method.stages
    if "init" in stages and not record.at_init:
        raise InputError(
            f"{method.name} says nothing at initialisation; expected stages = ['trained']."
        )
    if any(selection.parse_budget(b).information is not None for b in suite.budgets):
        raise InputError(f"{method.name} measures no information, which budgets ask for.")
    if isinstance(record, methods.TrainingMethod) and not suite.retraining:
        raise InputError(f"{method.name} trains, and there is no section [retraining.STAGE].")


def _check_smoke(suite: Suite) -> None:
    unknown = set(suite.smoke.methods or ()) - {method.shown for method in suite.methods}
    if unknown and not suite.name.endswith("-smoke"):
        raise InputError(f"{sorted(unknown)[0]!r} is the label of no method of the suite.")


def _check_labels(suite: Suite) -> None:
    for stage in suite.stages:
        here = [m for m in suite.methods if m.stages is None or stage in m.stages]
        words: dict[str, list[str]] = {
            "labels": [m.shown for m in here],
            "methods": [f"{m.name} {m.options} {m.retrain_from or ''}" for m in here],
        }
        for what, seen in words.items():
            double = next((each for each in seen if seen.count(each) > 1), None)
            if double is not None:
                raise InputError(f"{double} is there twice at stage {stage}; expected {what} once.")


def _expected(kind: str, message: str) -> str:
    """What was expected, in words of the file."""
    if kind == "extra_forbidden":
        return "there is no such key; docs/bench.md lists those that there are."
    if kind == "missing":
        return "is missing."
    return f"{message}."
