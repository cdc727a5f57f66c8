"""The report of a comparison: one self-contained page, like that of a run."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter

from hetfed.report import words
from hetfed.report.figures import decimals, signed
from hetfed.report.html import data_uri, page
from hetfed.report.markdown import comparison_tables
from hetfed.report.plots import COLOURS, FAINT, INK, MARKERS, SHIFTS, new_axes, svg
from hetfed.results.about import About
from hetfed.results.analyse import ROUNDING, AlgorithmResult, Estimate, analyse, beyond_chance, comparable, references
from hetfed.results.arms import ALONE
from hetfed.results.folder import COMPARISON, SUMMARY, folder_of
from hetfed.results.reading import contents_of, table_of
from hetfed.results.writing import write_pages

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TEMPLATE, REPORT, TABLES = "comparison.html.j2", "comparison.html", "comparison.md"
POINTS = 2
"""From so many seeds a picture shows their values: with one degree of freedom an interval reaches 13 standard errors."""
LINE = 0.16
"""Inches that a name takes in the picture of bytes."""
NAME: dict[str, Any] = {
    "fontsize": 7.5,
    "color": INK,
    "va": "center",
    "arrowprops": {"arrowstyle": "-", "color": "#b3bcc7", "linewidth": 0.6, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 0},
}
"""How a name is written, and the line from it to its point."""


def write_comparison(out: Path, frame: pd.DataFrame, about: About) -> Path:
    """Write `comparison.html`, `comparison.md` and the plots into the folder of a comparison; returns the page's path.

    Raises:
        RunFolderError: the rows or a summary of a run are not what a comparison leaves. RunError: it cannot be written.
    """
    with contents_of(out / COMPARISON):
        files = _files(out, frame, about)
    write_pages(out, files)
    return out / REPORT


def _files(out: Path, frame: pd.DataFrame, about: About) -> dict[str, str]:
    """The texts of all files by their paths in the folder."""
    results, relative = analyse(frame), not comparable(frame)
    label = _label(frame, relative=relative)
    runs = _summaries(out, frame)
    synthetic = any(summary["synthetic"] for _, summary in runs)
    sharing = _sharing(frame, runs)
    notes = [*caveats(frame), *apart(results, sharing)]
    variants = {name: words.set_apart(variant) for name, variant in about.variants.items()}
    said = [f"{words.SYNTHETIC} {words.SYNTHETIC_MEANS}", *notes] if synthetic else notes
    simple = references(frame)
    more: dict[str, Any] = {"variants": variants, "sharing": sharing, "references": simple}
    tables = comparison_tables(results, label, relative=relative, notes=said, **more)
    pictures = _draw_all(results, label, relative=relative)
    text = page(
        TEMPLATE,
        **_about_the_plan([summary for _, summary in runs]),
        synthetic=synthetic,
        synthetic_words=(words.SYNTHETIC, words.SYNTHETIC_MEANS),
        results=results,
        frame=frame,
        relative=relative,
        label=label,
        better="higher" if relative or frame["higher_is_better"].iloc[0] else "lower",
        sentences=headline(results, relative=relative),
        notes=notes,
        **more,
        places=decimals(result.score.mean for result in results),
        own=decimals(client.federated.mean for result in results for client in result.clients),
        beyond_chance=beyond_chance,
        pictures={name: data_uri(picture) for name, picture in pictures.items()},
        silent=[result.algorithm for result in results if not result.bytes],
        left_out=about.left_out,
        runs=_runs(out, frame),
        colours=COLOURS,
        seeds=frame["seed"].nunique(),
        rounds=int(frame["rounds"].iloc[0]),
    )
    return {TABLES: tables, **{f"plots/{name}": picture for name, picture in pictures.items()}, REPORT: text}


def _label(frame: pd.DataFrame, *, relative: bool) -> str:
    """What a mean over clients is a mean of."""
    metric, unit = frame["metric"].iloc[0], str(frame["unit"].iloc[0])
    return "mean gain over training alone, %" if relative else f"mean test {metric}{f', {unit}' if unit else ''}"


def _about_the_plan(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the page says of the plan and its clients, as the first run has them."""
    if not summaries:
        return {"title": "Comparison", "description": "", "clients": []}
    first = summaries[0]
    title, description = str(first["title"] or first["plan"]), str(first["description"]).strip()
    return {"title": title, "description": description, "clients": first["clients"]}


def _draw_all(results: Sequence[AlgorithmResult], label: str, *, relative: bool) -> dict[str, str]:
    """Draw every plot of the comparison; returns the SVG texts by file name."""
    pictures = {"algorithms.svg": draw_algorithms(results, label)}
    # Its axis is logarithmic, and where nothing travels there is nothing to show on it.
    if any(result.bytes for result in results):
        pictures["bytes.svg"] = draw_bytes(results, label)
    pictures["clients.svg"] = draw_clients(results[0], label, relative=relative)
    return pictures


