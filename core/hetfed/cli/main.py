"""`hetfed`: the command line, put together from the core's own commands and those of the installed packages."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from hetfed import __version__
from hetfed.cli.kept import export, predict
from hetfed.cli.reproduce import reproduce
from hetfed.cli.vertical import commands_of
from hetfed.errors import HetfedError, Stopped, UsageError
from hetfed.vertical import verticals

HELP = """Federated learning for participants whose models differ.

Start here, no download needed:  hetfed medical run  |  hetfed traffic run
"""


def build_app() -> typer.Typer:
    """The whole command line.

    Entry points are looked up each time: a package that was installed just now is there.
    """
    app = typer.Typer(
        name="hetfed",
        help=HELP,
        no_args_is_help=True,
        # click says the nearest words already.
        suggest_commands=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_version_option)
    for vertical in verticals().values():
        app.add_typer(commands_of(vertical), name=vertical.name, help=vertical.help)
    for entry in entry_points(group="hetfed.commands"):
        app.add_typer(entry.load(), name=entry.name)
    app.command("reproduce")(reproduce)
    app.command("report")(report)
    app.command("predict")(predict)
    app.command("export")(export)
    return app


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"hetfed {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", help="Show the version and end.", callback=_show_version, is_eager=True)]


def _version_option(version: Version = False) -> None:
    """What comes before a command."""


def report(run: Annotated[Path, typer.Argument(help="The folder of a run or a comparison that has ended.")]) -> None:
    """Write the report and the plots of a run or a comparison again.

    Example: hetfed report runs/first
    """
    # Imported here: pandas and matplotlib are slow to load, and --help needs neither.
    from hetfed.report import write_report
    from hetfed.results.folder import COMPARISON, RunFolder

    if (run / COMPARISON).is_file():
        from hetfed.launch.compare import read_comparison
        from hetfed.report.comparison import write_comparison

        typer.echo(f"report: {write_comparison(run, *read_comparison(run))}")
        return
    typer.echo(f"report: {write_report(RunFolder(run))}")


def main() -> None:
    """The entry point: an error is one message; exit status 2 for what the user can mend, 1 for a run that failed, 130 after an
    interruption from the keyboard."""
    try:
        build_app()()
    except UsageError as error:
        _complain(error)
        sys.exit(2)
    except Stopped as stop:
        _complain(stop, "stopped")
        sys.exit(130)
    # Nothing is caught beyond HetfedError: an error of the program itself keeps its traceback.
    except HetfedError as error:
        _complain(error)
        sys.exit(1)


def _complain(error: HetfedError, what: str = "error") -> None:
    # No markup: a message may hold square brackets, as `exchange[0]` does.
    Console(stderr=True).print(f"{what}: {error}", markup=False, highlight=False, soft_wrap=True)
