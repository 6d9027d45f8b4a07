"""The pages in a real browser: Debian's Chromium, without a window."""

import csv
import io
import shutil
import time

import pytest

import mipp
from lab.report import SuiteRecords, suites_page
from tests.lab import made_up

from .test_plans import batches, net

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="there is no Chromium: apt-get install chromium chromium-driver",
)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage")  # fmt: skip
PATIENCE = 60
"""Seconds: tests run beside others."""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A folder with a report of two suites, one of many methods, and the page of a plan."""
    folder = tmp_path_factory.mktemp("pages")
    (folder / "saved").mkdir()
    many = made_up.accuracies(
        made_up.MANY[:13], stages=("trained",), seeds=2, budgets=made_up.UNITS[1:4]
    )
    suites = [
        SuiteRecords("made-up", "Made up", "Nothing was measured.", many),
        SuiteRecords("costs", "Made-up costs", "", made_up.costs(made_up.FEW[:2])),
    ]
    (folder / "suites.html").write_text(suites_page(suites), "utf-8")
    mipp.plan(net(), batches(), "units=50%").report(folder / "plan.html")
    return folder


@pytest.fixture(scope="module")
def browser(pages, tmp_path_factory):
    """Chromium; what it saves goes into the pages' folder."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    where = {"behavior": "allow", "downloadPath": str(pages / "saved")}
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", where)
    yield driver
    driver.quit()


def opened(browser, path, width=1200, height=900, *, dark=False):
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get(path.as_uri())
    browser.execute_script("document.querySelector('#f1').scrollIntoView()")
    wait(browser, "return document.querySelector('#f1 .scatterlayer, #f1 .barlayer') !== null")


def wait(browser, script, *arguments):
    """What the script returns, once that is true."""
    end = time.monotonic() + PATIENCE
    while not (found := browser.execute_script(script, *arguments)):
        assert time.monotonic() < end, f"never true: {script}"
        time.sleep(0.05)
    return found


def saved(browser, pages, button, ending):
    """The text of the file that a button gives."""
    browser.execute_script("arguments[0].click()", button)
    end = time.monotonic() + PATIENCE
    while not (found := list((pages / "saved").glob(f"*{ending}"))):
        assert time.monotonic() < end, f"no {ending} was saved"
        time.sleep(0.05)
    text = found[0].read_text("utf-8")
    found[0].unlink()
    return text


def by(browser, selector):
    from selenium.webdriver.common.by import By

    return browser.find_element(By.CSS_SELECTOR, selector)


def test_figures_are_drawn_and_a_pointer_sees_the_numbers(browser, pages):
    from selenium.webdriver import ActionChains

    opened(browser, pages / "suites.html")
    names = browser.execute_script(
        "return document.querySelector('#f1 .canvas').data.map((one) => one.name)"
    )
    assert names[-1] == "mipp"  # on top
    assert "l2" not in names  # another method, which is switched off at first
    # alone: other marks can lie on the same place
    browser.execute_script(
        "document.querySelectorAll('.chip').forEach((c) => "
        "{ if (/paper|references/.test(c.textContent)) c.click(); })"
    )
    wait(browser, "return document.querySelector('#f1 .canvas').data.length === 1")
    mark = wait(
        browser,
        "const all = document.querySelectorAll('#f1 .scatterlayer .trace');"
        "return all[all.length - 1].querySelectorAll('.point')[1]",
    )
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    ActionChains(browser).move_to_element(mark).perform()
    text = wait(
        browser, "const h = document.querySelector('#f1 .hoverlayer'); return h && h.textContent"
    )
    assert "mipp, units=20%" in text
    assert "retrained: " in text
    assert "(n = 2)" in text
    # the second suite is below, and drawn when it comes into sight
    browser.execute_script("document.querySelector('#f3').scrollIntoView()")
    wait(browser, "return document.querySelector('#f3 .scatterlayer .point') !== null")
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_buttons_change_the_figure_and_its_table(browser, pages):
    opened(browser, pages / "suites.html")
    title = "return document.querySelector('#f1 .canvas').layout.yaxis.title.text"
    assert browser.execute_script(title) == "test accuracy, retrained"
    browser.execute_script("document.querySelector('#f1 input[value=at_once]').click()")
    assert wait(browser, f"{title} === 'test accuracy, at once'")
    shown = browser.execute_script(
        "return [...document.querySelectorAll('#f1 .table')].filter((t) => !t.hidden)"
        ".map((t) => t.querySelector('table').dataset.name)"
    )
    assert shown == ["at_once"]


def test_families_are_switched_on_and_off_everywhere(browser, pages):
    opened(browser, pages / "suites.html")
    visible = (
        "return [...document.querySelectorAll('#f1 table[data-name=retrained] tbody tr')]"
        ".filter((row) => !row.hidden).map((row) => row.cells[0].textContent)"
    )
    drawn = "return document.querySelector('#f1 .canvas').data.map((one) => one.name)"
    assert "l2" not in browser.execute_script(visible)
    chip = "[...document.querySelectorAll('.chip')].find((c) => c.textContent.startsWith('{}'))"
    browser.execute_script(chip.format("other methods") + ".click()")
    assert "l2" in browser.execute_script(visible)
    assert "l2" in wait(browser, f"const n = (() => {{ {drawn} }})(); return n.includes('l2') && n")
    browser.execute_script(chip.format("the paper") + ".click()")
    assert "synflow" not in browser.execute_script(visible)
    pressed = browser.execute_script(
        "return " + chip.format("the paper") + ".getAttribute('aria-pressed')"
    )
    assert pressed == "false"


