"""`sptune evaluate` from the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from invoked import failure, succeeded
from typer.testing import CliRunner, Result

from evaluation.tiny_encoder import save_encoder
from sptune.cli.evaluate import evaluate
from sptune.data.save import save_dialogues
from sptune.errors import AdapterError, DataError, ModelError, RecipeError, SptError, UsageError
from sptune.evaluation import generation, parts
from sptune.evaluation.records import read_records
from sptune.evaluation.rerank import TurnCandidates
from sptune.evaluation.result import load_result
from sptune.model.load import load_base
from sptune.model.spt import SPTModel
from tiny import DIALOGUES, EOS, PAD, byte_level_tokenizer, tiny_llama

QUICK = ("--max-new-tokens", 4, "--dtype", "float32")


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(evaluate)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def done(*arguments: object) -> Result:
    return succeeded(run(*arguments))


def error(*arguments: object) -> SptError:
    return failure(run(*arguments))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    tokenizer = byte_level_tokenizer(eos_token=EOS, pad_token=PAD)
    tokenizer.save_pretrained(folder)
    tiny_llama(len(tokenizer)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "adapter"
    SPTModel.from_base(load_base(str(base), dtype="float32"), num_prompts=2, prompt_length=3).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The invented dialogues with candidates, in a file."""
    path = tmp_path_factory.mktemp("data") / "talks.jsonl"
    talks = []
    for talk in DIALOGUES:
        turns = tuple(replace(turn, candidates=("no .", turn.response or "")) for turn in talk.turns)
        talks.append(replace(talk, turns=turns))
    save_dialogues(talks, path)
    return path


