from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sptune.data.dialogue import Dialogue, Turn
from sptune.engine.base import Chunk, Engine
from sptune.engine.local import LocalEngine, settled_text
from sptune.errors import DataError, UsageError
from sptune.evaluation.run import Settings, evaluate
from sptune.model.generate import Decoding, PromptedContext
from sptune.model.load import LoadedBase
from sptune.model.mixture import Mixture, Speakers
from sptune.model.spt import Reply, SPTModel
from sptune.text import PAPER_STOPS, cut_reply

GREEDY = Decoding(max_new_tokens=24)
SAMPLED = Decoding(max_new_tokens=24, temperature=1.0, top_p=0.9, seed=7)
FUSED = Decoding(max_new_tokens=24, kind="fused")
BEAMS = Decoding(max_new_tokens=10, num_beams=3, no_repeat_ngram_size=3)

Make = Callable[..., SPTModel]


@pytest.fixture
def engine(tiny_model: Make) -> LocalEngine:
    return LocalEngine(tiny_model())


@pytest.fixture
def contexts(dialogues: tuple[Dialogue, ...]) -> list[Dialogue]:
    """Four contexts of different lengths."""
    return [talk.context(len(talk.turns) - 1) for talk in dialogues]


def with_stops(make: Make, *stops: str) -> LocalEngine:
    model = make()
    model.stops = stops
    return LocalEngine(model)


def joined(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def workers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sptune-stream")]


def said(replies: list[Reply]) -> list[tuple[str, tuple[int, ...], int]]:
    """All of `replies` but the scores, whose last bit may depend on the batch."""
    return [(reply.text, reply.tokens, reply.selection.prompt) for reply in replies]


class Steps:
    """Counts forward passes, each made to last long enough to be interrupted."""

    count = 0

    def __call__(self, *_: object) -> None:
        self.count += 1
        time.sleep(0.02)


@pytest.fixture
def steps(engine: LocalEngine) -> Iterator[Steps]:
    counter = Steps()
    hook = engine.model.backbone.model.register_forward_pre_hook(counter)  # the base is shared by all tests
    yield counter
    hook.remove()


def test_the_local_engine_is_an_engine(engine: LocalEngine) -> None:
    typed: Engine = engine
    assert typed.num_prompts == 3


@pytest.mark.parametrize("decoding", [GREEDY, BEAMS, Decoding(max_new_tokens=24, no_repeat_ngram_size=2)])
def test_a_batch_equals_one_by_one(engine: LocalEngine, contexts: list[Dialogue], decoding: Decoding) -> None:
    batch = engine.generate(contexts, decoding=decoding)
    alone = [engine.generate([context], decoding=decoding)[0] for context in contexts]
    assert said(batch) == said(alone)
    for one, other in zip(batch, alone, strict=True):
        assert one.selection.scores == pytest.approx(other.selection.scores, abs=1e-6)
    assert len({reply.text for reply in batch}) > 1


def test_the_rows_of_a_batch_keep_their_prompts(engine: LocalEngine, contexts: list[Dialogue]) -> None:
    prompts = [2, 0, 1, 2]
    batch = engine.generate(contexts, decoding=GREEDY, prompt=prompts)
    assert [reply.selection.prompt for reply in batch] == prompts
    alone = [engine.generate([c], decoding=GREEDY, prompt=k)[0] for c, k in zip(contexts, prompts, strict=True)]
    assert said(batch) == said(alone)


def test_prompts_of_one_context_speak_differently_in_one_batch(engine: LocalEngine, contexts: list[Dialogue]) -> None:
    replies = engine.generate([contexts[0]] * 3, decoding=GREEDY, prompt=range(3))
    assert len({reply.text for reply in replies}) == 3
    assert len({reply.selection.scores for reply in replies}) == 1


def test_a_mixture_speaks_unless_a_prompt_is_forced(engine: LocalEngine, contexts: list[Dialogue]) -> None:
    fused = engine.generate(contexts, decoding=FUSED)
    assert said(fused) != said(engine.generate(contexts, decoding=GREEDY))
    sharp = replace(FUSED, kind="gated", gate_temperature=1e-6)  # the gate is then as good as the choice
    assert said(engine.generate(contexts, decoding=sharp)) == said(engine.generate(contexts, decoding=GREEDY))
    alone = engine.generate([contexts[0]] * 3, decoding=GREEDY, prompt=range(3))
    assert said(engine.generate([contexts[0]] * 3, decoding=FUSED, prompt=range(3))) == said(alone)
    assert joined(list(engine.stream(contexts[0], decoding=FUSED, prompt=1))) == alone[1].text


def test_generate_says_what_the_model_says(tiny_model: Make, contexts: list[Dialogue]) -> None:
    engine = with_stops(tiny_model, "e", "\n")
    wanted = engine.model.generate(contexts, decoding=GREEDY)
    ours = engine.generate(contexts, decoding=GREEDY)
    assert [(reply.text, reply.selection) for reply in ours] == [(reply.text, reply.selection) for reply in wanted]


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED, BEAMS, FUSED, None])
def test_a_stream_joined_is_the_generated_text(
    engine: LocalEngine, contexts: list[Dialogue], decoding: Decoding | None
) -> None:
    for context in contexts:
        [wanted] = engine.generate([context], decoding=decoding)
        chunks = list(engine.stream(context, decoding=decoding))
        assert joined(chunks) == wanted.text != ""
        assert [chunk.reply for chunk in chunks if chunk.reply] == [wanted] == [chunks[-1].reply]


