"""Which figures there are, and that they have the numbers of the records."""

import statistics

import pytest

from lab.report import SuiteRecords, suites_page
from mipp.errors import FileError, InputError
from mipp.report import page, write
from tests.report.reading import Page, titles

from . import made_up

plotly_javascript = page.plotly_javascript
pytestmark = pytest.mark.usefixtures("light")


def page_of(records, **more):
    return suites_page(
        [SuiteRecords("made-up", "Made up", "Nothing here was measured.", records, **more)]
    )


@pytest.fixture(scope="module")
def accuracies():
    return made_up.accuracies()


@pytest.fixture(scope="module")
def html(accuracies, light):
    return page_of(accuracies + made_up.parents())


def test_points_are_means_over_seeds_with_their_deviation(accuracies, html):
    shown_page = Page(html)
    mine = [r.result for r in accuracies
            if r.item.stage == "trained" and r.item.method.label == "mipp"
            and r.item.budget == "units=10%"]  # fmt: skip
    values = [result.accuracy.retrained for result in mine]
    shown = shown_page.series(0, "retrained", "units")["mipp"]
    assert shown[0.9] == pytest.approx(statistics.mean(values), rel=1e-5)
    assert len(shown) == len(made_up.UNITS)
    macs = shown_page.series(0, "retrained", "macs")["mipp"]
    assert min(abs(x - mine[0].left.macs) for x in macs) < 1e-5
    view = shown_page.figures[0]["views"][0]
    series = next(s for s in view["series"] if s["label"] == "mipp")
    where = series["x"].index(0.9)
    assert series["above"][where] == pytest.approx(statistics.stdev(values), rel=1e-4)
    assert series["n"][where] == 3
    assert view["level"]["y"] == pytest.approx(0.991)


def test_accuracy_is_shown_against_all_resources_and_for_all_outcomes(html):
    choices = {tuple(view["choice"]) for view in Page(html).figures[0]["views"]}
    assert choices == {
        (outcome, resource)
        for outcome in ("retrained", "refit", "at_once")
        for resource in ("units", "macs", "params")
    }
    assert "standard deviation (n − 1) over seeds" in html


def test_each_setting_has_figures_of_its_own_and_layers_follow(html):
    assert titles(html) == [
        "Accuracy: lenet5/mnist, pruned after training",
        "Layers: lenet5/mnist, pruned after training",
        "Accuracy: lenet5/mnist, pruned untrained",
        "Layers: lenet5/mnist, pruned untrained",
    ]


def test_the_first_table_says_where_mipp_stands(accuracies, html):
    table = Page(html).tables[0]
    assert table[0] == ["setting", "budget", "accuracy", "mipp", "best other", "which",
                        "difference", "place"]  # fmt: skip
    assert len(table) == 1 + 2 * len(made_up.UNITS)
    row = table[1]
    here = [r for r in accuracies if r.item.stage == "trained" and r.item.budget == row[1]]
    means = {
        label: statistics.mean(
            r.result.accuracy.retrained for r in here if r.item.method.label == label
        )
        for label in {r.item.method.label for r in here}
    }
    others = sorted((v for label, v in means.items() if label != "mipp"), reverse=True)
    assert row[6] == f"{100 * (means['mipp'] - others[0]):+.1f}".replace("-", "−")
    assert row[7] == f"{1 + sum(v > means['mipp'] for v in others)} of {len(means)}"


def test_every_figure_says_how_it_was_made(html):
    for words in ("python -m lab run made-up", "abc1234", "made-up processor, 2 cores, 1 thread",
                  "mipp 0.1.0, torch 2.13.0+cpu, Python 3.11.2", "3 (0, 1, 2)"):  # fmt: skip
        assert html.count(words) >= 5  # four figures and the suite


def test_the_page_loads_nothing(html):
    shown_page = Page(html)
    assert all(address.startswith("#") for address in shown_page.addresses)
    assert "default-src 'none'" in html
    assert len(shown_page.ids) == len(set(shown_page.ids))


def test_layers_are_normalised_by_their_mean(accuracies, html):
    shown_page, budget = Page(html), "units=20%"
    one = next(r for r in accuracies if r.item.budget == budget).result.widths
    gone = {name: 1 - left / before for name, (left, before) in one.items()}
    shown = shown_page.series(1, "ratio", budget)["mipp"]
    assert list(shown) == ["conv1", "conv2", "fc1", "fc2"]
    assert shown["fc1"] == pytest.approx(gone["fc1"] / statistics.mean(gone.values()), rel=1e-5)
    assert shown_page.series(1, "kept", budget)["mipp"]["fc1"] == pytest.approx(
        1 - gone["fc1"], rel=1e-5
    )


