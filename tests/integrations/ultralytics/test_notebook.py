"""The notebook of YOLO prints what its page says."""

import pytest

from tests.docs.notebook_runs import differences, run

pytest.importorskip("ultralytics", reason="ultralytics is not installed: make integrations")


@pytest.mark.slow
def test_the_notebook_prints_what_its_page_says(tmp_path):
    run("yolo", tmp_path)
    # training such a detector for so short a time gives other numbers on other processors
    assert differences("yolo", tmp_path, numbers=False) == {}
