"""A page as its tests read it."""

import json
import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """``figures``: their data; ``tables``: rows of texts; ``addresses``: what it points to."""

    def __init__(self, html):
        super().__init__()
        self.figures, self.tables, self.addresses, self.ids = [], [], [], []
        self.text, self._script, self._row = "", None, None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.addresses += [found[name] for name in ("src", "href") if name in found]
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "script":
            self._script = found
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self._row = []
            self.tables[-1].append(self._row)
        if tag in ("td", "th"):
            self._row.append("")

    def handle_endtag(self, tag):
        if tag == "script":
            self._script = None
        if tag == "tr":
            self._row = None

    def handle_data(self, data):
        if self._script is not None:
            if self._script.get("class") == "data":
                self.figures.append(json.loads(data))
            return
        self.text += data
        if self._row:
            self._row[-1] += data

    def series(self, figure, *choice):
        """Label -> (x, y) of one view of a figure."""
        view = next(v for v in self.figures[figure]["views"] if tuple(v["choice"]) == choice)
        return {s["label"]: dict(zip(s["x"], s["y"], strict=True)) for s in view["series"]}


def titles(html):
    """Headings of the figures."""
    return re.findall(r"<figure[^>]*><h3>([^<]*)</h3>", html)
