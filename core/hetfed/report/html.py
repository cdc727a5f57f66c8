"""What every report is made with: a page that needs no other file."""

from __future__ import annotations

import base64
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError

from hetfed.report.words import FORMATS


def page(template: str, **facts: Any) -> str:
    """The page of a template, which knows the functions of `words.FORMATS` by their names.

    Args:
        template: the name of a file beside this one.
        facts: what the template calls by name; one that is missing is an error.

    Raises:
        LookupError: the template asks for a fact that it was not given.
    """
    environment = Environment(
        loader=PackageLoader("hetfed.report", "."),
        # Names and titles come from plans, and may hold what HTML takes for a tag.
        autoescape=True,
        # A misspelt fact is an error, and not a gap in a report that nobody notices.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {function.__name__: function for function in FORMATS}
    try:
        return environment.get_template(template).render(**facts)
    except UndefinedError as error:
        raise LookupError(str(error)) from error


def data_uri(svg: str) -> str:
    """A picture inside of a page.

    >>> data_uri("<svg/>")
    'data:image/svg+xml;base64,PHN2Zy8+'
    """
    # In base64, since the page's quotes and angle brackets would end an attribute that holds SVG as it is.
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode("ascii")
