"""``mipp methods``: what there is to compare with."""

from dataclasses import asdict

from mipp import methods as known
from mipp.cli import arguments as arg
from mipp.cli import text_tables
from mipp.cli.output import open_output


def methods(json: arg.Json = False) -> None:
    """List what --method of prune takes: what each looks at, how it ranks, in how many rounds."""
    output = open_output(json)
    rows = known.facts()
    output.show(text_tables.methods(rows))
    output.result({"methods": [asdict(row) for row in rows]})