def headline(results: Sequence[AlgorithmResult], *, relative: bool) -> list[str]:
    """What the comparison found, in sentences; whoever loses under the best algorithm is named."""
    best = results[0]
    if not best.judged:
        return ["No client can be compared federated and alone."]
    unit = " %" if relative else ""
    sure = "" if beyond_chance(best.p_corrected) else ", no clear difference"
    sentences = [
        f"Ahead on average: {best.algorithm}, {signed(best.gain.mean)}{unit} against training alone{sure} "
        f"({best.gained} of {best.judged} clients above it)."
    ]
    below = [client.client for client in best.clients if client.gain.mean < 0]
    lost = [client.client for client in best.clients if client.gain.mean < 0 and beyond_chance(client.p_corrected)]
    beyond = words.listing(lost) or "none"
    sentences.append(f"Under it, below alone on the mean: {words.listing(below) or 'no client'}; beyond chance: {beyond}.")
    certain = [result for result in results if beyond_chance(result.p_corrected)]
    ahead = [result.algorithm for result in certain if result.gain.mean > 0]
    behind = [result.algorithm for result in certain if result.gain.mean < 0]
    sentences.append(
        f"Better than alone beyond chance (corrected p < 0.05): {words.listing(ahead) or 'none'}; "
        f"worse beyond chance: {words.listing(behind) or 'none'}; of the others there is no clear difference."
    )
    return sentences


def caveats(frame: pd.DataFrame) -> list[str]:
    """What so few seeds do not show, in sentences."""
    seeds = frame.groupby("algorithm", sort=False)["seed"].nunique()
    most = int(seeds.max())
    notes = []
    if most == 1:
        notes.append("One seed shows no interval: no single difference is certain. Repeat with more seeds before acting on it.")
    if most == POINTS:
        notes.append("Intervals from two seeds are wide: the pictures show the two values as light points instead.")
    fewer = [f"{name} under {count}" for name, count in seeds.items() if count < most]
    if fewer:
        notes.append(f"Not every algorithm has run under all {most} seeds: {words.listing(fewer)}.")
    return notes


def apart(results: Sequence[AlgorithmResult], sharing: Mapping[str, Collection[str]]) -> list[str]:
    """Who does better or worse under an algorithm without sharing anything: an algorithm may train in other phases."""
    notes = []
    for result in results:
        moved = [c.client for c in result.clients if c.client not in sharing[result.algorithm] and abs(c.gain.mean) > ROUNDING]
        if moved:
            verb = "shares" if len(moved) == 1 else "share"
            who = f"Under {result.algorithm}, {words.listing(moved)} {verb} nothing"
            notes.append(f"{who}: what changes there is how they train by themselves.")
    return notes


def draw_algorithms(results: Sequence[AlgorithmResult], label: str) -> str:
    """A row per algorithm: its mean and what its seeds say of it, beside training alone and pooled."""
    figure, axes = new_axes(6.4, 0.9 + 0.27 * len(results))
    for row, result in enumerate(results):
        _draw(axes, [(result.score, row)], "federated", ecolor="#9db7cf", markersize=5)
    first = results[0]
    for arm, mean in (("alone", first.alone.mean), ("pooled", first.pooled.mean)):
        if mean == mean:  # noqa: PLR0124 (NaN)
            axes.axvline(mean, color=COLOURS[arm], linewidth=1.4, linestyle="--", label=arm)
    axes.set_yticks(range(len(results)))
    axes.set_yticklabels([result.algorithm for result in results], fontsize=9)
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.set_xlabel(label, color=INK, parse_math=False)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    return svg(figure)


def draw_clients(result: AlgorithmResult, label: str, *, relative: bool) -> str:
    """A row per client under one algorithm: its metric in each arm and what its seeds say of it; where clients differ in metric
    or unit, one axis cannot hold that, and what they gain stands there."""
    figure, axes = new_axes(6.4, 0.95 + 0.42 * len(result.clients))
    shown = {"federated": "gain"} if relative else {arm: arm for arm in ("alone", "federated", "pooled")}
    for arm, name in shown.items():
        found = [(getattr(client, name), row + SHIFTS[arm]) for row, client in enumerate(result.clients)]
        _draw(axes, found, arm, label=arm, elinewidth=1)
    axes.set_yticks(range(len(result.clients)))
    axes.set_yticklabels([client.client for client in result.clients], parse_math=False, fontsize=10)
    axes.set_ylim(len(result.clients) - 0.5, -0.5)
    axes.set_xlabel(label, color=INK, parse_math=False)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9.5)
    return svg(figure)


