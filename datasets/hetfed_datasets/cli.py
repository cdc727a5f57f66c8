"""`hetfed datasets`: what there is, where it comes from, getting it, checking it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from hetfed.cli.vertical import DataDir, existing
from hetfed_datasets.registry import SOURCES
from hetfed_datasets.source import Source, data_root

if TYPE_CHECKING:
    from hetfed_datasets.records import Cohort, Series

app = typer.Typer(
    help="List, describe, fetch and check data sets.  Example: hetfed datasets list",
    no_args_is_help=True,
    suggest_commands=False,
    pretty_exceptions_enable=False,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="A name that `hetfed datasets list` shows.", show_default=False)]
NewDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder of data sets, which is made unless it is there.")]


@app.command("list")
def list_all(data_dir: DataDir = None) -> None:
    """Every data set, and whether it is here.

    Example: hetfed datasets list --data-dir data
    """
    root = data_root(data_dir)
    title = f"data sets in {root}"
    table = Table(Column("name", no_wrap=True), "kind", "here", "what", title=title, title_justify="left", box=None)
    for source in SOURCES.values():
        table.add_row(source.name, source.kind, _whereabouts(source, root), source.title)
    Console().print(table)


@app.command()
def describe(name: Name) -> None:
    """Source, licence and files of a data set; nothing is read.

    Example: hetfed datasets describe tcga-lgg-mri
    """
    source = SOURCES.find(name, key="dataset")
    table = Table(show_header=False, title=source.name, title_justify="left", box=None)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    rows = {"what": source.title, "kind": source.kind, "source": source.origin, "licence": source.licence}
    rows |= {"made of": ", ".join(source.joins)} if source.joins else {}
    for key, value in rows.items():
        table.add_row(key, value)
    for file_name, file in source.files.items():
        table.add_row(file_name, f"{file.url or 'prepared by hand, see docs/datasets.md'}\nsha256 {file.sha256}")
    Console().print(table)


@app.command()
def fetch(name: Name, data_dir: NewDir = None) -> None:
    """Download what is missing of a data set from its publisher, pinned by SHA-256.

    Example: hetfed datasets fetch la-los-loop --data-dir data
    """
    from hetfed_datasets import fetch as module

    root = data_root(data_dir)
    if root.exists():
        existing(root)
    files = module.fetch(SOURCES.find(name, key="dataset"), root)
    for file in files:
        typer.echo(f"there: {file}")
    if not files:
        typer.echo(f"{name} is generated: there is nothing to fetch")


@app.command()
def check(name: Name, data_dir: DataDir = None) -> None:
    """Verify the files of a data set by SHA-256, and read them.

    Example: hetfed datasets check la-los-loop --data-dir data
    """
    from hetfed_datasets import fetch as module
    from hetfed_datasets.notes import notes_on

    # Reads the record, too: the right bytes could still be read by a wrong loader.
    record = module.check(SOURCES.find(name, key="dataset"), data_root(data_dir))
    typer.echo(f"{name} is in order: {_size(record)}")
    for note in notes_on(record):
        typer.echo(f"note: {note}")


def _whereabouts(source: Source, root: Path) -> str:
    if source.generated:
        return "generated"
    # A joined data set has no file of its own; it is here when its parts are.
    parts = (source, *(SOURCES[part] for part in source.joins))
    return "yes" if all((root / part.name / file).is_file() for part in parts for file in part.files) else "no"


def _size(record: Cohort | Series) -> str:
    from hetfed_datasets.records import Series

    if isinstance(record, Series):
        days = len(record.time) * record.interval / (24 * 60)
        return (
            f"sensors {len(record.sensors)}, steps {len(record.time)} of {record.interval} min ({days:.0f} days), {record.unit}"
        )
    modalities = ", ".join(record.modalities)
    return f"patients {len(set(record.patient))}, samples {len(record)}, sites {len(set(record.site))}, modalities {modalities}"