def test_greedy_text_streams_in_pieces_and_beams_at_once(engine: LocalEngine, contexts: list[Dialogue]) -> None:
    assert len(list(engine.stream(contexts[0], decoding=GREEDY))) > 5
    assert len(list(engine.stream(contexts[0], decoding=BEAMS))) == 1


def test_a_seed_repeats_a_sample_and_another_does_not(engine: LocalEngine, contexts: list[Dialogue]) -> None:
    first, again = (engine.generate(contexts, decoding=SAMPLED) for _ in range(2))
    other = engine.generate(contexts, decoding=Decoding(max_new_tokens=24, temperature=1.0, top_p=0.9, seed=8))
    assert first == again != other


def test_seeded_streams_do_not_disturb_each_other(engine: LocalEngine, contexts: list[Dialogue]) -> None:
    alone = [joined(list(engine.stream(context, decoding=SAMPLED))) for context in contexts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda context: joined(list(engine.stream(context, decoding=SAMPLED))), contexts))
    assert together == alone


def test_closing_a_stream_stops_within_one_token(engine: LocalEngine, contexts: list[Dialogue], steps: Steps) -> None:
    stream = engine.stream(contexts[0], decoding=Decoding(max_new_tokens=500))
    next(stream)
    assert workers()
    before = steps.count
    stream.close()
    assert steps.count <= before + 1
    assert not workers()


def test_closing_a_stream_that_waits_for_another_does_not_wait(
    engine: LocalEngine, contexts: list[Dialogue], steps: Steps
) -> None:
    long = Decoding(max_new_tokens=500)
    running, waiting = (engine.stream(contexts[0], decoding=long) for _ in range(2))
    next(running)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(lambda: next(waiting, None))
        time.sleep(0.1)
        running.close()
        assert job.result() is not None
    before = steps.count
    waiting.close()
    assert steps.count <= before + 1
    assert not workers()


@pytest.mark.parametrize("decoding", [GREEDY, BEAMS])
def test_a_closed_generation_ends_at_once(
    engine: LocalEngine, contexts: list[Dialogue], steps: Steps, decoding: Decoding
) -> None:
    row = PromptedContext(engine.model.encoder.encode_context(contexts[0]).input_ids, 0)
    closed = threading.Event()
    closed.set()
    engine._run([row], decoding, closed=closed)
    assert steps.count <= 2
    with engine._running:  # also while another one runs
        assert engine._run([row], decoding, closed=closed) == [[]]


def test_a_long_conversation_loses_old_turns_until_there_is_room_for_the_reply(tiny_model: Make) -> None:
    model = tiny_model(max_length=1024)
    turns = tuple(Turn(f"what about map number {n} ?", "it shows the coast .") for n in range(120))
    talk = Dialogue("long", ("i keep old maps .",), (*turns, Turn("and you ?")))
    room = 1024 - model.prompts.length - 200
    assert len(model.encoder.encode_context(talk).input_ids) > room
    kept = model.encoder.encode_context(talk, room=room).dropped_turns
    short, engine = replace(talk, turns=talk.turns[kept:]), LocalEngine(model)
    decoding = Decoding(max_new_tokens=200)
    [reply, same] = engine.generate([talk, short], decoding=decoding)
    assert reply.tokens == same.tokens
    assert list(engine.stream(talk, decoding=decoding))[-1].reply.tokens == reply.tokens