def test_an_adapter_from_figures_to_files(adapter: Path, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "folder"
    result = done(adapter, "--data", data, "--split", "1:2", "--output", output, *QUICK)
    assert result.stdout.startswith(f"{adapter} on ")
    assert "2 dialogues, 5 turns, paper template" in result.stdout
    for title in ("Likelihood of", "Selection of", "Ranking of", "Overlap with", "Diversity of", "Use of", "Missing"):
        assert f"### {title}" in result.stdout
    assert "nothing was kept" not in result.stderr
    assert sorted(path.name for path in output.iterdir()) == ["evaluation.json", "generations.jsonl", "turns.jsonl"]
    saved = load_result(output)
    assert saved.model is not None
    assert saved.data is not None
    assert (saved.model.adapter, saved.data.path, saved.data.split) == (str(adapter), str(data), "1:2")
    assert saved.settings["decoding"]["max_new_tokens"] == 4


def test_replies_measured_again_give_the_same_metrics(adapter: Path, data: Path, tmp_path: Path) -> None:
    done(adapter, "--data", data, "--output", tmp_path, "--parts", "generation", *QUICK)
    again = done("--from", tmp_path / "generations.jsonl", "--json", "--output", tmp_path / "again")
    metrics = load_result(tmp_path).to_json()["metrics"]
    assert json.loads(again.stdout)["metrics"] == metrics
    assert load_result(tmp_path / "again").to_json()["metrics"] == metrics
    assert "profile" in load_result(tmp_path / "again").settings
    standard = done("--from", tmp_path / "generations.jsonl", "--json", "--profile", "standard")
    assert json.loads(standard.stdout)["metrics"]["rules"] != metrics["rules"]


def test_a_bare_model(base: Path, data: Path) -> None:
    plain = json.loads(done("--base", base, "--data", data, "--parts", "likelihood,ranking", "--json", *QUICK).stdout)
    assert (plain["model"]["prompts"], plain["model"]["prompt_length"], plain["model"]["adapter"]) == (1, 0, None)
    assert (plain["selection"], plain["metrics"]) == (None, None)
    assert plain["ranking"]["turns"] == 13


def test_an_adapter_on_a_base_that_moved(adapter: Path, base: Path, data: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    base.rename(moved)
    try:
        assert isinstance(error(adapter, "--data", data, *QUICK), ModelError)
        done(adapter, "--base", moved, "--data", data, "--parts", "likelihood", *QUICK)
    finally:
        moved.rename(base)


def test_options_reach_the_evaluation(adapter: Path, data: Path) -> None:
    options = ("--prompt", 1, "--limit", 2, "--beams", 2, "--profile", "standard", "--seed", 7, "--persona", "none")
    found = json.loads(done(adapter, "--data", data, "--json", *options, *QUICK).stdout)
    assert found["selection"]["usage"] == [0.0, 1.0]
    assert (found["data"]["dialogues"], found["data"]["persona"]) == (2, "none")
    settings = found["settings"]
    assert (settings["decoding"]["num_beams"], settings["profile"], settings["seed"], settings["prompt"]) == (
        2,
        "standard",
        7,
        1,
    )
    sampled = json.loads(
        done(adapter, "--data", data, "--json", "--rule", "sample", "--parts", "likelihood", *QUICK).stdout
    )
    assert all(0 < share < 1 for share in sampled["selection"]["usage"])


def test_prompts_speak_together(adapter: Path, data: Path) -> None:
    options = ("--limit", 1, "--gate-temperature", 0.2, "--no-repeat-history-ngram", 2, "--no-repeat-ngram", 3)
    for kind in ("fused", "gated"):
        found = json.loads(done(adapter, "--data", data, "--json", "--decoding", kind, *options, *QUICK).stdout)
        decoding = found["settings"]["decoding"]
        assert (decoding["kind"], decoding["gate_temperature"]) == (kind, 0.2)
        assert (decoding["no_repeat_history_ngram"], decoding["no_repeat_ngram_size"]) == (2, 3)
        assert found["settings"]["rerank"] is None
        assert found["metrics"]["replies"] == 3


def test_replies_chosen_among_candidates(adapter: Path, data: Path, tmp_path: Path) -> None:
    changes = ("--rerank", "candidates=3", "--rerank", "source=each", "--rerank", "prior_weight=0.25", "--seed", 4)
    done(adapter, "--data", data, "--limit", 1, "--decoding", "rerank", *changes, "--output", tmp_path, *QUICK)
    found = load_result(tmp_path).settings["rerank"]
    assert (found["sampling"]["candidates"], found["sampling"]["source"], found["sampling"]["seed"]) == (3, "each", 4)
    assert found["weights"]["prior"] == 0.25
    assert [len(one.candidates) for one in read_records(tmp_path / "candidates.jsonl", TurnCandidates)] == [3] * 3
    again = done("--from", tmp_path / "generations.jsonl", "--json").stdout
    assert json.loads(again)["metrics"]["replies"] == 3


def test_an_evaluation_is_not_replaced_without_force(adapter: Path, data: Path, tmp_path: Path) -> None:
    arguments = (adapter, "--data", data, "--output", tmp_path, "--parts", "likelihood", *QUICK)
    done(*arguments)
    before = (tmp_path / "evaluation.json").read_bytes()
    assert "--force" in str(error(*arguments))
    assert "--force" in str(error("--from", tmp_path / "generations.jsonl", "--output", tmp_path))
    assert (tmp_path / "evaluation.json").read_bytes() == before
    done(*arguments, "--force", "--limit", 1)
    assert (tmp_path / "evaluation.json").read_bytes() != before


def test_replies_measured_again_do_not_mix_with_those_of_another_evaluation(
    adapter: Path, data: Path, tmp_path: Path
) -> None:
    """Of another folder's replies nothing but the figures is there; in the folder of the replies all else stays."""
    for name, limit in (("one", 1), ("two", 2)):
        done(adapter, "--data", data, "--limit", limit, "--output", tmp_path / name, *QUICK)
    replies = tmp_path / "one" / "generations.jsonl"
    (tmp_path / "two" / "notes.txt").touch()
    done("--from", replies, "--output", tmp_path / "two", "--force")
    assert sorted(path.name for path in (tmp_path / "two").iterdir()) == ["evaluation.json", "notes.txt"]
    done("--from", replies, "--output", tmp_path / "one", "--force", "--profile", "standard")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "evaluation.json",
        "generations.jsonl",
        "turns.jsonl",
    ]
    again = load_result(tmp_path / "one")
    assert (again.settings["generations"], again.settings["profile"]) == (str(replies), "standard")


def test_without_output_it_says_that_nothing_was_kept(adapter: Path, data: Path) -> None:
    assert "--output FOLDER" in done(adapter, "--data", data, "--parts", "likelihood", *QUICK).stderr


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ((), UsageError, r"--data: missing"),
        (("--data", "DATA"), UsageError, r"ADAPTER: missing.*--base"),
        (("ADAPTER",), UsageError, r"--data: missing"),
        (("nowhere", "--data", "DATA"), AdapterError, "no such adapter folder"),
        (("ADAPTER", "--data", "nowhere.txt"), DataError, "no such file"),
        (("ADAPTER", "--data", "DATA", "--split", "3:9"), DataError, "goes past the end"),
        (("ADAPTER", "--data", "DATA", "--parts", "likelihood,chat"), UsageError, r"parts: 'likelihood,chat'"),
        (("ADAPTER", "--data", "DATA", "--profile", "mine"), UsageError, r"profile: 'mine'"),
        (("ADAPTER", "--data", "DATA", "--rule", "best"), UsageError, r"rule: 'best'"),
        (("ADAPTER", "--data", "DATA", "--decoding", "best"), UsageError, r"--decoding: 'best' is not one of top1"),
        (("ADAPTER", "--data", "DATA", "--decoding", "fused", "--beams", "2"), UsageError, "num_beams: 2 beams follow"),
        (("ADAPTER", "--data", "DATA", "--rerank", "candidates=2"), UsageError, r"--rerank: .*use --decoding rerank"),
        (
            ("ADAPTER", "--data", "DATA", "--decoding", "rerank", "--rerank", "candidate=2", "--rerank", "top_p=2"),
            RecipeError,
            r"--rerank: 2 mistakes(?s:.)*candidate: unknown key; did you mean candidates",
        ),
        (
            ("ADAPTER", "--data", "DATA", "--decoding", "rerank", "--rerank", "length_power=1000"),
            RecipeError,
            r"--rerank: 1 mistake\n  length_power: Input should be less than or equal to 10 \(got 1000\)",
        ),
        (("ADAPTER", "--data", "DATA", "--prompt", "2"), UsageError, r"no prompt 2.*0 to 1"),
        (("ADAPTER", "--data", "DATA", "--dtype", "int8"), UsageError, r"--dtype: 'int8'"),
        (("ADAPTER", "--data", "DATA", "--template", "chat"), UsageError, r"--template: an adapter knows"),
        (("--base", "BASE", "--data", "DATA", "--template", "jinja"), UsageError, r"--template: 'jinja'"),
        (("--base", "BASE", "--data", "DATA", "--template", "chat"), ModelError, "no chat template"),
        (
            ("ADAPTER", "--data", "DATA", "--max-new-tokens", "0"),
            UsageError,
            "--max-new-tokens: 0 is out of range; give",
        ),
        (
            ("ADAPTER", "--data", "DATA", "--beams", "0"),
            UsageError,
            "--beams: 0 is out of range; give a number that is at",
        ),
        (
            ("ADAPTER", "--data", "DATA", "--gate-temperature", "0"),
            UsageError,
            "--gate-temperature: 0.0 is out of range",
        ),
        (
            ("ADAPTER", "--data", "DATA", "--no-repeat-history-ngram", "-1"),
            UsageError,
            "--no-repeat-history-ngram: -1 is",
        ),
        (
            ("ADAPTER", "--data", "DATA", "--prompt", "1", "--rule", "sample"),
            UsageError,
            "rule: sample chooses nothing",
        ),
        (("ADAPTER", "--data", "DATA", "--max-new-tokens", "5000"), UsageError, "max_new_tokens.*window is 1024"),
        (("ADAPTER", "--data", "DATA", "--limit", "0"), UsageError, "limit: 0"),
        (("ADAPTER", "--data", "DATA", "--bertscore-model", "nowhere"), ModelError, "BERTScore encoder"),
        (("--from", "nowhere.jsonl"), DataError, "nowhere.jsonl: cannot be read"),
        (("--from", "DATA"), DataError, r"talks\.jsonl:1: .*Field required"),
        (("--from", "DATA", "ADAPTER"), UsageError, "ADAPTER: .*beside --from"),
        (("--from", "DATA", "--base", "BASE"), UsageError, "--base: .*beside --from"),
        (("--from", "DATA", "--limit", "3"), UsageError, "--limit: 3 has no meaning beside --from"),
        (("--from", "DATA", "--parts", "ranking"), UsageError, "--parts: 'ranking' has no"),
        (("--from", "DATA", "--rule", "top1"), UsageError, "--rule: 'top1' has no"),
        (("--from", "DATA", "--decoding", "rerank", "--rerank", "top_p=9"), UsageError, "--decoding: 'rerank' has no"),
        (("--from", "DATA", "--max-new-tokens", "0"), UsageError, "--max-new-tokens: 0 has no"),
        (("--from", "DATA", "--gate-temperature", "0.1"), UsageError, "--gate-temperature: 0.1 has no"),
        (("--from", "DATA", "--persona", "none"), UsageError, "--persona: 'none' has no"),
    ],
)
def test_mistakes_are_named(
    arguments: tuple[str, ...], kind: type[SptError], message: str, adapter: Path, base: Path, data: Path
) -> None:
    places = {"ADAPTER": adapter, "BASE": base, "DATA": data}
    found = error(*(places.get(word, word) for word in arguments))
    assert isinstance(found, kind)
    assert re.search(message, str(found)), str(found)


