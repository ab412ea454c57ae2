"""`sptune robustness` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from invoked import failure, succeeded
from typer.testing import CliRunner, Result

from sptune.cli.main import COMMANDS
from sptune.cli.robustness import robustness
from sptune.data.save import save_dialogues
from sptune.errors import DataError, SptError, UsageError
from sptune.model.load import load_base
from sptune.model.spt import SPTModel
from tiny import DIALOGUES, EOS, PAD, byte_level_tokenizer, tiny_llama

QUICK = ("--dtype", "float32", "--samples", 10)


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(robustness)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> Result:
    return succeeded(run(*arguments, *QUICK))


def error(*arguments: object) -> SptError:
    return failure(run(*arguments))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base, folder = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("run") / "adapter"
    tokenizer = byte_level_tokenizer(eos_token=EOS, pad_token=PAD)
    tokenizer.save_pretrained(base)
    tiny_llama(len(tokenizer)).save_pretrained(base)
    SPTModel.from_base(load_base(str(base), dtype="float32"), num_prompts=2, prompt_length=3).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "talks.jsonl"
    save_dialogues(DIALOGUES, path)
    return path


def test_a_test_from_tables_to_files(adapter: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "folder"
    options = ("--data", data, "--split", "1:3", "--perturb", "typos, case", "--noise", "0.5", "--output", output)
    result = done(adapter, *options)
    assert result.stdout.startswith(f"{adapter} on ")
    assert "3 dialogues, 6 turns" in result.stdout
    for word in (
        "### Choice of prompt",
        "### Difference from the clean input",
        "| typos |",
        "| case |",
        "| noise-0.5 |",
    ):
        assert word in result.stdout
    assert f"report: {output / 'report.md'}" in result.stderr
    assert {path.name for path in output.iterdir()} == {"robustness.json", "report.md", "plots", "clean", "typos", "case", "noise-0.5"}  # fmt: skip
    saved = json.loads((output / "robustness.json").read_text())
    assert (saved["model"]["adapter"], saved["data"]["path"], saved["data"]["split"]) == (
        str(adapter),
        str(data),
        "1:3",
    )
    assert isinstance(error(adapter, *options), UsageError)
    done(adapter, *options, "--force")


def test_a_folder_of_something_else_is_refused(adapter: Path, data: Path, tmp_path: Path) -> None:
    options = ("--data", data, "--split", "1:2", "--perturb", "case", "--noise", "none", "--output", tmp_path)
    (tmp_path / "evaluation.json").write_text("{}")
    for more in ((), ("--force",)):
        problem = error(adapter, *options, *more)
        assert isinstance(problem, UsageError)
        assert f"--output: {tmp_path} holds evaluation.json" in str(problem)
    (tmp_path / "evaluation.json").unlink()
    (tmp_path / "clean").mkdir()  # as an interrupted test leaves it
    done(adapter, *options)


def test_the_seed_decides_and_json_is_json(adapter: Path, data: Path) -> None:
    options = ("--data", data, "--perturb", "none", "--noise", "1,2", "--json")
    first, again, other = (
        json.loads(done(adapter, *options, "--seed", seed).stdout)["conditions"] for seed in (0, 0, 1)
    )
    assert [one["name"] for one in first] == ["noise-1", "noise-2"]
    assert [one["choice"] for one in first] == [one["choice"] for one in again] != [one["choice"] for one in other]


def test_generation_is_measured_when_asked_for(adapter: Path, data: Path) -> None:
    options = ("--data", data, "--split", "1:2", "--perturb", "case", "--noise", "none", "--max-new-tokens", 3)
    found = json.loads(done(adapter, *options, "--parts", "generation", "--json").stdout)
    assert {"f1", "dist1", "dist2", "bleu"} <= found["conditions"][0]["metrics"].keys()
    assert "perplexity" not in found["conditions"][0]["metrics"]


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        (("--perturb", "typo"), UsageError, "'typo' is not one of typos, case"),
        (("--noise", "much"), UsageError, "--noise: 'much' is no number"),
        (("--noise", "-1"), UsageError, "noise: -1.0 is no standard deviation"),
        (("--parts", "all"), UsageError, "parts: 'all' is not a choice of"),
        (("--dtype", "int8"), UsageError, "--dtype: 'int8'"),
        (("--data", "gone.txt"), DataError, "gone.txt"),
    ],
)
def test_mistakes_are_named(adapter: Path, options: tuple[str, ...], kind: type[SptError], words: str) -> None:
    problem = error(adapter, *options)
    assert isinstance(problem, kind)
    assert words in str(problem)


def test_the_command_is_listed() -> None:
    assert COMMANDS["robustness"][:2] == ("sptune.cli.robustness", "robustness")
