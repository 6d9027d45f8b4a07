"""``mipp prune --granularity weight`` and its patterns, also after units, through files."""

import torch

import mipp as library

QUICK = ("--samples", "256")


def test_zeros_are_in_the_json_the_plan_and_the_file(mipp, small_cnn, weights, tmp_path):
    path, plan = tmp_path / "small.safetensors", tmp_path / "plan.json"
    page = tmp_path / "plan.html"
    done = mipp(
        "prune", *small_cnn, "--weights", weights, "--granularity", "weight", *QUICK,
        "--budget", "params=20%", "--ridge", "0.001", "--out", path, "--plan", plan, "--retrain",
        "1", "--report", page, "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = done.json
    assert found["granularity"] == "weight"
    assert 0 < found["params"]["after"] <= 0.2 * found["params"]["before"]
    assert {row["name"] for row in found["layers"]} == {
        f"{name}.weight" for name in ("conv1", "conv2", "conv3", "fc1", "fc2")
    }
    assert all(0 < row["information"] <= 1 for row in found["layers"])
    assert found["accuracy"]["retrained"] > 0.5
    text = page.read_text()
    assert "Nats lost with the weights" in text
    assert "accuracy, retrained" in text
    # retrained with the zeros held, and stored without them
    loaded = library.load(library.models.build("digits_cnn", width=0.5), path)
    kept = library.WeightPlan.from_json(plan.read_text())
    assert kept.record.options["ridge"] == 0.001
    for name, mask in kept.masks.items():
        assert torch.equal(loaded.get_parameter(name) != 0, mask)
    assert path.stat().st_size < 0.5 * weights.stat().st_size
    again = mipp("eval", *small_cnn, "--weights", path, "--json").json
    assert again["accuracy"] == found["accuracy"]["retrained"]


def test_units_first_and_then_a_pattern_in_what_is_left(mipp, small_cnn, weights, tmp_path):
    units, both = tmp_path / "units.safetensors", tmp_path / "both.safetensors"
    first = mipp(
        "prune", *small_cnn, "--weights", weights, "--budget", "params=60%", *QUICK, "--round-to",
        "4", "--out", units, "--json",
    )  # fmt: skip
    assert first.code == 0, first.err
    second = mipp(
        "prune", *small_cnn, "--weights", units, "--granularity", "2:4", *QUICK, "--method",
        "sparsegpt", "--refit", "own", "--out", both,
    )  # fmt: skip
    assert second.code == 0, second.err
    assert max(len(line) for line in second.out.splitlines() if str(both) not in line) <= 80
    for text in ("conv2.weight", "not pruned", "no multiple of 4", "empty:", "50.0 %"):
        assert text in second.out
    loaded = library.load(library.models.build("digits_cnn", width=0.5), both)
    assert sum(p.numel() for p in loaded.parameters()) == first.json["params"]["after"]
    weight = loaded.fc1.weight
    assert ((weight != 0).unflatten(1, (-1, 4)).sum(2) == 2).all()


def test_what_is_for_units_alone_is_an_error(mipp, small_cnn, weights):
    common = ("prune", *small_cnn, "--weights", weights, "--granularity", "weight")
    for more, text in (
        (("--budget", "macs=50%"), "save no multiply-accumulates"),
        (("--budget", "params=50%", "--min-units", "4"), "has no use for min_units"),
        (("--budget", "params=50%", "--preset", "paper"), "--preset paper"),
        (("--budget", "params=50%", "--method", "hrank"), "chooses units, not single"),
        ((), "say how much may be left"),
    ):
        done = mipp(*common, *more)
        assert done.code != 0
        assert text in " ".join(done.err.replace("│", " ").split())
