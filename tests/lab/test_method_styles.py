from lab.measurements import MethodSpec
from lab.report.method_styles import styles_of
from mipp import methods
from mipp.report.styles import FAMILIES, REFERENCE

from .made_up import FEW, MANY


def test_no_two_methods_look_the_same_however_many_there_are():
    many = [*MANY, *(MethodSpec(label=f"mipp, {i}", name="mipp") for i in range(40))]
    styles = styles_of(many)
    assert len(styles) == len(many)
    assert len({style.looks for style in styles.values()}) == len(many)


def test_a_method_looks_the_same_whatever_it_is_shown_with():
    few, many = styles_of(FEW), styles_of(MANY)
    for method in FEW:
        assert few[method.label] == many[method.label]


def test_every_method_of_mipp_has_a_place_of_its_own():
    named = [MethodSpec(label=name, name=name) for name in methods.names()]
    alone = {m.label: styles_of([m])[m.label].looks for m in named}
    together = {label: style.looks for label, style in styles_of(named).items()}
    assert alone == together


def test_mipp_alone_has_its_colour_and_the_widest_line():
    styles = styles_of(MANY)
    assert [label for label, style in styles.items() if style.colour == 0] == ["mipp"]
    assert max(styles, key=lambda label: styles[label].width) == "mipp"
    assert styles["random"].colour == REFERENCE


def test_families_put_the_papers_methods_beside_mipp_first():
    families = {label: style.family for label, style in styles_of(MANY).items()}
    first = {family.key for family in FAMILIES if family.first}
    assert families["mipp, uniform"] == families["mipp-solo"] == "own"
    assert families["sosp"] == "paper"
    assert families["sosp, l1"] == families["l2"] == "other"
    assert first == {"mipp", "paper", "reference"}
    assert next(iter(families)) == "mipp"
