"""Colours, dashes and markers of all reports, distinct to people with a colour deficiency, too.

`tests/report/test_styles.py` measures how far the colours are apart. MIPP has a colour of its own.
"""

from dataclasses import dataclass

LIGHT = ("#d1390f", "#6a03b4", "#199127", "#473c0c", "#cc1aaa", "#7973ed", "#6b2754", "#145e34",
         "#767676")  # fmt: skip
DARK = ("#ff7a45", "#ab6cf5", "#699e6c", "#e2b013", "#f327c1", "#a8a1fd", "#fe84d0", "#8ef799",
        "#9c9c9c")  # fmt: skip
"""The palette on a light and on a dark ground: first MIPP's, last that of references.

Found by a search for pairs of one hue that are furthest apart for people with any of the three
deficiencies, and further for others.
"""

REFERENCE = len(LIGHT) - 1
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "x", "star",
           "pentagon", "hexagon", "bowtie", "hourglass")  # fmt: skip


@dataclass(frozen=True)
class Family:
    """Methods that are switched on and off together.

    Attributes:
        key: in the page's data.
        title: on the button.
        first: whether it is shown at first if there are more methods than `FEW`.
    """

    key: str
    title: str
    first: bool


FAMILIES = (
    Family("mipp", "MIPP", first=True),
    Family("paper", "the paper's comparisons", first=True),
    Family("reference", "references", first=True),
    Family("own", "MIPP's variants", first=False),
    Family("other", "other methods", first=False),
)
FEW = 12
"""Up to so many methods are all shown from the start."""


@dataclass(frozen=True)
class Style:
    """How the marks and lines of one label look.

    Attributes:
        family: key of the `Family`.
        colour: index into the palette.
        dash: of the line, one of `DASHES`.
        symbol: of the marks, one of `SYMBOLS`.
        width: of the line, in pixels.
    """

    family: str
    colour: int
    dash: str
    symbol: str
    width: float

    @property
    def looks(self) -> tuple[int, str, str]:
        """What has to differ between two methods."""
        return self.colour, self.dash, self.symbol


def plain_style(index: int) -> Style:
    """The style of the n-th label that is no method, such as a group of units."""
    colour, dash = 1 + index % (REFERENCE - 1), DASHES[index // (REFERENCE - 1) % len(DASHES)]
    return Style("other", colour, dash, SYMBOLS[index % len(SYMBOLS)], 2.0)
