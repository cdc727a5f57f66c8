"""The page itself: facts and plots put into the template."""

from __future__ import annotations

from collections.abc import Mapping

from hetfed.report import words
from hetfed.report.facts import Facts
from hetfed.report.html import data_uri, page
from hetfed.report.plots import COLOURS, CURVES, OUTCOMES
from hetfed.report.troubles import beyond, refusals
from hetfed.results.arms import ARMS

TEMPLATE = "page.html.j2"


def render(facts: Facts, plots: Mapping[str, str]) -> str:
    """The report as one HTML page that needs no other file; `plots` are SVG texts by file name.

    Args:
        facts: as `read_facts` gives them.
        plots: as `draw_all` gives them; the pictures become part of the page.
    """
    images = {name: data_uri(svg) for name, svg in plots.items()}
    exchanges = facts.summary["exchanges"]
    # Only where an exchange works on public inputs: else the plan's [public] table had no effect.
    public = (
        facts.summary.get("public")
        if any("public inputs" in told for exchange in exchanges for told in exchange["reveals"])
        else None
    )
    return page(
        TEMPLATE,
        facts=facts,
        summary=facts.summary,
        synthetic_words=(words.SYNTHETIC, words.SYNTHETIC_MEANS),
        sentences=[*words.headline(facts), *refusals(facts.sent), *beyond(facts)],
        revealed={exchange["label"]: exchange["reveals"] for exchange in exchanges if exchange["reveals"]},
        pseudonyms=facts.summary.get("pseudonyms", False),
        public=words.setting(public) if public else "",
        undefined=words.undefined(facts),
        unsure=words.unsure(facts),
        outcomes=images.get(OUTCOMES),
        curves={client.name: images.get(CURVES.format(client.name)) for client in facts.clients},
        arms=ARMS,
        colours=COLOURS,
        # Rows after the last round are of the last broadcast, which the report explains.
        after_last=bool((facts.rounds["round"] > facts.summary["rounds"]).any()),
    )