def test_a_stream_that_was_never_read_runs_nothing(engine: LocalEngine, contexts: list[Dialogue], steps: Steps) -> None:
    engine.stream(contexts[0], decoding=GREEDY).close()
    assert steps.count == 0


def split_stop(model: SPTModel, reply: Reply) -> str | None:
    """Three characters of a reply that were not generated as one token, where it has such."""
    texts = [model.decode(reply.tokens[: n + 1]) for n in range(len(reply.tokens))]
    for before, after in pairwise(texts[4:-1]):
        stop = after[len(before) - 2 : len(before) + 1]
        if len(stop) == 3 and "\N{REPLACEMENT CHARACTER}" not in stop and before.endswith(stop[:2]):
            return stop
    return None


def test_a_stop_split_over_tokens_is_cut_and_never_shown(tiny_model: Make, contexts: list[Dialogue]) -> None:
    free = tiny_model()
    tried = 0
    for context in contexts * 3:
        prompt = tried % 3
        [whole] = free.generate([context], decoding=GREEDY, prompt=prompt)
        stop = split_stop(free, whole)
        if stop is None:
            continue
        tried += 1
        engine = with_stops(tiny_model, stop)
        chunks = list(engine.stream(context, decoding=GREEDY, prompt=prompt))
        [reply] = [chunk.reply for chunk in chunks if chunk.reply]
        assert joined(chunks) == reply.text == cut_reply(free.decode(whole.tokens), [stop])
        assert stop not in joined(chunks)
        assert len(reply.tokens) < len(whole.tokens)  # and generation ended there
        assert engine.generate([context], decoding=GREEDY, prompt=prompt) == [reply]
    assert tried >= 4


def test_stops_end_each_row_on_its_own(tiny_model: Make, contexts: list[Dialogue]) -> None:
    engine = with_stops(tiny_model, "e")
    batch = engine.generate(contexts, decoding=GREEDY)
    assert said(batch) == said([engine.generate([context], decoding=GREEDY)[0] for context in contexts])
    assert len({len(reply.tokens) for reply in batch}) > 1


@given(st.lists(st.text("ab: R\n", max_size=3), max_size=12), st.sets(st.sampled_from([*PAPER_STOPS, "ab:", "a b"])))
def test_settled_text_only_grows_into_the_cut_reply(pieces: list[str], stops: set[str]) -> None:
    text, shown = "", ""
    for piece in pieces:
        text += piece
        settled = settled_text(text, list(stops))
        assert settled.startswith(shown)
        shown = settled
        if any(stop in text for stop in stops):
            assert settled == cut_reply(text, list(stops))
            break
    assert cut_reply(text, list(stops)).startswith(shown)


def test_unfinished_characters_and_space_are_held_back() -> None:
    assert settled_text(" a gull \N{REPLACEMENT CHARACTER}", []) == "a gull"
    assert settled_text("", []) == ""


def test_forced_and_free_prompts_mix_in_one_selection(engine: LocalEngine, contexts: list[Dialogue]) -> None:
    free = engine.select(contexts)
    mixed = engine.select(contexts, prompt=[1, None, 2, None])
    assert [mixed[0].prompt, mixed[2].prompt] == [1, 2]
    assert [mixed[1], mixed[3]] == [free[1], free[3]]
    assert [chosen.scores for chosen in mixed] == [chosen.scores for chosen in free]
    assert all(chosen.scores[chosen.prompt] == max(chosen.scores) for chosen in free)


def test_sticky_keeps_the_prompt_up_to_the_margin(engine: LocalEngine, contexts: list[Dialogue]) -> None:
    [free] = engine.select(contexts[:1])
    worst = min(range(3), key=lambda k: free.scores[k])
    [before] = engine.select(contexts[:1], prompt=worst)
    gap = free.scores[free.prompt] - free.scores[worst]
    assert gap > 0
    for threshold, prompt in ((gap * 1.01, worst), (gap * 0.99, free.prompt)):
        [chosen] = engine.select(contexts[:1], previous=[before], threshold=threshold)
        assert chosen.prompt == prompt
        [reply] = engine.generate(contexts[:1], decoding=GREEDY, previous=[before], threshold=threshold)
        assert reply == engine.generate(contexts[:1], decoding=GREEDY, prompt=prompt)[0]
        last = list(engine.stream(contexts[0], decoding=GREEDY, previous=before, threshold=threshold))[-1]
        assert last.reply == reply