def test_ctrl_c_says_where_the_replies_are(
    adapter: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = generation._reply
    calls: list[int] = []

    def press(*arguments: object) -> list[generation.Generation]:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return made(*arguments)

    monkeypatch.setattr(generation, "_reply", press)
    arguments = (adapter, "--data", data, "--token-budget", 1, *QUICK)
    stopped = run(*arguments, "--output", tmp_path)
    partial = tmp_path / "generations.partial.jsonl"
    assert stopped.exit_code == 130
    assert f"interrupted after 2 of 13 replies; they are in {partial}" in stopped.stderr
    assert "### Overlap" in done("--from", partial).stdout
    calls.clear()
    unkept = run(*arguments)
    assert unkept.exit_code == 130
    assert "none were kept (--output FOLDER would have)" in unkept.stderr
    calls[:] = [1, 1]
    early = run(*arguments, "--output", tmp_path, "--force")
    assert early.exit_code == 130
    assert "interrupted after 0 of 13 replies; none was finished, so there is none to keep" in early.stderr


@pytest.mark.parametrize("part", ["with_bertscore", "measure"])
def test_ctrl_c_while_replies_are_measured_says_where_they_are(
    adapter: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    encoder = save_encoder(tmp_path / "encoder")
    arguments = (adapter, "--data", data, "--parts", "generation", "--bertscore-model", encoder, *QUICK)
    with monkeypatch.context() as stopping:
        stopping.setattr(parts, part, press)
        stopped, unkept = run(*arguments, "--output", tmp_path / "out"), run(*arguments)
    replies = tmp_path / "out" / "generations.jsonl"
    assert (stopped.exit_code, unkept.exit_code) == (130, 130)
    assert f"interrupted after 13 of 13 replies; they are in {replies}; `sptune evaluate --from" in stopped.stderr
    assert "none were kept (--output FOLDER would have)" in unkept.stderr
    assert json.loads(done("--from", replies, "--json").stdout)["metrics"]["replies"] == 13


def test_ctrl_c_before_anything_is_finished(adapter: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(SPTModel, "forward", press)
    stopped = run(adapter, "--data", data, *QUICK)
    assert stopped.exit_code == 130
    assert "nothing was written" in stopped.stderr


def test_help_has_examples() -> None:
    shown = done("--help").stdout
    assert "sptune evaluate --base smollm2-135m" in shown
    assert "--bertscore-model" in shown


def test_the_command_is_defined_without_torch() -> None:
    code = "import sys, sptune.cli.evaluate; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
