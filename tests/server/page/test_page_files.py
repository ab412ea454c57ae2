"""The page's files and the headers they are sent with."""

from __future__ import annotations

import re

from fastapi import FastAPI
from fastapi.testclient import TestClient

from sptune.server.page import FOLDER, add_page, page_files


def client() -> TestClient:
    app = FastAPI()
    add_page(app)
    return TestClient(app)


def test_every_file_is_served_as_what_it_is_under_the_strict_policy() -> None:
    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == {path.name for path in page_files().values()}
    for path, file in page_files().items():
        answer = client().get(path)
        assert answer.content == file.read_bytes()
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "*" not in policy
        assert "http" not in policy
    assert client().get("/").headers["Content-Type"] == "text/html; charset=utf-8"
    assert client().get("/page/page.js").headers["Content-Type"].startswith("text/javascript")


def test_nothing_else_is_served_and_the_schema_does_not_know_the_page() -> None:
    assert client().get("/page/").status_code == 404
    assert client().get("/page/../page.py").status_code == 404
    assert client().get("/page/..%2fpage.py").status_code == 404
    app = FastAPI()
    add_page(app)
    assert app.openapi()["paths"] == {}


def test_no_file_refers_to_another_site_or_holds_inline_code() -> None:
    for file in page_files().values():
        text = file.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"(https?:)?//[a-z0-9-]+\.[a-z]", text), file.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text), (
            file.name
        )
    html = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=|javascript:", html)


def test_every_part_that_a_file_names_is_there() -> None:
    named = {
        match for file in page_files().values() for match in re.findall(r'"(?:\./|page/)([\w.]+)"', file.read_text())
    }
    assert "talks.js" in named
    assert named <= {file.name for file in page_files().values()}
    assert {file.name for file in FOLDER.glob("*.js")} <= named  # and none is left over
