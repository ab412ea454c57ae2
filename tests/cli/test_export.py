from __future__ import annotations

from pathlib import Path

import pytest
import torch
from invoked import failure
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner, Result

from sptune.adapter import load_adapter
from sptune.cli.main import app
from sptune.errors import AdapterError, UsageError
from sptune.model.load import load_base
from sptune.model.spt import SPTModel
from sptune.peft_folder import PeftPrompt, write_peft
from tiny import tiny_llama


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def base(tiny_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama, of D = 32, saved as a folder with its tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    tiny_llama(len(tiny_tokenizer)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    SPTModel.from_base(load_base(str(base)), num_prompts=2, prompt_length=3).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def peft(folder: Path, base: Path | None, seed: int = 0) -> Path:
    embeddings = torch.randn(3, 32, generator=torch.Generator().manual_seed(seed))
    write_peft(folder, PeftPrompt(embeddings, str(base) if base else None), card="")
    return folder


def test_export_one_prompt_then_all_then_import_them(adapter: Path, base: Path, tmp_path: Path) -> None:
    one = run("export", adapter, "--prompt", 1, "--output", tmp_path / "one")
    assert one.exit_code == 0, one.output
    assert "3 virtual tokens" in one.output
    every = run("export", adapter, "--all", "--output", tmp_path / "all")
    assert every.exit_code == 0, every.output
    back = run("import", tmp_path / "all" / "prompt-0", tmp_path / "one", "--output", tmp_path / "back", "--base", base)
    assert back.exit_code == 0, back.output
    assert f"prompts.init=file prompts.file={tmp_path / 'back'} prompts.count=2 prompts.length=3" in back.output
    assert torch.equal(load_adapter(tmp_path / "back").tensors["prompts"], load_adapter(adapter).tensors["prompts"])


@pytest.mark.parametrize("choice", [(), ("--all", "--prompt", 0)])
def test_export_wants_one_prompt_or_all(adapter: Path, tmp_path: Path, choice: tuple[object, ...]) -> None:
    assert isinstance(failure(run("export", adapter, "--output", tmp_path / "x", *choice)), UsageError)
    assert not (tmp_path / "x").exists()


def test_export_says_what_is_wrong_with_the_adapter(tmp_path: Path) -> None:
    assert isinstance(failure(run("export", tmp_path / "no", "--all", "--output", tmp_path / "x")), AdapterError)


def test_import_takes_the_base_that_the_adapter_names(base: Path, tmp_path: Path) -> None:
    result = run("import", peft(tmp_path / "peft", base), "--output", tmp_path / "adapter")
    assert result.exit_code == 0, result.output
    assert "1 prompt for" in result.output
    assert load_adapter(tmp_path / "adapter").config.base.id == str(base)


def test_import_wants_a_base(tmp_path: Path) -> None:
    result = run("import", peft(tmp_path / "peft", None), "--output", tmp_path / "adapter")
    assert "--base" in str(failure(result))


def test_import_replaces_an_adapter_only_by_force_and_nothing_else(base: Path, tmp_path: Path) -> None:
    first, second = peft(tmp_path / "first", base), peft(tmp_path / "second", base, seed=1)
    output = tmp_path / "adapter"
    assert run("import", first, "--output", output).exit_code == 0
    before = load_adapter(output).tensors["prompts"]
    assert "--force" in str(failure(run("import", second, "--output", output)))
    assert torch.equal(load_adapter(output).tensors["prompts"], before)
    assert run("import", second, "--output", output, "--force").exit_code == 0
    assert not torch.equal(load_adapter(output).tensors["prompts"], before)
    assert "left alone" in str(failure(run("import", first, "--output", second, "--force")))


@pytest.mark.parametrize("command", ["export", "import"])
def test_help_has_examples(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert f"sptune {command} " in result.output.split("Examples:")[1]
