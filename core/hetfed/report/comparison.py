"""The report of a comparison: one self-contained page, like that of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd

from hetfed.report import words
from hetfed.report.html import data_uri, page
from hetfed.report.markdown import comparison_tables
from hetfed.report.plots import COLOURS, FAINT, INK, MARKERS, SHIFTS, new_axes, svg
from hetfed.report.words import estimate, signed
from hetfed.run.analyse import AlgorithmResult, analyse, comparable

TEMPLATE, REPORT, TABLES = "comparison.html.j2", "comparison.html", "comparison.md"


def write_comparison(out: Path, frame: pd.DataFrame, left_out: dict[str, str]) -> Path:
    """Write `comparison.html`, `comparison.md` and the plots into the folder of a comparison; returns the page's path."""
    results = analyse(frame)
    relative, first = not comparable(frame), frame.iloc[0]
    unit = str(first["unit"])
    label = "mean gain over training alone, %" if relative else f"mean test {first['metric']}{f', {unit}' if unit else ''}"
    better = "higher" if relative or first["higher_is_better"] else "lower"
    pictures = {
        "algorithms.svg": draw_algorithms(results, label),
        "bytes.svg": draw_bytes(results, label),
        "clients.svg": draw_clients(results[0], label, relative=relative),
    }
    (out / TABLES).write_text(comparison_tables(results, label, relative=relative), encoding="utf-8")
    (out / "plots").mkdir(exist_ok=True)
    for name, picture in pictures.items():
        (out / "plots" / name).write_text(picture, encoding="utf-8")
    filters = (words.number, words.count, words.size, words.duration, words.listing, estimate, signed)
    text = page(
        TEMPLATE,
        filters,
        title=_title(out),
        results=results,
        frame=frame,
        relative=relative,
        label=label,
        better=better,
        sentences=headline(results, relative=relative),
        pictures={name: data_uri(picture) for name, picture in pictures.items()},
        left_out=left_out,
        runs=_runs(out, frame),
        colours=COLOURS,
        seeds=frame["seed"].nunique(),
        rounds=int(first["rounds"]),
    )
    file = out / REPORT
    file.write_text(text, encoding="utf-8")
    return file


def headline(results: Sequence[AlgorithmResult], *, relative: bool) -> list[str]:
    """What the comparison found, in sentences; whoever loses under the best algorithm is named."""
    best = results[0]
    if not best.judged:
        return ["No client can be compared federated and alone."]
    unit = " %" if relative else ""
    sentences = [
        f"Best on average: {best.algorithm}, {signed(best.gain.mean)}{unit} against training alone "
        f"({best.gained} of {best.judged} clients gain)."
    ]
    losers = [client.client for client in best.clients if client.gain.mean < 0]
    sentences.append(f"Under it, worse than alone: {words.listing(losers)}." if losers else "Under it, no client is worse off.")
    ahead = [r.algorithm for r in results if r.gain.mean > 0 and r.p < 0.05]
    behind = [r.algorithm for r in results if r.gain.mean < 0 and r.p < 0.05]
    sentences.append(
        f"Better than alone beyond chance (p < 0.05, uncorrected): {words.listing(ahead) or 'none'}; "
        f"worse beyond chance: {words.listing(behind) or 'none'}."
    )
    return sentences


def draw_algorithms(results: Sequence[AlgorithmResult], label: str) -> str:
    """A row per algorithm: its mean with the interval over seeds, beside training alone and pooled."""
    figure, axes = new_axes(6.4, 0.9 + 0.27 * len(results))
    for row, result in enumerate(results):
        half = 0.0 if result.score.half_width != result.score.half_width else result.score.half_width
        axes.errorbar(
            result.score.mean, row, xerr=half, fmt="D", color=COLOURS["federated"], ecolor="#9db7cf", markersize=5, capsize=2
        )
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
    """A row per client under one algorithm: its metric in each arm with the interval over seeds; where clients differ in metric
    or unit, one axis cannot hold that, and what they gain stands there."""
    figure, axes = new_axes(6.4, 0.95 + 0.42 * len(result.clients))
    shown = {"federated": "gain"} if relative else {arm: arm for arm in ("alone", "federated", "pooled")}
    for arm, name in shown.items():
        found = [(getattr(client, name), row + SHIFTS[arm]) for row, client in enumerate(result.clients)]
        known = [
            (value.mean, 0 if isnan(value.half_width) else value.half_width, y) for value, y in found if not isnan(value.mean)
        ]
        if known:
            means, halves, rows = zip(*known, strict=True)
            axes.errorbar(means, rows, xerr=halves, fmt=MARKERS[arm], color=COLOURS[arm], label=arm, capsize=2, elinewidth=1)
    axes.set_yticks(range(len(result.clients)))
    axes.set_yticklabels([client.client for client in result.clients], parse_math=False, fontsize=10)
    axes.set_ylim(len(result.clients) - 0.5, -0.5)
    axes.set_xlabel(label, color=INK, parse_math=False)
    axes.grid(axis="x", color=FAINT, linewidth=0.6)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9.5)
    return svg(figure)


def draw_bytes(results: Sequence[AlgorithmResult], label: str) -> str:
    """The mean against what travelled, one point per algorithm."""
    figure, axes = new_axes(6.4, 4.0)
    for result in results:
        sent = max(result.bytes, 1.0) / 2**20
        axes.scatter(sent, result.score.mean, s=26, color=COLOURS["federated"], zorder=2)
        axes.annotate(result.algorithm, (sent, result.score.mean), (4, 3), textcoords="offset points", fontsize=7.5, color=INK)
    axes.set_xscale("log")
    axes.margins(x=0.14)
    axes.axhline(results[0].alone.mean, color=COLOURS["alone"], linewidth=1.2, linestyle="--")
    axes.set_xlabel("MiB sent and received in a run, all clients together", color=INK)
    axes.set_ylabel(label, color=INK, parse_math=False)
    return svg(figure)


def _title(out: Path) -> str:
    """The title of the plan, as its runs have it."""
    for file in sorted(out.glob("*/seed-*/summary.json")):
        summary: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return str(summary["title"] or summary["plan"])
    return "Comparison"


def _runs(out: Path, frame: pd.DataFrame) -> dict[str, list[tuple[int, str]]]:
    """The report of every run, by algorithm: its seed, and its path from the page."""
    runs: dict[str, list[tuple[int, str]]] = {}
    for algorithm, seed in frame[["algorithm", "seed"]].drop_duplicates().itertuples(index=False):
        page = out / algorithm / f"seed-{seed}" / "report.html"
        runs.setdefault(algorithm, []).append((int(seed), os.path.relpath(page, out).replace(os.sep, "/")))
    return runs