def draw_bytes(results: Sequence[AlgorithmResult], label: str) -> str:
    """The mean against what travelled, one point per algorithm under which something does: its axis has no zero."""
    drawn = sorted((r for r in results if r.bytes and not isnan(r.score.mean)), key=lambda result: result.score.mean)
    height = max(4.0, 0.8 + LINE * len(drawn))
    figure, axes = new_axes(6.4, height)
    points = [(result.bytes / 2**20, result.score.mean) for result in drawn]
    axes.scatter([sent for sent, _ in points], [mean for _, mean in points], s=26, color=COLOURS["federated"], zorder=4)
    axes.set_xscale("log")
    sent = [bytes_ for bytes_, _ in points]
    # Over few decades their own ticks are too few, and matplotlib's minor labels run into each other.
    near = bool(sent) and max(sent) < 100 * min(sent)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if near else (1.0,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.08, y=0.08)
    axes.axhline(results[0].alone.mean, color=COLOURS["alone"], linewidth=1.2, linestyle="--", label="alone")
    # Fixed from here on: the names are placed by it, and must not move what they are placed by.
    low, high = axes.get_ylim()
    axes.set_ylim(low, high)
    # Names stand in a column of their own, since algorithms that send the same parameters lie on top of each other.
    places = spread([(mean - low) / (high - low) for _, mean in points], LINE / (height - 0.8))
    for result, point, place in zip(drawn, points, places, strict=True):
        axes.annotate(result.algorithm, point, (1.05, place), textcoords="axes fraction", **NAME)
    axes.set_xlabel("MiB sent and received in a run, all clients together", color=INK)
    axes.set_ylabel(label, color=INK, parse_math=False)
    figure.legend(loc="outside upper right", frameon=False, fontsize=9)
    return svg(figure)


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Ascending places in [0, 1] as near to the wanted ones, which ascend, as a gap between them allows.

    >>> spread([0.5, 0.5, 1.0], 0.25)
    [0.375, 0.625, 1.0]
    """
    from scipy.optimize import isotonic_regression

    if not wanted:
        return []
    # Less the gaps below them, places that keep their distance are places that do not descend.
    gaps = [gap * number for number in range(len(wanted))]
    found = isotonic_regression([place - below for place, below in zip(wanted, gaps, strict=True)]).x
    # Where there are too many for the axis, the last one stays on it.
    return [float(place) + below for place, below in zip(found.clip(min=0).clip(max=1 - gaps[-1]), gaps, strict=True)]


def _draw(axes: Axes, found: Sequence[tuple[Estimate, float]], arm: str, **style: Any) -> None:
    """Means in their rows, each with its interval; from so few seeds that it would fill the axis, with the values instead."""
    known = [(value, row) for value, row in found if not isnan(value.mean)]
    if not known:
        return
    means = [value.mean for value, _ in known]
    # Without an interval an error bar of no length is drawn: the point alone.
    halves = [value.half_width if len(value.values) > POINTS else 0.0 for value, _ in known]
    rows = [row for _, row in known]
    axes.errorbar(means, rows, xerr=halves, fmt=MARKERS[arm], color=COLOURS[arm], capsize=2, **style)
    single = [(value, row) for each, row in known if len(each.values) == POINTS for value in each.values]
    axes.scatter([x for x, _ in single], [y for _, y in single], s=16, color=COLOURS[arm], alpha=0.35, linewidths=0)


def _summaries(out: Path, frame: pd.DataFrame) -> list[tuple[str, dict[str, Any]]]:
    """Those of the runs that the rows are from, each behind its algorithm's name."""
    cells = frame[["algorithm", "seed"]].drop_duplicates().itertuples(index=False)
    files = [(str(algorithm), folder_of(out, algorithm, seed) / SUMMARY) for algorithm, seed in cells]
    return [(algorithm, table_of(file)) for algorithm, file in files if file.exists()]


def _sharing(frame: pd.DataFrame, summaries: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, set[str]]:
    """Who takes part in an exchange under each algorithm, in any seed; everybody, where no summary says so."""
    sharing: dict[str, set[str]] = {}
    for algorithm, summary in summaries:
        mine = sharing.setdefault(algorithm, set())
        mine |= {name for exchange in summary["exchanges"] for name in exchange["clients"]}
    everybody = set(frame["client"])
    return {str(name): sharing.get(str(name), everybody) for name in frame["algorithm"].unique()}


def _runs(out: Path, frame: pd.DataFrame) -> dict[str, list[tuple[int, str]]]:
    """The report of every run, by algorithm, training alone the first: its seed, and its path from the page."""
    runs: dict[str, list[tuple[int, str]]] = {}
    alone = frame[["algorithm", "seed"]].assign(algorithm=ALONE)
    for algorithm, seed in pd.concat([alone, frame[["algorithm", "seed"]]]).drop_duplicates().itertuples(index=False):
        page = folder_of(out, algorithm, seed) / "report.html"
        runs.setdefault(algorithm, []).append((int(seed), os.path.relpath(page, out).replace(os.sep, "/")))
    return runs
