"""``mipp methods``: the facts as a table and as JSON."""

from dataclasses import asdict

from mipp import methods


def test_all_methods_are_listed_with_what_they_need(mipp):
    done = mipp("methods")
    assert done.code == 0, done.err
    lines = {line.split()[0]: line.split()[1:5] for line in done.out.splitlines() if line.strip()}
    for row in methods.facts():
        untrained = "yes" if row.at_init else "no"
        assert lines[row.name] == [row.needs, untrained, row.ranking, str(row.rounds)]
    assert lines["bnscale"][1] == "no"
    assert max(len(line) for line in done.out.splitlines()) <= 80


def test_json_has_sources_too(mipp):
    found = mipp("methods", "--json").json["methods"]
    assert found == [asdict(row) for row in methods.facts()]
    assert all(row["source"] and row["summary"] for row in found)
