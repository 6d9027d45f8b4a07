"""What every method looks like: one colour, dash and marker in all figures of all reports.

MIPP has a colour of its own and the widest line. The others share seven colours, and where there
are more, dashes and markers tell them apart.
"""

from collections.abc import Iterable, Iterator
from itertools import product

from lab.measurements import MethodSpec
from mipp.report.styles import DASHES, FAMILIES, REFERENCE, SYMBOLS, Style

_PAPER = ("synflow", "itersnip", "itergrasp", "prospr", "sosp", "thinet", "imp", "oto",
          "grasp")  # fmt: skip
_OTHER = ("snip", "l1", "l2", "fpgm", "bnscale", "taylor", "hrank", "chip", "obs", "flap", "dhspg")
_OWN = ("mipp-leave-one-out", "mipp-solo")
_REFERENCES = ("random", "scratch")

_PLACES = {"mipp": (0, 0)} | {
    name: (1 + index % (REFERENCE - 1), index // (REFERENCE - 1))
    for index, name in enumerate((*_PAPER, *_OTHER, *_OWN))
} | {name: (REFERENCE, 1 + index) for index, name in enumerate(_REFERENCES)}  # fmt: skip
"""Method's name -> colour and dash, as places in the palette and in `DASHES`."""


def styles_of(methods: Iterable[MethodSpec]) -> dict[str, Style]:
    """A style for each label; labels of one method share its colour where dashes suffice."""
    by_label = {method.label: method for method in methods}
    labels = sorted(by_label, key=lambda label: (label != by_label[label].name, label))
    taken: set[tuple[int, str, str]] = set()
    found = {}
    for label in labels:
        family = family_of(by_label[label], set(by_label))
        name = "scratch" if label.startswith("scratch") else by_label[label].name
        place = _PLACES.get(name)
        if family == "own" and name == "mipp":
            place = None  # variants of MIPP are many, and its colour is for itself alone
        looks = next(look for look in _looks(place) if look not in taken)
        taken.add(looks)
        found[label] = Style(family, *looks, width=4.0 if family == "mipp" else 1.8)
    return dict(sorted(found.items(), key=lambda item: _rank(item[1].family, item[0])))


def family_of(method: MethodSpec, labels: set[str]) -> str:
    """The family of a label, among all ``labels`` of a report."""
    if method.label.startswith(("scratch", "random")) or method.name in _REFERENCES:
        return "reference"
    if method.name == "mipp" and (method.label == "mipp" or "mipp" not in labels):
        return "mipp"
    if method.name == "mipp" or method.name in _OWN:
        return "own"
    # of several readings of one method the plain one is the paper's comparison
    plain = method.label == method.name or method.name not in labels
    return "paper" if method.name in _PAPER and plain else "other"


def _rank(family: str, label: str) -> tuple[int, str]:
    return [f.key for f in FAMILIES].index(family), label


def _looks(place: tuple[int, int] | None) -> Iterator[tuple[int, str, str]]:
    """Looks in the order of preference: the fixed place, its colour, then any colour but MIPP's."""
    if place is not None:
        colour, dash = place
        yield colour, DASHES[dash], SYMBOLS[colour % len(SYMBOLS)]
        for turn in range(1, len(SYMBOLS)):
            symbol = SYMBOLS[(colour + turn) % len(SYMBOLS)]
            yield colour, DASHES[(dash + turn) % len(DASHES)], symbol
    for turn, pattern in product(range(len(SYMBOLS)), DASHES):
        for other in range(1, REFERENCE):
            yield other, pattern, SYMBOLS[(other + turn) % len(SYMBOLS)]
