"""Suites by name or path, checked before anything runs; errors name the key and the file."""

import json
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lab import kinds, method_options
from lab.measurements import Item
from lab.suite import FOLDER, Method, Net, Suite
from mipp import data, methods, models, retrain, selection
from mipp.errors import InputError, MippError

FOLDER_OF_SUITES = Path(__file__).with_name("suites")


def names() -> list[str]:
    """Names of the suites that there are: files, and variants of templates."""
    return sorted([path.stem for path in FOLDER_OF_SUITES.glob("*.toml")] + list(_templates()))


def load(wanted: str, *, smoke: bool = False) -> Suite:
    """The suite of that name, or in that file, checked; with ``smoke`` its tiny version.

    Raises:
        InputError: No such suite, or a file with a mistake; names the key and what was expected.
    """
    path, built_in = Path(wanted), FOLDER_OF_SUITES / f"{wanted}.toml"
    template = _templates().get(wanted)
    if template is not None:
        suite = _checked(filled(_toml(template.read_text(), template.name), wanted), template.name)
    elif path.name == wanted and built_in.is_file():
        suite = read(built_in.read_text(), built_in.name)
    elif path.suffix == ".toml" and path.is_file():
        suite = read(path.read_text(), str(path))
    else:
        raise InputError(
            f"suite {wanted!r} was given; expected one of {', '.join(names())}, or the path of a "
            ".toml file that is there."
        )
    return suite.smaller() if smoke else suite


def read(text: str, where: str) -> Suite:
    """A suite from the text of a file; ``where`` names it in errors."""
    return _checked(_toml(text, where), where)


def filled(template: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The suite that a template is for one of its variants.

    A variant's values, and the ``[defaults]`` of those that it has not, take the places ``{key}``;
    a text that is nothing but ``{key}`` becomes the value itself. ``more_methods`` are added.
    """
    values = {**template["defaults"], **template["variants"][name], "name": name}

    def fill(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: fill(value) for key, value in part.items()}
        if isinstance(part, list):
            return [fill(value) for value in part]
        if not isinstance(part, str):
            return part
        alone = re.fullmatch(r"\{(\w+)\}", part)
        return values[alone[1]] if alone else part.format(**values)

    suite = fill({key: v for key, v in template.items() if key not in ("defaults", "variants")})
    return suite | {"methods": [*suite["methods"], *values.get("more_methods", [])]}


@cache
def _templates() -> dict[str, Path]:
    """Name of a suite -> the template that has it as a variant."""
    paths = sorted((FOLDER_OF_SUITES / "templates").glob("*.toml"))
    return {name: path for path in paths for name in tomllib.loads(path.read_text())["variants"]}


def _toml(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where} is no TOML: {error}. Mend it there.") from error


def _checked(content: Mapping[str, Any], where: str) -> Suite:
    try:
        # through JSON: strict tuples take its arrays, but no lists
        suite = Suite.model_validate_json(json.dumps(content, default=str))
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
    method_options.arguments(method.name, method.options)
    record = method_options.record_of(method.name, method.options)
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
        return "there is no such key; docs/research/lab.md lists those that there are."
    if kind == "missing":
        return "is missing."
    return f"{message}."
