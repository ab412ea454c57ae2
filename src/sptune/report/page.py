"""A report as one self-contained HTML page: its style and plots are inside, and it needs no script and no network."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from sptune.report.document import Block, Document
from sptune.report.figures import RunPlot

_PIXELS_PER_INCH = 126


def to_page(document: Document, plots: Mapping[str, RunPlot]) -> str:
    """The whole report as HTML.

    Args:
        document: what it says; all of it is escaped.
        plots: the pictures of its plots, by name.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_url": _data_url, "kind": _kind, "prose": _prose, "pixels": _pixels}
    return environment.get_template("page.jinja").render(document=document, plots=plots)


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode('ascii')}"


def _kind(block: Block) -> str:
    return type(block).__name__


def _prose(text: str) -> Markup:
    """Our own sentences, with `code` between backticks; with a backtick too many, all of it is plain text."""
    pieces = text.split("`") if text.count("`") % 2 == 0 else [text]
    parts = [
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part) for number, part in enumerate(pieces)
    ]
    return Markup("").join(parts)


def _pixels(inches: float) -> int:
    return round(_PIXELS_PER_INCH * inches)
