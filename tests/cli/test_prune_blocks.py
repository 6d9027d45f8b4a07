"""``mipp prune --granularity block``."""

import mipp as library

QUICK = ("--samples", "64", "--score-samples", "32")


def test_blocks_are_in_the_json_the_plan_and_the_file(mipp, tmp_path):
    path, plan, page = (tmp_path / n for n in ("small.safetensors", "plan.json", "plan.html"))
    given = ("prune", "--model", "resnet20", "--width", "0.25", "--data", "digits", *QUICK,
             "--granularity", "block", "--budget", "units=60%", "--refit", "none")  # fmt: skip
    done = mipp(*given, "--protect", "layer1.0", "--out", path, "--plan", plan, "--report", page,
                "--json")  # fmt: skip
    assert done.code == 0, done.err
    found = done.json
    assert found["granularity"] == "block"
    assert found["units"] == {"before": 7, "after": 4}
    gone = [row["name"] for row in found["blocks"] if row["removed"]]
    assert len(gone) == 3
    assert "layer1.0" not in gone
    read = library.BlockPlan.from_json(plan.read_text())
    assert sorted(read.removed) == gone
    assert "nats lost before a refit" in page.read_text()
    small = library.load(path)
    assert sum(p.numel() for p in small.parameters()) == found["params"]["after"]
    shown = mipp(*given, "--blocks", "layer1.*", "--order", "ordered")
    assert shown.code == 0, shown.err
    for text in ("taken out", "layer1.2", "blocks"):
        assert text in shown.out
    assert "layer2.1" not in shown.out


def test_what_blocks_have_no_use_for_is_refused(mipp):
    start = ("prune", "--model", "resnet20", "--granularity", "block")
    assert "say how much may be left" in mipp(*start).err
    wrong = mipp(*start, "--budget", "macs=50%", "--method", "l2")
    assert wrong.code == 2
    assert "has no use for method" in " ".join(wrong.err.split())
