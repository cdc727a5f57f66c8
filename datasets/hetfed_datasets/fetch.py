"""Get a data set from its publisher, and check that what lies there is what was tested: both by SHA-256."""

from __future__ import annotations

import logging
from pathlib import Path

from hetfed.errors import DataError
from hetfed_datasets.checks import FETCH_AGAIN
from hetfed_datasets.records import Cohort, Series
from hetfed_datasets.registry import OTHER_BYTES, SOURCES
from hetfed_datasets.source import File, Source

TIMEOUT = 60
"""Seconds without an answer until the publisher counts as silent."""


def fetch(source: Source, root: Path) -> list[Path]:
    """Bring the files of a data set, and of those it joins, into `root/<name>`; one that is there and right stays as it is.

    Returns the files, of which generated data sets have none.

    Args:
        source: an entry of `SOURCES`.
        root: the folder that holds a folder for each data set.

    Raises:
        DataError: the publisher does not serve a file, serves other bytes, or nobody serves it and it is not there.

    >>> fetch(SOURCES["sample-hospitals"], Path("data"))  # generated: nothing to fetch
    []
    """
    files = [path for part in source.joins for path in fetch(SOURCES[part], root)]
    folder = root / source.name
    files += [_retrieve(folder / name, file.url, file) for name, file in source.files.items() if file.url is not None]
    # Looked for after the downloads: what can be fetched is there whether or not the rest has been prepared.
    by_hand = [folder / name for name, file in source.files.items() if file.url is None]
    for path in by_hand:
        if not path.is_file():
            raise DataError("this file is prepared by hand", file=path, remedy=f"{source.way_to(path.name, root)}.")
    return files + by_hand


def check(source: Source, root: Path) -> Cohort | Series:
    """The record of a data set whose files have the pinned SHA-256; those of the data sets it joins too.

    Args:
        source: an entry of `SOURCES`.
        root: the folder that holds a folder for each data set.

    Raises:
        DataError: a file is missing, has other bytes, or does not hold what it should.

    >>> check(SOURCES["sample-hospitals"], Path("data")).name
    'sample-hospitals'
    """
    import pooch

    for part in source.joins:
        check(SOURCES[part], root)
    for name, file in source.files.items():
        path = root / source.name / name
        if not path.is_file():
            remedy = f"{source.way_to(name, root)}, or point --data-dir (or HETFED_DATA) at the data root."
            raise DataError("no such data file", file=path, remedy=remedy)
        # Bytes first: a file that can be read may still be another one than that of the published figures.
        found = pooch.file_hash(str(path), alg="sha256")
        if found != file.sha256:
            remedy = f"Expected {file.sha256}. {_reading(source, root)}"
            raise DataError(OTHER_BYTES, file=path, value=found, remedy=remedy)
    return source.load(root)


def _reading(source: Source, root: Path) -> str:
    """What comes of reading a data set whose files are not those that were tested, as a sentence."""
    try:
        source.load(root)
    except DataError as error:
        return f"Reading it fails: {error}"
    return f"It can be read all the same. {FETCH_AGAIN}"


def _retrieve(path: Path, url: str, file: File) -> Path:
    """Download `url` to `path`, unless the right bytes are there already; a failed download leaves nothing behind."""
    import pooch

    # pooch reports each download; here the command line does.
    pooch.get_logger().setLevel(logging.WARNING)
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT)
    try:
        pooch.retrieve(url, f"sha256:{file.sha256}", fname=path.name, path=path.parent, downloader=downloader)
    except OSError as error:  # what requests raises, too
        answer = getattr(error, "response", None)
        if answer is not None:  # pooch leaves one that says no open
            answer.close()
        remedy = f"Try again later, or get {url} another way and put it there."
        raise DataError(f"could not be fetched: {error}", file=path, remedy=remedy) from None
    except ValueError:
        # pooch compares the hash before the file takes its place.
        remedy = "The publisher may have changed it, or the download was cut short: try again, or take a copy from elsewhere."
        raise DataError(f"fetched bytes do not have SHA-256 {file.sha256}", file=path, value=url, remedy=remedy) from None
    return path
