"""The page itself: facts and plots put into the template."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined

from hetfed.report import words
from hetfed.report.facts import Facts
from hetfed.report.plots import COLOURS, CURVES, OUTCOMES
from hetfed.run.arms import ARMS

TEMPLATE = "page.html.j2"


def render(facts: Facts, plots: Mapping[str, str]) -> str:
    """The report as one HTML page that needs no other file; `plots` are SVG texts by file name."""
    environment = Environment(
        loader=PackageLoader("hetfed.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = (
        words.number,
        words.count,
        words.size,
        words.duration,
        words.listing,
        words.verdict,
        words.setting,
        words.arm_name,
    )
    environment.filters |= {function.__name__: function for function in filters}
    images = {name: _data_uri(svg) for name, svg in plots.items()}
    return environment.get_template(TEMPLATE).render(
        facts=facts,
        summary=facts.summary,
        sentences=words.headline(facts),
        undefined=words.undefined(facts),
        outcomes=images[OUTCOMES],
        curves={client.name: images[CURVES.format(client.name)] for client in facts.clients},
        arms=ARMS,
        colours=COLOURS,
        has_references=any(client.reference for client in facts.clients),
    )


def _data_uri(svg: str) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")
