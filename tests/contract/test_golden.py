"""Plans are the ones on file, unit by unit; `golden` says how to write them anew."""

import os
from zlib import crc32

import pytest

from . import golden
from .zoo import ZOO

NIGHTLY = bool(os.environ.get("MIPP_NIGHTLY"))
SAMPLED = 9
"""One entry in so many is planned where time counts, all of them in `make nightly`."""

ENTRIES = [name for name in ZOO if NIGHTLY or crc32(name.encode()) % SAMPLED == 0]
VARIANTS = [
    (variant, entry)
    for entry in golden.OF_VARIANTS
    for variant in golden.VARIANTS
    if NIGHTLY or crc32(f"{variant}: {entry}".encode()) % SAMPLED == 0
]


@pytest.mark.parametrize("kind", ["units", "weights"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_plans_of_the_zoo_are_the_ones_on_file(entry, kind):
    options = {"units": golden.UNITS, "weights": golden.WEIGHTS}[kind]
    now = golden.planned(ZOO[entry], options)
    assert list(golden.differences(golden.stored(kind)[entry], now)) == []


@pytest.mark.parametrize(("variant", "entry"), VARIANTS)
def test_plans_of_all_options_are_the_ones_on_file(variant, entry):
    now = golden.planned(ZOO[entry], golden.VARIANTS[variant])
    assert list(golden.differences(golden.stored("variants")[f"{variant}: {entry}"], now)) == []


def test_the_file_has_all_of_the_zoo_and_all_variants():
    assert list(golden.stored("units")) == list(golden.stored("weights")) == list(ZOO)
    expected = [f"{v}: {name}" for name in golden.OF_VARIANTS for v in golden.VARIANTS]
    assert list(golden.stored("variants")) == expected
