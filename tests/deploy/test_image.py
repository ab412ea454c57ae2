"""The Dockerfile: its files are there, it runs what the manifests expect, and it does not start open to everybody."""

from __future__ import annotations

import re
import shlex
from fnmatch import fnmatch

import pytest
from manifests import ROOT, container, pod

from sptune.errors import RecipeError
from sptune.server.settings import ServerSettings
from sptune.server.sources import PREFIX, read_settings

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
LINES = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
LAST = LINES[max(number for number, line in enumerate(LINES) if line.startswith("FROM ")) :]


def instructions(name: str, lines: list[str]) -> list[str]:
    return [line.removeprefix(name).strip() for line in lines if line.startswith(f"{name} ")]


def environment() -> dict[str, str]:
    """Of the image."""
    pairs = [word.partition("=") for text in instructions("ENV", LAST) for word in shlex.split(text)]
    return {name: value for name, _, value in pairs}


def test_what_is_copied_is_there_and_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    sources = [word for text in instructions("COPY", LINES) if "--from" not in text for word in text.split()[:-1]]
    assert set(sources) == kept
    for source in sources:
        assert (ROOT / source).exists()
        assert not any(fnmatch(source, line) for line in ignored[2:] if not line.startswith("!"))


def test_what_the_build_needs_is_copied():
    """The build reads the files that pyproject.toml names."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    [copied] = [text for text in instructions("COPY", LINES) if "pyproject.toml" in text]
    for name in re.findall(r'^(?:readme = |license-files = \[)"([^"]+)"', project, flags=re.MULTILINE):
        assert name in copied.split()
    [python] = re.findall(r'^requires-python = ">=([\d.]+)"', project, flags=re.MULTILINE)
    assert all(image.startswith(f"python:{python}-slim") for image in instructions("FROM", LINES))


def test_the_server_does_not_start_open_to_everybody():
    variables = {name: value for name, value in environment().items() if name.startswith(PREFIX)}
    assert variables == {f"{PREFIX}HOST": "0.0.0.0"}
    with pytest.raises(RecipeError, match="no key is set"):
        read_settings({"base": "smollm2-135m"}, environment=variables)
    assert not read_settings({"base": "smollm2-135m", "api_key_file": "keys"}, environment=variables).is_loopback


def test_the_manifests_and_the_image_agree():
    template = pod("local", "sptune")
    user = template["spec"]["securityContext"]
    assert instructions("USER", LAST) == [f"{user['runAsUser']}:{user['runAsGroup']}"]
    port = ServerSettings.model_fields["port"].default
    assert instructions("EXPOSE", LAST) == [str(port)]
    assert f"http://127.0.0.1:{port}/health" in DOCKERFILE
    mounts = [mount["mountPath"] for mount in container(template)["volumeMounts"] if not mount.get("readOnly")]
    assert mounts == [*instructions("VOLUME", LAST), "/tmp"]
    assert environment()["HF_HOME"].startswith(mounts[0])
    assert instructions("ENTRYPOINT", LAST) == ['["sptune", "serve"]']


def test_the_default_model_is_in_the_image():
    """It is unpacked when the image is made, into the folder that the server reads it from."""
    [made] = [text for text in instructions("ENV", LINES[: LINES.index(LAST[0])]) if text.startswith("SPTUNE_CACHE=")]
    assert made == f"SPTUNE_CACHE={environment()['SPTUNE_CACHE']}"
    assert any(made.split("=")[1].startswith(text.split()[-1]) for text in instructions("COPY", LAST))