def test_tables_are_sorted_and_turned(browser, pages):
    opened(browser, pages / "suites.html")
    table = by(browser, "#f1 table[data-name=retrained]")
    column = (
        "return [...arguments[0].tBodies[0].rows].map((row) => Number(row.cells[2].dataset.value))"
    )
    head = "arguments[0].tHead.rows[0].cells[2]"
    browser.execute_script(f"{head}.querySelector('button').click()", table)
    values = browser.execute_script(column, table)
    assert values == sorted(values, reverse=True)
    assert browser.execute_script(f"return {head}.ariaSort", table) == "descending"
    browser.execute_script(f"{head}.querySelector('button').click()", table)
    assert browser.execute_script(column, table) == sorted(values)
    best = "return [...arguments[0].querySelectorAll('.best')].map((cell) => cell.textContent)"
    before = browser.execute_script(best, table)
    rows = "return [...arguments[0].rows].map((row) => row.cells[0].textContent)"
    browser.execute_script(
        "arguments[0].closest('.table').querySelector('[data-do=turn]').click()", table
    )
    assert browser.execute_script(rows, table) == ["method", *made_up.UNITS[1:4]]
    assert sorted(browser.execute_script(best, table)) == sorted(before)


def test_what_is_removed_is_spaced_as_what_it_leaves(browser, pages):
    opened(browser, pages / "suites.html")
    read = (
        "const canvas = document.querySelector('#f1 .canvas');"
        "return [canvas.layout.xaxis, canvas.data.find((one) => one.name === 'mipp').x]"
    )
    axis, left = browser.execute_script(read)
    assert axis["type"] == "log"
    labels = dict(zip(axis["ticktext"], axis["tickvals"], strict=True))
    assert labels["90%"] == pytest.approx(0.1)
    assert labels["98%"] == pytest.approx(0.02)
    browser.execute_script("document.querySelector('#f1 input[value=macs]').click()")
    axis, macs = browser.execute_script(read)
    labels = dict(zip(axis["ticktext"], axis["tickvals"], strict=True))
    assert labels["10%"] == pytest.approx(0.1)
    for values in (left, macs):  # the least pruned first, as its line is drawn
        assert 0 < min(values) < max(values) < 1


def test_figures_and_tables_are_saved(browser, pages):
    opened(browser, pages / "suites.html")
    lines = list(csv.reader(io.StringIO(
        saved(browser, pages, by(browser, "#f1 [data-do=csv]"), ".csv"))))  # fmt: skip
    assert lines[0][:4] == ["method", "units=30%", "units=30% (±)", "units=30% (n)"]
    mine = next(line for line in lines if line[0] == "mipp")
    assert 0 < float(mine[1]) < 100
    assert mine[3] == "2"
    assert "l2" not in [line[0] for line in lines]  # as it is shown

    figure = list(csv.reader(io.StringIO(
        saved(browser, pages, by(browser, "#f1 [data-do=figure-csv]"), ".csv"))))  # fmt: skip
    assert figure[0] == ["series", "units removed (node ratio)", "test accuracy, retrained",
                         "error below", "error above", "n"]  # fmt: skip
    assert sum(line[0] == "mipp" for line in figure) == 3

    tex = saved(browser, pages, by(browser, "#f1 [data-do=latex]"), ".tex")
    assert r"\begin{tabular}{lrrr}" in tex
    assert r"units=30\%" in tex
    assert r"$\pm$" in tex
    assert tex.count(r"\textbf{") <= 3
    assert tex.count("\\\\\n") == len(lines)

    svg = saved(browser, pages, by(browser, "#f1 [data-do=svg]"), ".svg")
    assert svg.startswith("<svg")
    for words in ("test accuracy, retrained", "mipp", "synflow"):
        assert words in svg


def test_dark_is_dark_as_the_system_says_or_the_reader(browser, pages):
    ground = "return getComputedStyle(document.body).backgroundColor"
    paper = "return document.querySelector('#f1 .canvas').layout.paper_bgcolor"
    opened(browser, pages / "suites.html", dark=True)
    assert browser.execute_script(ground) == "rgb(20, 22, 26)"
    assert browser.execute_script(paper) == "#14161a"
    browser.execute_script("document.querySelector('.theme').click()")  # from the system to light
    assert browser.execute_script(ground) == "rgb(255, 255, 255)"
    assert wait(browser, f"{paper} === '#ffffff'")


@pytest.mark.parametrize("name", ["suites.html", "plan.html"])
def test_a_phone_does_not_scroll_sideways(browser, pages, name):
    opened(browser, pages / name, width=360, height=740)
    browser.execute_script("document.querySelectorAll('details').forEach((d) => { d.open = true })")
    wide = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.body.scrollWidth]"
    )
    assert max(wide) <= 360
    browser.execute_script("document.querySelector('#f1').scrollIntoView()")
    wait(browser, "return document.querySelector('#f1 .main-svg') !== null")
    drawn = browser.execute_script(
        "return document.querySelector('#f1 .main-svg').getBoundingClientRect().width"
    )
    assert 250 < drawn <= 360


def test_the_page_of_a_plan_marks_the_cut(browser, pages):
    opened(browser, pages / "plan.html")
    browser.execute_script("document.querySelector('#f1').scrollIntoView()")
    wait(browser, "return document.querySelector('#f1 .scatterlayer .point') !== null")
    browser.execute_script("document.querySelectorAll('#f1 input')[1].click()")
    text = wait(
        browser,
        "const a = document.querySelector('#f1 .annotation-text'); return a && a.textContent",
    )
    assert text.startswith("cut: 12 → ")
