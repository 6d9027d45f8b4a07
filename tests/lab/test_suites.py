"""Suite files: what is read, and that every mistake is told by its key before anything runs."""

import pytest

from lab import runner, suite_files
from lab.store import Store
from mipp.errors import InputError
from tests.lab.small import tiny


def test_a_suite_has_an_item_for_every_seed_stage_budget_and_method():
    suite = suite_files.read(tiny(stages=("trained", "init"), seeds=(0, 1)), "tiny.toml")
    items = suite_files.items(suite)
    assert len(items) == 2 * 2 * 1 * 2
    assert len({item.id for item in items}) == len(items)
    first = items[0].content()
    assert first["net"] == {"name": "digits_cnn", "width": 0.25, "data": "digits", "epochs": 1}
    assert first["retraining"] == {"epochs": 1, "rate": 0.01}
    assert [item.seed for item in items] == [0] * 4 + [1] * 4


def test_parents_come_first_and_once_for_all_items_of_a_net():
    suite = suite_files.read(tiny(stages=("trained", "init"), seeds=(0, 1)), "tiny.toml")
    items = runner.with_parents(suite_files.items(suite))
    assert [(item.kind, item.seed) for item in items[:3]] == [
        ("parent", 0), ("parent", 1), ("layers", 0),
    ]  # fmt: skip
    assert len(items) == 2 + 8


def test_titles_and_labels_do_not_change_what_an_item_is():
    text = tiny()
    other = text.replace("Digits, to", "Numbers, to").replace("random, everywhere", "chance")
    ids = [[i.id for i in suite_files.items(suite_files.read(t, "a.toml"))] for t in (text, other)]
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("seeds = [0]", "seeds = [0]\nseed = 1", r"^tiny\.toml: seed: there is no such key"),
        ("seeds = [0]", 'seeds = ["a"]', r"seeds\.0: Input should be a valid integer"),
        ("seeds = [0]", "seeds = [", r"tiny\.toml is no TOML: .*line"),
        ('title = "Digits, to try the runner"', "", "title: is missing"),
        ('kind = "layers"', 'kind = "layer"', r"kind: kind = 'layer'; expected one of accuracy"),
        ('"units=50%"', '"units=half"', r"budgets\.0: The budget 'units=half' cannot be read"),
        ('name = "digits_cnn"', 'name = "digits"', r"nets\.0: model 'digits' was given"),
        ('data = "digits"', 'data = "digit"', r"nets\.0: data = 'digit'; expected one of digits"),
        ('name = "random"', 'name = "chance"', r"methods\.1 .*method='chance' is not known"),
        ("allocation = \"global\"", "share = 1", r"options\.share is no option of random"),
        ("allocation = \"global\"", 'rounds = "2"', r"options\.rounds = '2': Input should be"),
        ("allocation = \"global\"", "rounds = 0", "Random has rounds=0; expected at least 1"),
        ("allocation = \"global\"", 'allocation = "all"', "allocation='all'; expected one of"),
        ("allocation = \"global\"", 'widths = "l2"', "options.widths = 'l2'; expected 'mipp'"),
        ('name = "random"', 'name = "bnscale"', "says nothing at initialisation; expected stages"),
        ('label = "random, everywhere"', 'label = "mipp"', "mipp is there twice at stage init"),
        ('stages = ["init"]', 'stages = ["raw"]', r"stages\.0: Input should be 'tr"),
        ("rate = 0.01", "rate = 0.01\nshare = 0.2", "rate and share are both there"),
        ("[calibration]", "[settings]\nx = 1\n[calibration]", r"settings\.x: there is no such key"),
        ("[calibration]", '[smoke]\nmethods = ["l2"]\n[calibration]', "'l2' is the label of no"),
        ("[calibration]", "[smoke]\nnets = []\nnot = 1\n[calibration]", r"smoke\.not: there is no"),
        ('"units=50%"', '"information=90%"', "measures no information, which budgets ask for"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_the_file_and_the_key(old, new, told):
    text = tiny()
    assert old in text
    with pytest.raises(InputError, match=told):
        suite_files.read(text.replace(old, new), "tiny.toml")


def test_a_share_of_the_rate_is_that_of_each_nets_recipe():
    text = tiny(stages=("trained",)).replace("rate = 0.01", "share = 0.2")
    items = suite_files.items(suite_files.read(text, "tiny.toml"))
    assert {item.retraining.rate for item in items} == {0.01}


def test_an_unknown_suite_is_told_with_those_that_there_are():
    with pytest.raises(InputError, match="suite 'lenet' was given; expected one of"):
        suite_files.load("lenet")


@pytest.mark.parametrize("name", suite_files.names())
def test_built_in_suites_are_right_and_named_as_their_file(name):
    suite = suite_files.load(name)
    assert suite.name == name
    items = suite_files.items(suite)
    assert items
    smoke = suite_files.items(suite_files.load(name, smoke=True))
    assert 0 < len(smoke) <= 40
    assert {item.id for item in smoke}.isdisjoint({item.id for item in items})


def test_a_suite_says_its_choice_is_not_there(tmp_path):
    suite = suite_files.read(tiny(), "tiny.toml")
    store, items = Store(tmp_path, "tiny"), suite_files.items(suite)
    with pytest.raises(InputError, match="--methods l1 is nothing that tiny has; expected some of"):
        runner.todo(suite.name, items, store, runner.Choice(methods=("l1",)))
    with pytest.raises(InputError, match="--seeds 7 is nothing that tiny has"):
        runner.todo(suite.name, items, store, runner.Choice(seeds=(7,)))
    with pytest.raises(InputError, match="--nets vgg11 is nothing that tiny has"):
        runner.todo(suite.name, items, store, runner.Choice(nets=("vgg11",)))
    assert len(runner.todo(suite.name, items, store, runner.Choice(methods=("random",)))) == 1
    several = suite_files.load("layers")
    mine = runner.Choice(nets=("lenet5",)).of(several.name, suite_files.items(several))
    assert {item.net.label for item in mine} == {"lenet5/mnist"}
    assert mine == runner.Choice(nets=("lenet5/mnist",)).of(
        several.name, suite_files.items(several)
    )
    assert len(runner.todo(suite.name, items, store, runner.Choice(limit=1))) == 1


def test_a_variant_of_a_template_has_its_own_values_and_else_the_defaults():
    template = {
        "title": "{net} here",
        "seeds": "{seeds}",
        "nets": [{"name": "{net}", "width": "{width}"}],
        "methods": [{"name": "mipp"}],
        "defaults": {"seeds": [0, 1], "width": 0.5},
        "variants": {
            "a": {"net": "vgg11", "width": 1},
            "b": {"net": "lenet5", "more_methods": [1]},
        },
    }
    assert suite_files.filled(template, "a") == {
        "title": "vgg11 here",
        "seeds": [0, 1],
        "nets": [{"name": "vgg11", "width": 1}],
        "methods": [{"name": "mipp"}],
    }
    assert suite_files.filled(template, "b")["methods"] == [{"name": "mipp"}, 1]