def test_a_forced_prompt_overrides_sticky(engine: LocalEngine, contexts: list[Dialogue]) -> None:
    [before] = engine.select(contexts[:1], prompt=0)
    assert engine.select(contexts[:1], prompt=2, previous=[before], threshold=9.0)[0].prompt == 2


def test_sampled_selection_repeats_with_its_seed(engine: LocalEngine, contexts: list[Dialogue]) -> None:
    many = contexts * 10
    draws = [tuple(s.prompt for s in engine.select(many, rule="sample", seed=seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert set(draws[0]) == {0, 1, 2}


def test_no_contexts_no_replies(engine: LocalEngine) -> None:
    assert engine.generate([]) == engine.select([]) == []


@pytest.mark.parametrize("prompt", [3, -1, [0, 1, 2, 5]])
def test_an_unknown_prompt_is_refused(engine: LocalEngine, contexts: list[Dialogue], prompt: int | list[int]) -> None:
    with pytest.raises(UsageError, match="prompts 0 to 2"):
        engine.generate(contexts, prompt=prompt)


def test_one_value_for_each_context(engine: LocalEngine, contexts: list[Dialogue]) -> None:
    with pytest.raises(UsageError, match="prompt: 2 values for 4 contexts"):
        engine.generate(contexts, prompt=[0, 1])
    with pytest.raises(UsageError, match="previous: 1 values for 4 contexts"):
        engine.select(contexts, previous=[None])


def test_a_stream_reports_errors_and_leaves_no_worker(engine: LocalEngine, contexts: list[Dialogue]) -> None:
    with pytest.raises(UsageError, match="prompts 0 to 2"):
        engine.stream(contexts[0], prompt=9)
    with pytest.raises(DataError, match="window"):
        engine.stream(contexts[0].say("long " * 3000))
    stream = engine.stream(contexts[0], decoding=Decoding(max_new_tokens=2000))
    with pytest.raises(UsageError, match="max_new_tokens"):
        next(stream)
    assert not workers()
    assert engine.generate(contexts[:1], decoding=GREEDY)  # and the engine works on


@pytest.mark.parametrize("kind", ["top1", "fused", "gated"])
def test_the_adapter_says_who_speaks_where_nothing_else_is_said(
    kind: Mixture, tiny_model: Make, tiny_base: LoadedBase, dialogues: tuple[Dialogue, ...], tmp_path: Path
) -> None:
    """Saved, loaded, and asked without a kind: replies, weights and an evaluation are those of the kind itself."""
    model = tiny_model()
    model.speakers = Speakers(kind, gate_temperature=0.02)
    model.save_pretrained(tmp_path / "adapter")
    loaded = SPTModel.from_pretrained(tmp_path / "adapter", base=tiny_base)
    assert loaded.speakers == model.speakers
    engine, talk = LocalEngine(loaded), dialogues[0].context(2)
    meant, said = replace(FUSED, kind=None), replace(FUSED, kind=kind, gate_temperature=0.02)
    [reply] = engine.generate([talk], decoding=said)
    assert engine.generate([talk], decoding=meant) == [reply]
    assert loaded.generate([talk], decoding=meant)[0].tokens == loaded.generate([talk], decoding=said)[0].tokens
    assert engine.mixture(reply.selection, meant) == engine.mixture(reply.selection, said)
    assert (engine.mixture(reply.selection) is None) == (kind == "top1")
    alone = replace(FUSED, kind="top1")
    assert engine.generate([talk], decoding=meant, prompt=1) == engine.generate([talk], decoding=alone, prompt=1)
    drawn = {"rule": "random", "decoding": replace(meant, seed=1)}
    of_one = {"rule": "random", "decoding": replace(alone, seed=1)}
    assert engine.generate([talk], **drawn) == engine.generate([talk], **of_one), "a drawn prompt speaks alone"
    assert loaded.generate([talk], **drawn)[0].tokens == loaded.generate([talk], **of_one)[0].tokens
    assert loaded.generate([talk], decoding=replace(meant, num_beams=2)) == loaded.generate(
        [talk], decoding=replace(alone, num_beams=2)
    ), "beams follow one prompt"
    found = evaluate(loaded, dialogues[:1], settings=Settings(parts=("generation",), decoding=meant))
    assert (
        found.generations
        == evaluate(loaded, dialogues[:1], settings=Settings(parts=("generation",), decoding=said)).generations
    )
    assert found.result.settings["decoding"]["kind"] == kind