def test_collapses_are_counted_in_bins_of_five_percent():
    records = made_up.collapses()
    shown_page = Page(page_of(records))
    label = made_up.FEW[1].label
    here = [r for r in records
            if r.item.method.label == label and r.item.budget == "units=15%"]  # fmt: skip
    share = statistics.mean(bool(r.result.collapsed) for r in here)
    assert shown_page.series(0, "empty")[label][0.875] == pytest.approx(share)
    assert "Wilson" in shown_page.text
    assert len(shown_page.series(0, "untrainable")[label]) == 19


def test_costs_are_shown_against_the_size_of_the_net():
    records = made_up.costs()
    shown_page = Page(page_of(records))
    here = [r.result.seconds.plan for r in records
            if r.item.method.label == "mipp" and r.item.net.width == 0.5]  # fmt: skip
    shown = shown_page.series(0, "seconds", "params")["mipp"]
    assert shown[2_300_000] == pytest.approx(statistics.mean(here), rel=1e-5)
    assert {v["choice"][0] for v in shown_page.figures[0]["views"]} == {"seconds", "memory"}


def test_scarce_data_have_a_figure_over_fractions_and_one_over_imbalances():
    page_html = page_of(made_up.scarce())
    shown_page = Page(page_html)
    assert [title.split(":")[0] for title in titles(page_html)] == ["Few images", "Uneven classes"]
    few = shown_page.series(0, "plain", "retrained")["mipp"]
    uneven = shown_page.series(1, "balanced", "retrained")["mipp"]
    assert list(few) == ["1 %", "5 %", "20 %", "100 %"]
    assert list(uneven) == ["1:1", "1:10", "1:100"]


def test_ablations_show_the_information_that_is_kept():
    shown_page = Page(page_of(made_up.ablations()))
    shown = shown_page.series(0, "information", "units")["mipp"]
    assert shown[0.5] == pytest.approx(1 - (5 + made_up.wave("mipp", "units=50%")) / 16, rel=1e-5)


def test_nets_from_scratch_are_rows_of_their_own():
    shown_page = Page(page_of(made_up.scratches()))
    assert set(shown_page.series(0, "retrained", "units")) == {
        "mipp",
        "scratch, widths of mipp, equal epochs",
        "scratch, widths of mipp, equal compute",
        "scratch, uniform widths, equal epochs",
        "scratch, uniform widths, equal compute",
    }


def test_a_kind_that_is_not_known_is_shown_as_accuracy():
    records = made_up.accuracies(
        stages=("trained",),
        seeds=1,
        kind="deformed",
        deformation="shear",
        budgets=made_up.UNITS[:2],
    )
    html = page_of(records)
    assert "The dashed line is the unpruned net, 99.1 %." in html  # one seed: no deviation
    assert titles(html)[0] == ("Accuracy: lenet5/mnist, pruned after training, deformation shear")


def test_an_item_that_was_measured_again_counts_once(accuracies):
    few = accuracies[:36]
    doubled = Page(page_of(few + few))
    assert doubled.figures[0]["views"][0]["series"][0]["n"][0] == 3


def test_one_seed_and_one_method_are_enough():
    shown_page = Page(
        page_of(made_up.accuracies(made_up.FEW[:1], seeds=1, budgets=made_up.UNITS[:1]))
    )
    series = shown_page.figures[0]["views"][0]["series"][0]
    assert set(series["above"]) == {None}
    assert "±" not in "".join(shown_page.tables[0][1])


def test_labels_cannot_end_the_script_that_they_stand_in():
    method = made_up.MethodSpec(label="</script><b>x", name="l2")
    html = page_of(made_up.accuracies([method], seeds=1, budgets=made_up.UNITS[:1]))
    assert html.count("</script>") == html.count("<script")  # of its own, and none in Plotly
    assert "<b>x" not in html.replace("hover", "")


def test_a_suite_without_records_is_an_error_that_says_what_to_run():
    with pytest.raises(
        InputError, match=r"suite made-up has no records.*python -m lab run made-up"
    ):
        page_of(())
    with pytest.raises(InputError, match="no suite"):
        suites_page([])


def test_a_missing_extra_is_told(monkeypatch, accuracies):
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    monkeypatch.setattr(page, "plotly_javascript", plotly_javascript)
    with pytest.raises(InputError, match=r"Plotly.*pip install 'torch-mipp\[report\]'"):
        page_of(accuracies[:1])


def test_a_report_is_written_whole_or_not_at_all(tmp_path):
    write(tmp_path / "a.html", "ä")
    assert (tmp_path / "a.html").read_text("utf-8") == "ä"
    with pytest.raises(FileError, match=r"report .*b\.html cannot be written"):
        write(tmp_path / "none" / "b.html", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.html"]
