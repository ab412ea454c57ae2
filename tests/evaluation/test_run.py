"""A whole evaluation: what it computes, what it writes, and what it refuses."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_encoder import save_encoder

from sptune.data.dialogue import Dialogue
from sptune.errors import DataError, ModelError, StorageError, UsageError
from sptune.evaluation import parts
from sptune.evaluation.candidate_replies import Reranking, Sampling
from sptune.evaluation.generation import Generation, GenerationInterrupted, chosen_reply, measure
from sptune.evaluation.ranking import rank_turns, ranking
from sptune.evaluation.records import read_records
from sptune.evaluation.rerank import RerankWeights, TurnCandidates, rerank
from sptune.evaluation.result import EvaluationResult, TurnRecord, load_result
from sptune.evaluation.run import NO_CANDIDATES, Evaluation, Settings, Source, evaluate, measure_again, occupied
from sptune.evaluation.scoring import likelihood, score_turns
from sptune.evaluation.turns import choose_prompts
from sptune.model.generate import Decoding
from sptune.model.load import LoadedBase
from sptune.model.spt import SPTModel
from tiny import tiny_spt

Dialogues = tuple[Dialogue, ...]
QUICK = Settings(decoding=Decoding(max_new_tokens=5))


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., SPTModel]) -> SPTModel:
    return tiny_model()


@pytest.fixture(scope="module")
def talks(dialogues: Dialogues) -> Dialogues:
    """The invented dialogues; the first has candidates."""
    turns = [replace(turn, candidates=("no .", turn.response or "", "yes .")) for turn in dialogues[0].turns]
    return (replace(dialogues[0], turns=tuple(turns)), *dialogues[1:])


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def whole(model: SPTModel, talks: Dialogues, output: Path) -> Evaluation:
    source = Source("runs/a/adapter", "talks.jsonl", "1:4", "self")
    return evaluate(model, talks, settings=QUICK, source=source, output=output)


def test_every_part_is_there(whole: Evaluation, model: SPTModel, talks: Dialogues) -> None:
    result = whole.result
    assert result.likelihood == likelihood(score_turns(model, choose_prompts(model, talks)))
    assert result.selection is not None
    assert sum(result.selection.usage) == pytest.approx(1)
    assert result.ranking is not None
    assert (result.ranking.turns, result.ranking.turns_without_candidates) == (3, 10)
    assert result.metrics is not None
    assert result.metrics.replies == len(whole.generations) == len(whole.turns) == 13
    assert result.missing == {}
    assert set(result.timings) == {"loading", "likelihood", "ranking", "generation", "metrics"}


def test_the_result_says_what_was_evaluated_and_how(whole: Evaluation, model: SPTModel) -> None:
    result = whole.result
    assert result.model is not None
    assert (result.model.base, result.model.adapter) == ("tiny", "runs/a/adapter")
    assert (result.model.prompts, result.model.prompt_length, result.model.dtype) == (3, 4, "float32")
    assert result.data is not None
    assert (result.data.path, result.data.split, result.data.dialogues, result.data.turns) == (
        "talks.jsonl",
        "1:4",
        4,
        13,
    )
    assert result.settings["decoding"]["max_new_tokens"] == 5
    assert result.settings["stops"] == list(model.stops)
    assert result.settings["parts"] == ["likelihood", "ranking", "generation"]


def test_one_prompt_speaks_in_every_part(whole: Evaluation) -> None:
    for turn, reply in zip(whole.turns, whole.generations, strict=True):
        assert (turn.dialogue, turn.turn) == (reply.dialogue, reply.turn)
        assert (turn.prompt, turn.scores, turn.margin) == (reply.prompt, reply.scores, reply.margin)


def test_turn_records_hold_what_the_figures_are_made_of(whole: Evaluation) -> None:
    found = whole.result.likelihood
    assert found is not None
    assert sum(turn.tokens or 0 for turn in whole.turns) == found.tokens
    assert [turn.candidates for turn in whole.turns] == [3] * 3 + [None] * 10
    ranks = [turn.rank for turn in whole.turns if turn.rank is not None]
    assert whole.result.ranking is not None
    assert whole.result.ranking.mrr == pytest.approx(sum(1 / rank for rank in ranks) / 3)


def test_files_give_back_the_evaluation(whole: Evaluation, output: Path) -> None:
    assert sorted(path.name for path in output.iterdir()) == ["evaluation.json", "generations.jsonl", "turns.jsonl"]
    assert load_result(output) == load_result(output / "evaluation.json") == whole.result
    assert tuple(read_records(output / "turns.jsonl", TurnRecord)) == whole.turns
    assert tuple(read_records(output / "generations.jsonl", Generation)) == whole.generations


def test_bertscore_is_kept_for_every_reply(
    model: SPTModel, dialogues: Dialogues, tmp_path: Path, whole: Evaluation
) -> None:
    encoder = str(save_encoder(tmp_path / "encoder"))
    wanted = replace(QUICK, parts=("generation",), bertscore_model=encoder)
    found = evaluate(model, dialogues, settings=wanted, output=tmp_path / "output")
    assert tuple(read_records(tmp_path / "output" / "generations.jsonl", Generation)) == found.generations
    assert tuple(replace(one, bertscore=None) for one in found.generations) == whole.generations
    assert found.result.metrics
    for part in ("f1", "precision", "recall"):
        values = [getattr(one.bertscore, part) for one in found.generations]
        assert len(set(values)) > 1
        assert found.result.metrics.values[f"bertscore_{part}"] == pytest.approx(sum(values) / len(values))


def test_json_round_trip(whole: Evaluation) -> None:
    record = json.loads(json.dumps(whole.result.to_json()))
    assert EvaluationResult.from_json(record) == whole.result
    assert record["schema_version"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version is 2"),
        ({"likelihood": {"turns": 3}}, r"likelihood\.tokens: Field required"),
        ({"timings": {"ranking": "long"}}, r"timings\.ranking.*number"),
    ],
)
def test_a_strange_result_is_refused(whole: Evaluation, tmp_path: Path, change: dict, message: str) -> None:
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(whole.result.to_json() | change), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        load_result(path)
    path.write_text("[1, 2", encoding="utf-8")
    with pytest.raises(DataError, match=r"evaluation\.json: cannot be read"):
        load_result(tmp_path)
    path.write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(DataError, match="schema_version is None"):
        load_result(tmp_path)


@pytest.mark.parametrize("profile", ["paper", "standard"])
def test_metrics_from_the_file_alone_are_the_same(whole: Evaluation, output: Path, profile: str) -> None:
    again = measure_again(output / "generations.jsonl", settings=Settings(profile=profile))
    assert again.metrics == measure(whole.generations, profile=profile)
    assert (again.model, again.data, again.likelihood) == (None, None, None)
    if profile == "paper":
        assert again.metrics == whole.result.metrics
    assert EvaluationResult.from_json(again.to_json()) == again


def test_parts_that_are_not_asked_for_are_not_run(model: SPTModel, talks: Dialogues, tmp_path: Path) -> None:
    only = evaluate(model, talks, settings=replace(QUICK, parts=("likelihood",)), output=tmp_path)
    assert (only.result.ranking, only.result.metrics, only.generations, only.result.missing) == (None, None, (), {})
    assert occupied(tmp_path) == [tmp_path / "evaluation.json", tmp_path / "turns.jsonl"]
    ranked = evaluate(model, talks, settings=replace(QUICK, parts=("ranking",)))
    assert (ranked.result.likelihood, ranked.result.selection) == (None, None)
    assert ranked.turns[0].logprobs is None
    assert ranked.turns[0].rank is not None


def test_ranking_without_candidates_says_why(model: SPTModel, dialogues: Dialogues) -> None:
    result = evaluate(model, dialogues, settings=replace(QUICK, parts=("ranking",))).result
    assert (result.ranking, result.missing) == (None, {"ranking": NO_CANDIDATES})


def test_a_new_evaluation_leaves_nothing_of_an_old_one(model: SPTModel, talks: Dialogues, tmp_path: Path) -> None:
    evaluate(model, talks, settings=replace(QUICK, limit=1), output=tmp_path)
    (tmp_path / "generations.partial.jsonl").touch()
    (tmp_path / "notes.txt").touch()
    evaluate(model, talks, settings=replace(QUICK, parts=("likelihood",)), output=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.json", "notes.txt", "turns.jsonl"]


def test_limit_takes_the_first_dialogues(model: SPTModel, talks: Dialogues) -> None:
    likely = replace(QUICK, parts=("likelihood",))
    limited = evaluate(model, talks, settings=replace(likely, limit=2))
    first = evaluate(model, talks[:2], settings=likely)
    assert limited.turns == first.turns
    assert limited.result.data == first.result.data


def test_the_data_hash_is_that_of_the_dialogues(model: SPTModel, talks: Dialogues) -> None:
    likely = replace(QUICK, parts=("likelihood",))
    hashes = {
        data.sha256 for part in (talks, talks[:3]) if (data := evaluate(model, part, settings=likely).result.data)
    }
    again = evaluate(model, list(talks), settings=likely).result.data
    assert len(hashes) == 2
    assert again is not None
    assert again.sha256 in hashes


def test_the_adapter_hash_is_that_of_its_file(model: SPTModel, talks: Dialogues, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "adapter")
    digest = hashlib.sha256((tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()
    found = evaluate(model, talks, settings=replace(QUICK, parts=("likelihood",), limit=1)).result.model
    assert found is not None
    assert (found.adapter_sha256, found.adapter) == (digest, None)


def test_one_prompt_has_no_selection_and_no_adapter(tiny_model: Callable[..., SPTModel], talks: Dialogues) -> None:
    result = evaluate(tiny_model(count=1, length=0), talks, settings=replace(QUICK, parts=("likelihood",))).result
    assert result.selection is None
    assert result.model is not None
    assert (result.model.prompts, result.model.prompt_length, result.model.adapter_sha256) == (1, 0, None)


def test_ctrl_c_keeps_turns_and_replies(model: SPTModel, talks: Dialogues, tmp_path: Path) -> None:
    def press(part: str, done: int, total: int) -> None:
        if part == "generation" and done:
            raise KeyboardInterrupt

    few = replace(QUICK, token_budget=300)
    with pytest.raises(GenerationInterrupted) as stop:
        evaluate(model, talks, settings=few, output=tmp_path, progress=press)
    assert stop.value.saved == tmp_path / "generations.partial.jsonl"
    assert tuple(read_records(stop.value.saved, Generation)) == stop.value.done
    assert len(read_records(tmp_path / "turns.jsonl", TurnRecord)) == 13
    assert not (tmp_path / "evaluation.json").exists()
    with pytest.raises(GenerationInterrupted) as unsaved:
        evaluate(model, talks, settings=few, progress=press)
    assert unsaved.value.saved is None
    assert unsaved.value.done == stop.value.done


CHOOSE = replace(
    QUICK,
    rerank=Reranking(Sampling(candidates=4, temperature=1.5), RerankWeights(prior=0.5, consensus=0.0, persona=2.0)),
)


@pytest.fixture(scope="module")
def chosen(model: SPTModel, talks: Dialogues, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    folder = tmp_path_factory.mktemp("rerank")
    return evaluate(model, talks, settings=CHOOSE, output=folder), folder


def test_kept_candidates_give_the_same_choice_without_the_model(chosen: tuple[Evaluation, Path]) -> None:
    found, folder = chosen
    assert CHOOSE.rerank is not None
    kept = read_records(folder / "candidates.jsonl", TurnCandidates)
    assert tuple(chosen_reply(one, CHOOSE.rerank.weights) for one in kept) == found.generations
    assert tuple(read_records(folder / "generations.jsonl", Generation)) == found.generations
    others = [rerank(one, RerankWeights(prior=-5.0, consensus=0.0)).index for one in kept]
    assert others != [one.candidate for one in found.generations]
    assert [len(one.candidates) for one in kept] == [4] * 13
    assert (found.result.settings["rerank"]["weights"]["persona"], found.result.timings.keys()) == (
        2.0,
        {"loading", "likelihood", "ranking", "generation", "metrics"},
    )


@pytest.mark.parametrize("how", [{"prompt": 1}, {"rule": "random", "seed": 5}])
def test_a_prompt_that_is_forced_or_drawn_makes_its_candidates_alone(
    model: SPTModel, talks: Dialogues, tmp_path: Path, how: dict
) -> None:
    """The turns, the candidates, the replies and what is recorded tell the same story."""
    assert CHOOSE.rerank
    every = replace(CHOOSE.rerank, sampling=replace(CHOOSE.rerank.sampling, source="each", greedy=3))
    found = evaluate(model, talks, settings=replace(CHOOSE, rerank=every, **how), output=tmp_path)
    spoke = [turn.prompt for turn in found.turns]
    assert spoke == [turn.selection.prompt for turn in choose_prompts(model, talks, **how)]
    assert [reply.prompt for reply in found.generations] == spoke
    for prompt, one in zip(spoke, read_records(tmp_path / "candidates.jsonl", TurnCandidates), strict=True):
        assert {candidate.prompt for candidate in one.candidates} == {prompt}
    recorded = found.result.settings["rerank"]
    assert (recorded["sampling"]["source"], recorded["weights"]["likelihood"]) == ("top1", "top1")
    turns = choose_prompts(model, talks, **how)
    assert found.result.ranking == ranking(rank_turns(model, turns, reranking=every.alone()), turns=13)


def test_ranking_and_gated_figures_follow_the_settings(
    chosen: tuple[Evaluation, Path], model: SPTModel, talks: Dialogues
) -> None:
    turns = choose_prompts(model, talks)
    figures = replace(QUICK, parts=("likelihood", "ranking"))
    gated = replace(figures, decoding=Decoding(kind="gated", gate_temperature=0.03))
    found = evaluate(model, talks, settings=gated)
    assert found.result.ranking == ranking(rank_turns(model, turns, kind="gated", gate_temperature=0.03), turns=13)
    scores = score_turns(model, turns, gate_temperature=0.03)
    assert found.result.likelihood == likelihood(scores)
    assert [one.gated_logprob for one in found.turns] == [one.gated_logprob for one in scores]
    assert [one.mixture_logprob for one in found.turns] == [one.mixture_logprob for one in scores]
    assert CHOOSE.rerank
    assert chosen[0].result.ranking == ranking(rank_turns(model, turns, reranking=CHOOSE.rerank), turns=13)


def test_ctrl_c_keeps_candidates(model: SPTModel, talks: Dialogues, tmp_path: Path) -> None:
    def press(part: str, done: int, total: int) -> None:
        if part == "candidates" and done:
            raise KeyboardInterrupt

    settings = replace(CHOOSE, token_budget=1, parts=("generation",))
    with pytest.raises(GenerationInterrupted, match="after 1 of 13") as stop:
        evaluate(model, talks, settings=settings, output=tmp_path, progress=press)
    assert tuple(read_records(tmp_path / "generations.partial.jsonl", Generation)) == stop.value.done
    assert len((tmp_path / "candidates.partial.jsonl").read_text().splitlines()) == 2, (
        "what they depend on, and one turn"
    )
    assert not (tmp_path / "candidates.jsonl").exists()
    evaluate(model, talks, settings=replace(QUICK, limit=1), output=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evaluation.json", "generations.jsonl", "turns.jsonl"]


def test_candidates_go_on_where_they_were(model: SPTModel, talks: Dialogues, tmp_path: Path) -> None:
    """Killed in the middle of a line, and weighed otherwise the second time; with other samples all are made anew."""
    settings = replace(CHOOSE, token_budget=1, parts=("generation",))
    assert settings.rerank
    evaluate(model, talks, settings=settings, output=tmp_path / "whole")
    whole = (tmp_path / "whole" / "candidates.jsonl").read_text()

    def begun(folder: Path, then: Settings) -> int:
        """Stop after three turns, cut the fourth short, and tell how many are there when the second process begins."""

        def press(part: str, done: int, total: int) -> None:
            if part == "candidates" and done == 3:
                raise KeyboardInterrupt

        with pytest.raises(GenerationInterrupted):
            evaluate(model, talks, settings=settings, output=folder, progress=press)
        with (folder / "candidates.partial.jsonl").open("a") as file:
            file.write(whole[:100])
        seen: list[int] = []
        evaluate(model, talks, settings=then, output=folder, progress=lambda part, done, total: seen.append(done))
        assert not (folder / "candidates.partial.jsonl").exists()
        return seen[0]

    other = replace(settings.rerank, weights=replace(settings.rerank.weights, consensus=0.0))
    assert begun(tmp_path / "weights", replace(settings, rerank=other)) == 3
    assert (tmp_path / "weights" / "candidates.jsonl").read_text() == whole
    more = replace(settings.rerank, sampling=replace(settings.rerank.sampling, seed=7))
    assert begun(tmp_path / "samples", replace(settings, rerank=more)) == 0
    assert (tmp_path / "samples" / "candidates.jsonl").read_text() != whole


def test_candidates_of_another_model_are_not_taken_over(
    model: SPTModel, tiny_base: LoadedBase, talks: Dialogues, tmp_path: Path
) -> None:
    """A layer, or the room for the history, is another: embeddings, adapter, dialogues and sampling are the same."""
    trained = copy.deepcopy(tiny_base.backbone)
    next(iter(trained.model.model.layers.parameters())).data.mul_(1.01)
    others = {
        "weights": tiny_spt(LoadedBase(trained, tiny_base.tokenizer)),
        "room": tiny_spt(tiny_base, max_length=100),
        "same": tiny_spt(tiny_base),
    }
    settings = replace(CHOOSE, token_budget=1, parts=("generation",))

    def press(part: str, done: int, total: int) -> None:
        if part == "candidates" and done == 3:
            raise KeyboardInterrupt

    begins: dict[str, list[int]] = {}
    for name, other in others.items():
        with pytest.raises(GenerationInterrupted):
            evaluate(model, talks, settings=settings, output=tmp_path / name, progress=press)
        seen = begins.setdefault(name, [])
        evaluate(
            other,
            talks,
            settings=settings,
            output=tmp_path / name,
            progress=lambda _, done, total, seen=seen: seen.append(done),
        )
    assert {name: seen[0] for name, seen in begins.items()} == {"weights": 0, "room": 0, "same": 3}


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ModelError("the encoder broke")])
def test_candidates_outlast_the_metrics(
    model: SPTModel, talks: Dialogues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
) -> None:
    """All candidates are there: whatever ends the evaluation then, the next one draws none."""
    settings = replace(CHOOSE, parts=("generation",))

    def fail(*_: object, **__: object) -> None:
        raise stop

    with monkeypatch.context() as broken:
        broken.setattr(parts, "measure", fail)
        with pytest.raises((GenerationInterrupted, ModelError)):
            evaluate(model, talks, settings=settings, output=tmp_path)
    seen: list[int] = []
    found = evaluate(model, talks, settings=settings, output=tmp_path, progress=lambda part, done, _: seen.append(done))
    assert seen == [13]
    assert tuple(read_records(tmp_path / "generations.jsonl", Generation)) == found.generations
    assert len(read_records(tmp_path / "candidates.jsonl", TurnCandidates)) == 13
    assert not (tmp_path / "candidates.partial.jsonl").exists()


def test_an_evaluation_from_before_there_were_gates_is_read(whole: Evaluation, output: Path, tmp_path: Path) -> None:
    record = whole.result.to_json()
    for name in ("gated_perplexity", "mixture_perplexity"):
        assert record["likelihood"].pop(name) > 1
    (tmp_path / "evaluation.json").write_text(json.dumps(record), encoding="utf-8")
    old = load_result(tmp_path)
    assert old.likelihood is not None
    assert (old.likelihood.gated_perplexity, old.likelihood.perplexity) == (None, record["likelihood"]["perplexity"])
    lines = [json.loads(line) for line in (output / "turns.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [
        {name: value for name, value in line.items() if "gated" not in name and "mixture" not in name} for line in lines
    ]
    (tmp_path / "turns.jsonl").write_text("\n".join(map(json.dumps, kept)), encoding="utf-8")
    first = read_records(tmp_path / "turns.jsonl", TurnRecord)[0]
    assert first == replace(whole.turns[0], gated_logprob=None, mixture_logprob=None)


def test_a_metric_that_fails_costs_no_reply(
    model: SPTModel, talks: Dialogues, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ModelError("the encoder broke")

    monkeypatch.setattr(parts, "measure", fail)
    with pytest.raises(ModelError):
        evaluate(model, talks, settings=QUICK, output=tmp_path)
    assert len(read_records(tmp_path / "generations.jsonl", Generation)) == 13


def test_an_encoder_that_is_not_there_is_noticed_first(model: SPTModel, talks: Dialogues, tmp_path: Path) -> None:
    calls: list[str] = []
    settings = replace(QUICK, bertscore_model=str(tmp_path / "none"))
    with pytest.raises(ModelError, match="BERTScore encoder"):
        evaluate(model, talks, settings=settings, progress=lambda part, *_: calls.append(part))
    assert calls == []


def test_replies_without_room_are_noticed_first(model: SPTModel, talks: Dialogues) -> None:
    calls: list[str] = []
    settings = Settings(decoding=Decoding(max_new_tokens=900))
    with pytest.raises(UsageError, match=r"max_new_tokens: dialogue 'archivist', turn 6.*window is 1024"):
        evaluate(model, talks, settings=settings, progress=lambda part, *_: calls.append(part))
    assert calls == []


def test_a_folder_that_cannot_be_written_is_a_storage_error(model: SPTModel, talks: Dialogues, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        evaluate(model, talks, settings=replace(QUICK, parts=("likelihood",)), output=tmp_path / "file")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"parts": ()}, "parts"),
        ({"parts": ("likelihood", "rank")}, "likelihood,rank'"),
        ({"profile": "own"}, "profile: 'own'"),
        ({"rule": "best"}, "rule: 'best'"),
        ({"limit": 0}, "limit: 0"),
        (
            {"rerank": Reranking(), "decoding": Decoding(num_beams=2)},
            "num_beams: 2 beams .* use num_beams=1 with rerank",
        ),
        ({"token_budget": 0}, "token_budget: 0"),
    ],
)
def test_settings_are_checked(wrong: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Settings(**wrong)
