"""docs/adapter-format.md says what `sptune.adapter` does: every key, every tensor, the version."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from sptune.adapter import CONFIG_NAME, FORMAT_VERSION, WEIGHTS_NAME, AdapterConfig
from sptune.model.retriever import Reading, Retriever, RetrieverKind

TEXT = (Path(__file__).parents[1] / "docs" / "adapter-format.md").read_text(encoding="utf-8")


def keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of the leaves of a configuration."""
    found = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        nested = isinstance(inner, type) and issubclass(inner, BaseModel)
        found += keys(inner, f"{prefix}{name}.") if nested else [prefix + name]
    return found


def test_the_table_of_keys_is_that_of_the_configuration() -> None:
    section = TEXT.split(f"## `{CONFIG_NAME}`")[1].split("```json")[0]
    assert re.findall(r"^\| `([a-z_0-9.]+)` \|", section, flags=re.MULTILINE) == keys(AdapterConfig)


def test_the_example_is_valid_and_complete() -> None:
    example = TEXT.split("```json")[1].split("```")[0]
    config = AdapterConfig.model_validate_json(example)
    assert config.model_dump(mode="json") == json.loads(example)
    assert config.format_version == FORMAT_VERSION
    assert TEXT.startswith(f"# The adapter format, version {FORMAT_VERSION}\n")


@pytest.mark.parametrize("kind", get_args(RetrieverKind))
def test_every_tensor_of_a_retriever_is_named(kind: RetrieverKind) -> None:
    section = TEXT.split(f"## `{WEIGHTS_NAME}`")[1].split("## Versions")[0]
    reading = Reading() if kind == "transformer" else Reading(rank=4)
    for name in Retriever(kind, dim=8, reading=reading, keys=3).state_dict():
        layer = re.sub(r"(layers\.\d)\..*", r"\1.*", name)
        assert f"`retriever.{layer}`" in section
