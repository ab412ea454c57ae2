"""The chat page: static files that any browser can show as they are, and headers that let nothing else run in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI, Response

FOLDER = Path(__file__).with_name("page")
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

# What the page shows is written by a language model and by strangers. Scripts and styles come from the page's own files
# alone, its requests go to this server alone, no text can become markup (trusted types), and no other site can frame it.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def page_files() -> dict[str, Path]:
    """The files of the page by the path they are served at.

    They hold no secret, so these exact paths need no key: the page itself asks for the one that its requests need.

    >>> "/" in page_files() and "/page/page.js" in page_files()
    True
    """
    parts = {f"/page/{file.name}": file for file in sorted(FOLDER.iterdir()) if file.suffix in MEDIA_TYPES}
    return {"/": parts.pop("/page/index.html"), **parts}


def add_page(app: FastAPI) -> None:
    """Serve the chat page at `/` and its parts below `/page/`, outside of the API's schema.

    Args:
        app: what also answers the page's requests: `/v1/models`, `/v1/spt/personas`, `/v1/chat/completions`, `/v1/feedback`.
    """
    for path, file in page_files().items():
        app.add_api_route(path, _sender(file), methods=["GET", "HEAD"], include_in_schema=False)


def _sender(file: Path) -> Callable[[], Awaitable[Response]]:
    from fastapi import Response

    content = file.read_bytes()

    async def send() -> Response:
        return Response(content, media_type=MEDIA_TYPES[file.suffix], headers=HEADERS)

    return send
