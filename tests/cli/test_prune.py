"""``mipp prune`` and what it writes; ``mipp eval`` and ``mipp inspect`` agree with it."""

import inspect
import math
import platform
from dataclasses import fields
from typing import Literal, get_args

import numpy as np
import pytest
import torch

import mipp as library
from mipp import selection
from mipp.cli import names, plan_options, prune_options
from mipp.cli.prune import prune as command
from mipp.cli.tasks import TASKS
from mipp.errors import InputError
from mipp.options import help_of

QUICK = ("--samples", "256")
PAIR = {"before", "after"}
NOT_ON_THE_COMMAND_LINE = {
    "calibration": "a record of several fields",
    "granularity": "an option of the command, which chooses between the two records",
    "latency": "made from --latency-runtime and --latency-batch",
    "loss": "all models of the command line are classifiers, for which `auto` is right",
    "seed": "an option of all commands, also for data and retraining",
    "stop": "a record; `--confidence` makes the one that there is",
    "training": "made from --data, the network's recipe and --train-epochs",
    "widths": "a plan, or a number for each group",
}
"""Fields of the library's options that a command line cannot give, and why."""


def test_json_is_one_object_and_nothing_else(mipp, small_cnn, weights, tmp_path):
    small = tmp_path / "small.safetensors"
    done = mipp(
        "prune", *small_cnn, "--weights", weights, "--budget", "macs=40%", *QUICK,
        "--out", small, "--json", "--seed", "3",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 1
    assert "information" in done.err  # the table is there too, beside the JSON
    found = done.json
    assert found.keys() == {
        "accuracy", "macs", "params", "units", "latency_ms", "seconds", "groups", "refused", "seed",
        "model", "weights", "data", "method", "budget", "granularity", "out", "plan", "report",
        "versions", "notes", "metric", "task", "tuning",
    }  # fmt: skip
    said = ("model", "data", "method", "budget", "granularity", "out", "report")
    assert [found[name] for name in said] == [
        "digits_cnn", "digits", "mipp", "macs=40%", "unit", str(small), None,
    ]  # fmt: skip
    assert found["versions"] == {
        "mipp": library.__version__, "torch": torch.__version__,
        "python": platform.python_version(),
    }  # fmt: skip
    assert found["accuracy"].keys() == PAIR | {"tuned", "retrained"}
    assert found["accuracy"]["retrained"] is None
    assert all(0 <= found["accuracy"][when] <= 1 for when in PAIR)
    for name in ("macs", "params", "units", "latency_ms"):
        assert found[name].keys() == PAIR
    assert 0 < found["macs"]["after"] <= 0.4 * found["macs"]["before"]
    assert found["latency_ms"]["before"] > 0
    assert found["seconds"].keys() == {"capture", "plan", "apply"}
    assert all(seconds > 0 for seconds in found["seconds"].values())
    assert [group["name"] for group in found["groups"]] == ["fc1", "conv3", "conv2", "conv1"]
    for group in found["groups"]:
        assert group.keys() == {"name", "units", "exact", "information", "macs", "params"}
        assert group["exact"]
        assert 0 < group["information"] <= 1
    assert found["units"]["after"] == sum(group["units"]["after"] for group in found["groups"])
    (refused,) = found["refused"]
    assert refused["name"] == "fc2"
    assert refused["units"] == 10
    assert "output" in refused["reason"]
    assert found["seed"] == 3

    again = mipp("eval", *small_cnn, "--weights", small, "--json").json
    assert again["accuracy"] == found["accuracy"]["after"]
    assert again["macs"] == found["macs"]["after"]
    assert again["params"] == found["params"]["after"]
    listed = mipp("inspect", *small_cnn, "--weights", small, "--json").json
    assert listed["units"] == found["units"]["after"]
    assert {group["name"]: group["units"] for group in listed["groups"]} == {
        group["name"]: group["units"]["after"] for group in found["groups"]
    }

    model = library.models.build("digits_cnn", width=0.5)
    loaded = library.load(model, small)
    assert sum(p.numel() for p in loaded.parameters()) == found["params"]["after"]
    evaluation = library.retrain.evaluate(
        loaded, library.data.Batches(library.data.load("digits", "test"), 256)
    )
    assert evaluation.accuracy == found["accuracy"]["after"]


def test_tables_fit_80_columns_and_the_plan_is_kept(mipp, small_cnn, weights, tmp_path):
    path = tmp_path / "plan.json"
    done = mipp(
        "prune", *small_cnn, "--weights", weights, "--budget", "params=50%", *QUICK,
        "--plan", path, "--retrain", "1", "--distill", "0.5",
    )  # fmt: skip
    assert done.code == 0, done.err
    # a path is as long as it is
    assert max(len(line) for line in done.out.splitlines() if str(path) not in line) <= 80
    for text in ("conv1", "information", "not pruned", "MACs", "accuracy, retrained", "no --out"):
        assert text in done.out
    plan = library.Plan.from_json(path.read_text())
    assert plan.after.params <= 0.5 * plan.before.params


def test_retraining_is_in_the_json_and_in_the_file(mipp, small_cnn, weights, tmp_path):
    small = tmp_path / "small.safetensors"
    done = mipp(
        "prune", *small_cnn, "--weights", weights, "--budget", "macs=20%", *QUICK,
        "--retrain", "1", "--out", small, "--json",
    )  # fmt: skip
    accuracy = done.json["accuracy"]
    assert accuracy["retrained"] is not None
    again = mipp("eval", *small_cnn, "--weights", small, "--json").json
    assert again["accuracy"] == accuracy["retrained"]


def test_tuning_is_in_the_table_the_json_the_page_and_the_file(mipp, small_cnn, weights, tmp_path):
    small, page = tmp_path / "small.safetensors", tmp_path / "plan.html"
    done = mipp(
        "prune", *small_cnn, "--weights", weights, "--budget", "macs=20%", *QUICK,
        "--tune", "--tune-minutes", "2", "--out", small, "--report", page, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    accuracy, tuning = done.json["accuracy"], done.json["tuning"]
    assert tuning["after"] < tuning["before"]
    assert tuning["unit"] == "nats"
    assert tuning["passes"] == 20
    assert tuning["examples"] == {"trained": 224, "held_out": 32}
    assert accuracy["retrained"] is None
    assert done.json["seconds"]["tune"] > 0
    again = mipp("eval", *small_cnn, "--weights", small, "--json").json
    assert again["accuracy"] == accuracy["tuned"]
    for text in ("nats from the unpruned model", "20 passes", "accuracy, tuned"):
        assert text in done.err
    assert all(len(line) <= 80 for line in done.err.splitlines() if "unpruned model" in line)
    written = page.read_text()
    assert "accuracy, tuned" in written
    assert "nats from the whole model on 32 held-out examples" in written


def test_options_reach_the_plan(mipp, small_cnn, weights, tmp_path):
    path = tmp_path / "plan.json"
    done = mipp(
        "prune", *small_cnn, "--weights", weights, "--budget", "units=75%", *QUICK,
        "--plan", path, "--noise", "0.1", "--order", "ordered", "--allocation", "tolerance",
        "--rounds", "2", "--passes", "1", "--no-refit", "--protect", "conv1", "--protect", "fc*",
        "--min-units", "4", "--round-to", "2", "--memory", "1GiB", "--seed", "5", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    plan = library.Plan.from_json(path.read_text())
    wanted = {
        "noise": 0.1, "order": "ordered", "allocation": "tolerance", "rounds": 2, "passes": 1,
        "refit": None, "protect": ["conv1", "fc*"], "min_units": 4, "round_to": 2, "samples": 256,
        "seed": 5, "budget": "units=75%",
    }  # fmt: skip
    assert {name: plan.record.options[name] for name in wanted} == wanted
    kept = {name: len(units) for name, units in plan.keep.items()}
    assert kept["conv1"] == 8
    assert kept["fc1"] == 32
    assert kept["conv2"] % 2 == kept["conv3"] % 2 == 0


def test_the_weights_can_be_those_of_the_methods_source(mipp, small_cnn, weights, tmp_path):
    path = tmp_path / "plan.json"
    done = mipp(
        "prune", *small_cnn, "--weights", weights, "--budget", "macs=50%", *QUICK, "--plan", path,
        "--method", "flap", "--refit", "own",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert library.Plan.from_json(path.read_text()).record.options["refit"]["fits"] == "bias"


def test_a_method_without_nats_has_null_information(mipp, small_cnn, weights):
    done = mipp(
        "prune", *small_cnn, "--weights", weights, "--budget", "macs=50%", *QUICK,
        "--method", "l2", "--refit", "norm", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert {group["information"] for group in done.json["groups"]} == {None}


def test_layers_can_be_emptied_and_the_model_then_says_one_thing(
    mipp, small_cnn, weights, tmp_path
):
    small = tmp_path / "small.safetensors"
    done = mipp(
        "prune", *small_cnn, "--weights", weights, "--budget", "units=2", *QUICK, "--out", small,
        "--method", "synflow", "--rounds", "3", "--min-units", "0", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    empty = [group["name"] for group in done.json["groups"] if not group["units"]["after"]]
    assert empty
    assert f"nothing is left of {', '.join(empty)}" in done.err
    again = mipp("eval", *small_cnn, "--weights", small, "--json").json
    assert again["accuracy"] == done.json["accuracy"]["after"]
    assert 0.05 < again["accuracy"] < 0.15  # one of ten digits


def test_methods_that_train_do_so_by_the_recipe(mipp, small_cnn, weights, tmp_path):
    path = tmp_path / "plan.json"
    done = mipp(
        "prune", *small_cnn, "--weights", weights, "--budget", "units=50%", *QUICK, "--plan", path,
        "--method", "oto", "--train-epochs", "1", "--no-refit", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.json["seconds"]["train"] > 0
    assert done.json["accuracy"]["after"] > 0.5
    plan = library.Plan.from_json(path.read_text())
    trained = plan.record.options["training"]
    recipe = library.retrain.recipe_for("digits_cnn")
    assert trained["recipe"]["peak_lr"] == recipe.peak_lr
    assert trained["cost"]["epochs"] == trained["recipe"]["epochs"] == 1
    assert trained["cost"]["steps"] == -(-1438 // recipe.batch_size)
    assert "random weights" not in done.err


def test_without_weights_it_is_said_what_random_weights_were_for(mipp, small_cnn):
    budget = ("--budget", "units=50%", *QUICK, "--no-refit")
    done = mipp("prune", *small_cnn, *budget, "--method", "l2")
    assert "this model has random weights" in done.err + done.out
    done = mipp("prune", *small_cnn, *budget, "--method", "oto", "--train-epochs", "1")
    assert "its training began with random weights" in done.err + done.out


def test_same_seed_same_numbers(mipp, small_cnn, weights):
    arguments = ("prune", *small_cnn, "-w", weights, "-b", "macs=50%", *QUICK, "--json")
    one, other = mipp(*arguments).json, mipp(*arguments).json
    for found in (one, other):
        del found["seconds"], found["latency_ms"]
    assert one == other


def test_a_pruned_model_can_be_pruned_again(mipp, small_cnn, weights, tmp_path):
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    mipp("prune", *small_cnn, "-w", weights, "-b", "macs=60%", *QUICK, "-o", first)
    done = mipp("prune", *small_cnn, "-w", first, "-b", "macs=60%", *QUICK, "-o", second, "--json")
    found = mipp("eval", *small_cnn, "-w", second, "--json").json
    assert found["macs"] == done.json["macs"]["after"]
    assert found["accuracy"] == done.json["accuracy"]["after"]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--budget", "macs=lots"), "cannot be read"),
        (("--budget", "macs=0.1%"), "the smallest is"),
        (("--budget", "macs=50%", "--method", "magic"), "expected one of mipp"),
        (("--budget", "macs=50%", "--method", "l2", "--noise", "0.1"), "no use for estimator"),
        (("--budget", "macs=50%", "--noise", "loud"), "expected 'fisher' or a positive number"),
        (("--budget", "macs=50%", "--estimator", "oracle"), "expected one of gaussian"),
        (("--confidence", "1.5"), "expected at least 0.5 and below 1"),
        (("--budget", "macs=50%", "--next-layer", "pruned"), "needs a rule that decides"),
        (("--budget", "macs=50%", "--refit", "often"), "expected one of 'sequential'"),
        (("--budget", "macs=50%", "--refit", "norm", "--no-refit"), "give one of them"),
        (("--budget", "macs=50%", "--protect", "conv9"), "names no group"),
        (("--budget", "macs=50%", "--distill", "0.5"), "need --retrain"),
        (("--budget", "macs=50%", "--tune-minutes", "1"), "need --tune."),
        (("--budget", "macs=50%", "--tune", "--tune-minutes", "0"), "minutes=0.0; expected"),
        (("--budget", "macs=50%", "--rounds", "0"), "expected a whole number, at least 1"),
        (("--budget", "macs=50%", "--train-epochs", "2"), "2 needs --method dhspg or imp or oto"),
        (("--budget", "macs=50%", "--retrain", "1", "--retrain-lr", "-1"), "above 0"),
    ],
)
def test_options_that_do_not_fit(mipp, small_cnn, weights, arguments, text):
    done = mipp("prune", *small_cnn, "--weights", weights, "--samples", "64", *arguments)
    assert done.code == (1 if text == "the smallest is" else 2)
    assert text in " ".join(done.err.split())
    assert not done.out


def test_neither_budget_nor_rule_is_wrong_usage(mipp, small_cnn, weights):
    done = mipp("prune", *small_cnn, "--weights", weights)
    assert done.code == 2
    assert "--confidence 0.95" in done.err


def test_without_a_budget_confidence_decides(mipp, small_cnn, weights):
    arguments = ("prune", *small_cnn, "-w", weights, *QUICK, "--next-layer", "pruned", "--json")
    sure, surer = (
        mipp(*arguments, "--order", "ordered", "--confidence", level).json["units"]["after"]
        for level in ("0.6", "0.99")
    )
    assert 4 <= surer < sure


def test_single_settings_of_a_preset_can_be_replaced(mipp, small_cnn, weights, tmp_path):
    plan = tmp_path / "plan.json"
    done = mipp(
        "prune", *small_cnn, "-w", weights, *QUICK, "--preset", "paper", "--estimator", "gaussian",
        "--confidence", "0.9", "--plan", plan,
    )  # fmt: skip
    assert done.code == 0, done.err
    options = library.Plan.from_json(plan.read_text()).record.options
    assert options["estimator"] == "gaussian"
    assert options["stop"] == "Confidence(level=0.9)"
    assert options["next_layer"] == "pruned"
    assert options["order"] == "ordered"
    assert options["refit"] is None
    assert options["samples"] == 256


def test_weights_are_not_replaced_by_what_is_left_of_them(mipp, small_cnn, weights):
    before = weights.read_bytes()
    done = mipp("prune", *small_cnn, "-w", weights, "-b", "macs=50%", "-o", weights)
    assert done.code == 1
    assert "would replace them" in done.err
    assert weights.read_bytes() == before


def test_where_a_budget_of_latency_is_measured(mipp, small_cnn, weights):
    done = mipp("prune", *small_cnn, "-w", weights, "-b", "macs=50%", "--latency-batch", "8")
    assert done.code == 2
    assert "--latency-batch can only be given with a budget of latency" in done.err
    budget = selection.parse_budget("latency=50%")
    found = prune_options.latency_of(budget, "onnxruntime", None, "cpu")
    assert found == {"latency": library.Latency(runtime="onnxruntime")}
    assert prune_options.latency_of(budget, None, 8, "cuda")["latency"].batch == 8
    assert prune_options.latency_of(budget, None, None, "cuda") == {}
    with pytest.raises(InputError, match="--device cuda was given"):
        prune_options.latency_of(budget, "onnxruntime", None, "cuda")


def test_the_figures_of_a_budget_of_latency_are_shown(mipp, small_cnn, weights, monkeypatch):
    def halves(works, *, seconds, fewest, device):
        return [np.full(fewest, 2.0**-n) for n, _ in enumerate(works)]

    settings = library.Latency(batch=2, stopwatch=halves)
    monkeypatch.setattr(prune_options, "latency_of", lambda *_given: {"latency": settings})
    done = mipp("prune", *small_cnn, "-w", weights, "-b", "latency=60%", *QUICK, "--json")
    found = {"before": 1.0, "after": 0.5, "runtime": "torch", "batch": 2}
    assert done.json["budget_latency_ms"] == found
    assert "ms of the budget: batch 2, torch" in " ".join(done.err.split())


def test_each_option_of_the_library_is_one_of_the_command_or_there_is_a_reason():
    names = {one.name for one in (*fields(library.Options), *fields(library.WeightOptions),
                                     *fields(library.BlockOptions))}  # fmt: skip
    exposed, left_out = set(plan_options.PLAN_OPTIONS), set(NOT_ON_THE_COMMAND_LINE)
    assert exposed | left_out == names | {"confidence"}
    assert not exposed & left_out
    assert exposed <= set(_parameters())


def test_defaults_are_those_of_the_library():
    defaults = library.Options()
    shown = {
        "samples": defaults.samples, "method": defaults.method.name, "target": defaults.target,
        "estimator": defaults.estimator.name, "noise": defaults.estimator.noise,
        "next_layer": defaults.next_layer, "order": defaults.order, "passes": defaults.passes,
        "refit": defaults.refit.mode, "min_units": defaults.min_units,
        "round_to": defaults.round_to, "rounds": f"{defaults.rounds}, or the method's own",
    }  # fmt: skip
    for name, default in shown.items():
        assert _parameters()[name].default is None  # not given on, so that the library decides
        assert _option(name).show_default == str(default), name
    assert defaults.memory == 4 * 2**30
    assert _option("memory").show_default == "4GiB"


def test_types_and_help_are_those_of_the_schema():
    kinds = {
        "order": Literal["greedy", "ordered"] | None,
        "allocation": Literal["priced", "global", "tolerance", "uniform", "kinds", "rows"] | None,
        "rounds": int | None,
        "protect": list[str] | None,
        "method": str | None,
        "residual": bool,
    }
    for name, kind in kinds.items():
        assert get_args(_parameters()[name].annotation)[0] == kind, name
    assert _option("order").help == help_of(library.Options, "order").replace("`", "")
    assert _option("noise").help == help_of(library.WeightOptions, "noise").replace("`", "")
    assert _option("samples").help == "Calibration examples that are used at most."


def test_names_that_help_lists_are_those_of_the_library():
    assert library.models.names() == names.MODELS
    assert library.data.names() == names.DATA
    assert tuple(library.methods.names()) == names.METHODS
    assert tuple(library.methods.weight_names()) == names.WEIGHT_METHODS
    assert tuple(library.information.names()) == names.ESTIMATORS
    assert tuple(TASKS) == names.TASKS
    facts = library.methods.facts()
    assert tuple(row.name for row in facts if row.needs == "training") == names.TRAINING_METHODS


def _parameters():
    return inspect.signature(command).parameters


def _option(name):
    return _parameters()[name].annotation.__metadata__[0]


def test_latency_is_a_number_of_milliseconds(mipp, small_cnn, weights):
    found = mipp("eval", *small_cnn, "--weights", weights, "--json").json
    assert 0 < found["latency_ms"] < 10_000
    assert math.isfinite(found["loss"])


@pytest.mark.parametrize("option", ["--out", "--plan", "--report"])
def test_a_file_that_is_there_is_replaced_by_force_alone(
    mipp, small_cnn, weights, tmp_path, option
):
    suffix = {"--out": ".safetensors", "--plan": ".json", "--report": ".html"}[option]
    path = tmp_path / f"there{suffix}"
    path.write_text("of another run")
    work = ("prune", *small_cnn, "-w", weights, "-b", "macs=50%", "--samples", "64", option, path)
    refused = mipp(*work)
    assert refused.code == 1
    assert "there is such a file already. Give another name, or --force" in refused.err
    assert path.read_text() == "of another run"
    done = mipp(*work, "--method", "l2", "--no-refit", "--force")
    assert done.code == 0, done.err
    assert path.stat().st_size > 1000
    what = {"--out": "pruned model", "--plan": "plan", "--report": "report"}[option]
    assert f"{what} in {path}" in done.out
