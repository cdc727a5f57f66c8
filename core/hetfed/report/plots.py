"""The pictures of a report, as SVG text; drawn on figures of their own, without pyplot's global state."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hetfed.report.facts import ClientFacts, Facts
from hetfed.report.words import arm_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

# Okabe and Ito's palette, told apart by every kind of colour vision; the shapes differ too, for print in grey.
COLOURS = {"alone": "#6b7280", "federated": "#0072b2", "finetuned": "#009e73", "pooled": "#d55e00"}
MARKERS = {"alone": "o", "federated": "D", "finetuned": "^", "pooled": "s"}
SHIFTS = {"alone": -0.18, "federated": -0.06, "finetuned": 0.06, "pooled": 0.18}
"""A little up or down, so that equal values do not hide each other."""
INK, FAINT = "#1f2933", "#d5dae1"
OUTCOMES, CURVES = "outcomes.svg", "curve-{}.svg"


def draw_all(facts: Facts) -> dict[str, str]:
    """Draw every plot of the report that would not be empty; returns the SVG texts by file name.

    Args:
        facts: as `read_facts` gives them.
    """
    known = facts.rounds[facts.rounds["validation"].notna() & facts.rounds["arm"].isin(["alone", "federated"])]
    followed = set(known["client"])
    drawn = {CURVES.format(client.name): curves(client, facts.rounds) for client in facts.clients if client.name in followed}
    valued = any(client.best is not None or client.reference for client in facts.clients)
    return {OUTCOMES: outcomes(facts), **drawn} if valued else drawn


def outcomes(facts: Facts) -> str:
    """A row per client, a dot per arm with its interval; a bar marks the best simple reference.

    Where clients differ in metric or unit one axis cannot hold them, so every value is divided by that of the client alone.

    Returns:
        SVG text.
    """
    clients = facts.clients
    scales = [_scale(client, facts) for client in clients]
    figure, axes = new_axes(5.4, 0.95 + 0.36 * len(clients))
    for row, client in enumerate(clients):
        # A grey bar from the worst to the best arm, behind the dots, so that the eye finds what belongs together.
        values = [value / scales[row] for arm in COLOURS if (value := client.value(arm)) is not None and scales[row]]
        if values:
            axes.hlines(row, min(values), max(values), color=FAINT, linewidth=3, zorder=1)
    for arm, colour in COLOURS.items():
        known = _points([client.value(arm) for client in clients], scales, SHIFTS[arm])
        for row, client in enumerate(clients):
            between = client.interval(arm)
            if between and between["low"] is not None and scales[row]:
                low, high = (between[end] / scales[row] for end in ("low", "high"))
                axes.hlines(row + SHIFTS[arm], low, high, color=colour, linewidth=0.9, alpha=0.6, zorder=1.5)
        _dots(axes, known, marker=MARKERS[arm], color=colour, label=arm_name(arm), s=46, edgecolors="white", linewidths=0.8)
    known = _points([client.reference.value if client.reference else None for client in clients], scales)
    _dots(axes, known, marker="|", color=INK, label="best reference", s=120, linewidths=1.8)
    axes.set_yticks(range(len(clients)))
    # parse_math off: a client may be called "a$b$".
    axes.set_yticklabels([client.name for client in clients], parse_math=False, fontsize=10)
    # Upside down: the first client of the plan stands at the top, as in the tables.
    axes.set_ylim(len(clients) - 0.5, -0.5)
    axes.set_xlabel(_axis_label(facts), color=INK, parse_math=False)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper center", ncols=5, frameon=False, fontsize=9.5, handletextpad=0.2, columnspacing=1.2)
    return svg(figure)


def curves(client: ClientFacts, rounds: pd.DataFrame) -> str:
    """The validation metric of one client round by round, federated and alone; a dot marks the round that was selected.

    Args:
        client: whose curves.
        rounds: of all arms and clients; a round without a validation metric is a gap, and at least one has one.

    Returns:
        SVG text.
    """
    figure, axes = new_axes(3.3, 2.15)
    mine = rounds[rounds["client"] == client.name]
    # Federated last, so that its line lies on top.
    for arm, line in (("alone", "--"), ("federated", "-")):
        known = mine[(mine["arm"] == arm) & mine["validation"].notna()]
        axes.plot(known["round"], known["validation"], line, color=COLOURS[arm], linewidth=1.7, label=arm)
        chosen = known[known["round"] == client.entry["selected_round"][arm]]
        # At what the selected model has: it may be the one that arrived, before the training that the line stands for.
        value = client.entry["validation"][arm]
        axes.plot(
            chosen["round"],
            chosen["validation"] if value is None else [value] * len(chosen),
            MARKERS[arm],
            color=COLOURS[arm],
            markersize=6,
        )
    # Rounds are whole numbers, and without this a run of few rounds would have ticks at halves.
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.set_xlabel("round", color=INK)
    axes.set_title(client.name, loc="left", fontsize=10.5, color=INK, fontweight="bold", parse_math=False)
    axes.grid(color=FAINT, linewidth=0.6)
    return svg(figure)


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of that many inches, and its quiet axes.

    >>> figure, axes = new_axes(4, 2)
    >>> _ = axes.plot([1, 2, 3], [0.5, 0.6, 0.65])
    >>> "</svg>" in svg(figure)
    True
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    axes.set_axisbelow(True)
    return figure, axes


def _scale(client: ClientFacts, facts: Facts) -> float:
    """What the values of a client are divided by; 0 where they cannot be drawn."""
    return 1.0 if facts.one_metric else client.value("alone") or 0.0


def _points(values: Sequence[float | None], scales: Sequence[float], shift: float = 0.0) -> list[tuple[float, float]]:
    """(position, row) of those values that there are."""
    return [(value / scales[row], row + shift) for row, value in enumerate(values) if value is not None and scales[row]]


def _dots(axes: Axes, points: Sequence[tuple[float, float]], **style: Any) -> None:
    if points:
        axes.scatter(*zip(*points, strict=True), zorder=2, **style)


def _axis_label(facts: Facts) -> str:
    better = facts.direction
    if not facts.one_metric:
        # Too long a label would be cut off at both ends.
        ways = {client.higher_is_better for client in facts.clients}
        return "test metric divided by that of the client alone" + (f" ({better})" if len(ways) == 1 else "")
    unit = facts.clients[0].unit
    return f"test {facts.summary['metric']}{f', {unit}' if unit else ''} ({better})"


def svg(figure: Figure) -> str:
    """The figure as SVG text.

    >>> svg(new_axes(4, 2)[0]) == svg(new_axes(4, 2)[0])  # no date, and no number drawn at random
    True
    """
    text = io.StringIO()
    # Without a date and with a salt of its own, the same run gives the same picture to the last byte.
    with rc_context({"svg.hashsalt": "hetfed"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
