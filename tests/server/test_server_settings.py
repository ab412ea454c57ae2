"""Settings from the command line, the environment and a file; mistakes are told together, with their place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sptune.config.strict_yaml import write_yaml
from sptune.errors import RecipeError
from sptune.server.settings import ServerSettings, adapter_name
from sptune.server.sources import PREFIX, read_settings

DOCS = Path(__file__).parents[2] / "docs" / "serve.md"


def write(folder: Path, text: str) -> Path:
    file = folder / "serve.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_the_command_line_comes_before_the_environment_before_the_file(tmp_path: Path):
    file = write(tmp_path, "base: smollm2-135m\nport: 1\nslots: 1\nqueue: 1\nmax_n: 1\n")
    environment = {f"{PREFIX}SLOTS": "2", f"{PREFIX}QUEUE": "2", "SPTUNE_CACHE": "x", "PATH": "y"}
    settings = read_settings({"queue": 3}, config=file, environment=environment)
    assert (settings.port, settings.slots, settings.queue, settings.max_n) == (1, 2, 3, 1)
    assert settings.max_tokens == ServerSettings.model_fields["max_tokens"].default


def test_the_environment_can_name_the_file(tmp_path: Path):
    file = write(tmp_path, "base: smollm2-135m\nport: 7\n")
    assert read_settings({}, environment={f"{PREFIX}CONFIG": str(file)}).port == 7
    other = tmp_path / "other.yaml"
    other.write_text("base: smollm2-135m\nport: 8\n", encoding="utf-8")
    assert read_settings({}, config=other, environment={f"{PREFIX}CONFIG": str(file)}).port == 8


def test_a_file_that_is_not_there_is_told_with_what_named_it(tmp_path: Path):
    file = tmp_path / "none.yaml"
    with pytest.raises(RecipeError, match=f"^--config: {file}: no such file"):
        read_settings({}, config=file, environment={})
    with pytest.raises(RecipeError, match=f"^{PREFIX}CONFIG: {file}: no such file"):
        read_settings({}, environment={f"{PREFIX}CONFIG": str(file)})


@pytest.mark.parametrize("name", [name for name in ServerSettings.model_fields if name not in {"adapters", "base"}])
def test_every_setting_can_come_from_each_place(name: str, tmp_path: Path):
    special = {"host": "::1", "engine": "vllm", "dtype": "float32", "log_level": "error", "device": "cpu"}
    default = ServerSettings.model_fields[name].default
    value = special.get(name) or ("a" if default is None or isinstance(default, Path) else default)
    value = {
        "retention_days": 2.5,
        "gate_temperature": 0.3,
        "decoding": "fused",
        "public_routes": ["/ready"],
        "allowed_hosts": ["a"],
        "insecure": True,
    }.get(name, value)
    needed = {"base": "smollm2-135m"} | ({"record": "chats.db"} if name == "retention_days" else {})
    file = write(tmp_path, write_yaml(needed | {name: value}))
    environment = {
        PREFIX + key.upper(): write_yaml(one).strip().removesuffix("...")
        for key, one in (needed | {name: value}).items()
    }
    from_file = read_settings({}, config=file, environment={})
    assert (
        from_file == read_settings({}, environment=environment) == read_settings(needed | {name: value}, environment={})
    )
    found = getattr(from_file, name)
    assert found == (Path("a") if isinstance(found, Path) else tuple(value) if isinstance(value, list) else value)


def test_adapters_as_a_list_or_a_mapping():
    for value in (["runs/sailor/adapter", "baker=b"], {"sailor": "runs/sailor/adapter", "baker": "b"}):
        assert ServerSettings.model_validate({"adapters": value}).adapters == {
            "sailor": "runs/sailor/adapter",
            "baker": "b",
        }
    environment = {f"{PREFIX}ADAPTERS": "[runs/sailor/adapter, baker=b]"}
    assert list(read_settings({}, environment=environment).adapters) == ["sailor", "baker"]
    assert read_settings({}, environment={f"{PREFIX}ADAPTERS": "x=runs/x"}).adapters == {"x": "runs/x"}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("runs/x/adapter", "x"),
        ("runs/x/adapter/", "x"),
        ("adapters/baker", "baker"),
        ("/a/b", "b"),
        ("owner/name", "name"),
    ],
)
def test_an_adapter_is_named_after_its_run_or_folder(path: str, name: str):
    assert adapter_name(path) == name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "adapters: none is given"),
        ({"adapters": ["a/x", "b/x"]}, "two adapters are called 'x'"),
        ({"adapters": ["a b=x"]}, "'a b' is no name"),
        ({"adapters": ["x=y"], "base": "x"}, "the base model's own name"),
        ({"base": "x", "host": "0.0.0.0"}, "no key is set"),
        ({"base": "x", "retention_days": 3}, "nothing is kept without --record; give --record chats.db"),
        ({"base": "x", "port": 99_999}, "--port: .*65535"),
        ({"base": "x", "slots": 0}, "--slots"),
        ({"base": "x", "total_seconds": float("nan")}, "--total-seconds"),
        ({"base": "x", "public_routes": ["/v1/models"]}, "--public-routes"),
        ({"base": "x", "prot": 3}, "prot: unknown key; did you mean port"),
    ],
)
def test_settings_that_cannot_be(settings: dict, message: str):
    with pytest.raises(RecipeError, match=message):
        read_settings(settings, environment={})


def test_all_mistakes_are_told_together_each_with_its_place(tmp_path: Path):
    file = write(tmp_path, "port: many\nmax_n: 0\n")
    environment = {f"{PREFIX}SLOTS": "none", f"{PREFIX}QEUE": "3", f"{PREFIX}HOST": "[1"}
    with pytest.raises(RecipeError) as caught:
        read_settings({"max_tokens": 0}, config=file, environment=environment)
    text = str(caught.value)
    for place in (
        f"{file}: port",
        f"{file}: max_n",
        f"{PREFIX}SLOTS",
        f"{PREFIX}HOST",
        "--max-tokens",
        f"{PREFIX}QEUE",
    ):
        assert f"{place}:" in text, text
    assert "did you mean queue?" in text


KEYS = st.sampled_from(sorted(ServerSettings.model_fields))
VALUES = st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text())


@given(st.dictionaries(KEYS, VALUES))
def test_whatever_is_set_is_settings_or_a_message(raw: dict):
    try:
        settings = read_settings(raw, environment={})
    except RecipeError:
        return
    assert settings.is_loopback or settings.api_key_file or settings.insecure


def test_the_documents_tell_every_setting():
    rows = dict(re.findall(r"^\| `--([a-z-]+)` \| ([^|]*) \|", DOCS.read_text(encoding="utf-8"), flags=re.MULTILINE))
    for name, field in ServerSettings.model_fields.items():
        if name == "adapters":
            continue
        default = field.default
        said = (
            {None: "", (): "", True: "on", False: "off"}.get(default, f"`{default}`")
            if not isinstance(default, float)
            else f"`{default:g}`"
        )
        assert rows.pop(name.replace("_", "-")).strip() == said, name
    assert rows.keys() == {"config"}
