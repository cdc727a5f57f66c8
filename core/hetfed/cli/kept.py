"""`hetfed predict` and `hetfed export`: the models that the clients of a run keep."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from hetfed.errors import RunError, RunFolderError, among
from hetfed.kept.formats import ENDINGS, Format

if TYPE_CHECKING:
    import pandas as pd

    from hetfed.kept.model import KeptModel

SHOWN_ROWS, SHOWN_COLUMNS = 20, 8
"""So much of a table goes to the terminal."""

Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that has ended.")]
Name = Annotated[str, typer.Option("--client", help="Whose model.")]
Inputs = Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Inputs in the form of the data set: .npz, CSV.")]
Table = Annotated[Path | None, typer.Option("--out", help="A CSV file for all predictions. Default: the terminal.")]
File = Annotated[Path | None, typer.Option("--out", help="The file to write. Default: RUN/models/CLIENT/exported.<ending>.")]
Choice = Enum("Choice", {name: name for name in ENDINGS}, type=str)  # type: ignore[misc]
As = Annotated[Choice, typer.Option("--format", help="What is to run the model.")]


def predict(run: Run, inputs: Inputs, client: Name, out: Table = None) -> None:
    """Predict with the model that a client keeps: no other file of the run, and nobody's data.

    Hospitals: an .npz with an array per modality (images n, height, width, channels), CSV tables with named columns, or both.
    Cities: a CSV with `time` and a column per sensor; the last steps give the forecast.

    Example: hetfed predict runs/first --client north patients.npz --out predictions.csv
    """
    model = kept_model(run, client)
    table = model.predict(model.inputs.read(model.preprocessing, inputs))
    if out is None:
        typer.echo(_shown(table))
        return
    _write(table, out)
    typer.echo(f"predictions: {out}")


def export(run: Run, client: Name, format: As, out: File = None) -> None:
    """Write the model that a client keeps for other programs to run, and check that it says the same there.

    It takes a tensor per modality, scaled as `statistics.safetensors` says, and any number of examples.

    Example: hetfed export runs/first --client north --format onnx --out north.onnx
    """
    from hetfed.kept.export import export as write

    model, kind = kept_model(run, client), cast("Format", format.value)
    done = write(model, out or run / "models" / client / f"exported{ENDINGS[kind]}", kind)
    typer.echo(f"{kind}: {done.file}")
    typer.echo(f"inputs: {', '.join(f'{name} {_sizes(one.shape)}' for name, one in sorted(model.part.inputs.items()))}")
    typer.echo(f"largest difference of logits from the model's own: {done.difference:.2g}")


def kept_model(run: Path, client: str) -> KeptModel:
    """The model that a client of a run keeps.

    Args:
        run: the folder of a run.
        client: its name.

    Raises:
        RunFolderError: there is no such client, or its folder is damaged.
    """
    from hetfed.kept.load import load_model
    from hetfed.results.reading import refuse_links

    refuse_links(run)
    models = run / "models"
    names = sorted(folder.name for folder in models.iterdir() if folder.is_dir()) if models.is_dir() else []
    if not names:
        raise RunFolderError("no kept models here", file=models, remedy="Give the folder of a run that has ended.")
    # Compared with what is there, so that no name leads out of the folder.
    if client not in names:
        raise RunFolderError(
            "no such client", file=models, key="--client", value=client, remedy=among(client, names, "There are")
        )
    return load_model(models / client)


def _write(table: pd.DataFrame, out: Path) -> None:
    from hetfed.results.tables import write_csv

    try:
        # Six digits, as in the predictions of a run, so that the two can be compared as text.
        write_csv(out, table, float_format="%.6g")
    except RunError as error:
        raise RunFolderError(f"cannot be written: {error}", file=out, remedy="Give another file with --out.") from None


def _shown(table: pd.DataFrame) -> str:
    """The first rows and columns, and what is left out."""
    part = table.iloc[:SHOWN_ROWS, :SHOWN_COLUMNS]
    left = f"{len(table)} rows and {len(table.columns)} columns in all: --out FILE writes them."
    text = part.to_string(index=False, float_format=lambda value: f"{value:.6g}")
    return text if part.shape == table.shape else f"{text}\n{left}"


def _sizes(shape: tuple[int, ...]) -> str:
    return f"(n, {', '.join(map(str, shape))})" if shape else "(n,)"
