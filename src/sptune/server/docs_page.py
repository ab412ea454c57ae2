"""`/docs`: the routes and their fields as one static page, made from the OpenAPI document. No script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING, Any

from fastapi import Response

if TYPE_CHECKING:
    from fastapi import FastAPI

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}
code{font-family:ui-monospace,monospace}table{border-collapse:collapse;width:100%}
td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #8884}"""


def add_docs(app: FastAPI) -> None:
    """Serve `/docs`.

    Args:
        app: has all its routes.
    """
    page = docs_html(app.openapi())

    async def docs() -> Response:
        return Response(page, media_type="text/html", headers=HEADERS)

    app.add_api_route("/docs", docs, methods=["GET"], include_in_schema=False)


def docs_html(schema: dict[str, Any]) -> str:
    """The page of an OpenAPI document."""
    title = escape(f"{schema['info']['title']} {schema['info']['version']}")
    parts = [
        "<!doctype html>",
        f'<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>',
        f"<style>{_STYLE}</style><h1>{title}</h1><p>{escape(schema['info']['description'])}</p>",
        '<p>The same for programs: <a href="openapi.json">openapi.json</a></p>',
    ]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            parts += _operation(method.upper(), path, operation, schema["components"]["schemas"])
    return "\n".join(parts) + "\n</html>\n"


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    yield f"<h2><code>{escape(method)} {escape(path)}</code></h2>"
    yield f"<p>{escape(operation.get('description', ''))}</p>"
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content is None:
        return
    body = schemas[_name(content["schema"])]
    yield "<table><tr><th>field</th><th>type</th><th>meaning</th></tr>"
    for name, field in body["properties"].items():
        needed = " (needed)" if name in body.get("required", ()) else ""
        cells = (f"<code>{escape(name)}</code>{needed}", escape(_type(field)), escape(field.get("description", "")))
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    yield "</table>"


def _type(field: dict[str, Any]) -> str:
    """A field's type in a few words; null is left out, as every optional field takes it."""
    if "anyOf" in field:
        return " or ".join(kind for part in field["anyOf"] if (kind := _type(part)) != "null") or "null"
    if "$ref" in field:
        return _name(field)
    if "const" in field or "enum" in field:
        return " or ".join(str(value) for value in field.get("enum", [field.get("const")]))
    if field.get("type") == "array":
        return f"list of {_type(field.get('items', {}))}"
    return str(field.get("type", "anything"))


def _name(reference: dict[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]
