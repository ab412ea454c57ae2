from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from serving_clients import GREEDY, Answer, answers, collect, saved, serve, varied

from model.architectures import CONFIGS, make_architecture
from sptune.data.dialogue import Dialogue, Turn
from sptune.engine.batching import BatchingEngine
from sptune.engine.local import LocalEngine
from sptune.engine.serving import Load, OverloadedError, ServingEngine, ServingRequest, UnavailableError
from sptune.errors import AdapterError, DataError, UsageError
from sptune.model.backbone import Backbone
from sptune.model.generate import Decoding
from sptune.model.load import LoadedBase
from sptune.model.mixture import Mixture, Speakers
from sptune.model.retriever import Retriever
from sptune.model.spt import Reply, SPTModel
from tiny import dummy_prefix_tokenizer, tiny_llama, tiny_spt

Make = Callable[..., SPTModel]
LONG = Decoding(max_new_tokens=400)


@pytest.fixture
def models(tiny_model: Make) -> dict[str, SPTModel]:
    """Two adapters that differ in everything a request can meet: numbers, K, L, template and stops."""
    second = varied(tiny_model(template="chat", count=5, length=2), seed=2)
    second.stops = ("e ", "zz")
    return {"one": varied(tiny_model(), seed=1), "two": second}


@pytest.fixture
def folders(models: dict[str, SPTModel], tmp_path: Path) -> dict[str, Path]:
    return {name: saved(model, tmp_path / name) for name, model in models.items()}


@pytest.fixture
def contexts(dialogues: tuple[Dialogue, ...]) -> list[Dialogue]:
    """Contexts of very different lengths."""
    return [talk.context(n) for talk in dialogues for n in range(len(talk.turns))]


class Passes:
    """Counts the forward passes of the base, which all tests share, and makes each last; raises in those that are named."""

    def __init__(self) -> None:
        self.count = 0
        self.tokens = 0
        self.seconds = 0.0
        self.failing: set[int] = set()

    def __call__(self, module: object, args: object, kwargs: dict[str, torch.Tensor | None]) -> None:
        self.count += 1
        if (embeddings := kwargs.get("inputs_embeds")) is not None:
            self.tokens += embeddings.shape[:2].numel()
        time.sleep(self.seconds)
        if self.count in self.failing:
            raise RuntimeError("out of memory")


@pytest.fixture
def passes(tiny_base: LoadedBase) -> Iterator[Passes]:
    hook = tiny_base.backbone.body.register_forward_pre_hook(counter := Passes(), with_kwargs=True)
    yield counter
    hook.remove()


def alone(model: SPTModel, request: ServingRequest) -> Reply:
    """What the engine for one user says to the same."""
    engine = LocalEngine(model)
    [reply] = engine.generate([request.context], decoding=request.decoding, prompt=request.prompt)
    return reply


def assert_equal(answer: Answer, reply: Reply, decoding: Decoding) -> None:
    assert (answer.text, answer.tokens) == (reply.text, len(reply.tokens))
    assert answer.selection.prompt == reply.selection.prompt
    assert answer.selection.scores == pytest.approx(reply.selection.scores, abs=1e-6)
    assert [piece.finish for piece in answer.pieces[:-1]] == [None] * (len(answer.pieces) - 1)
    if answer.finish == "length":
        assert answer.tokens == decoding.max_new_tokens


def test_the_batching_engine_is_a_serving_engine(tiny_base: LoadedBase) -> None:
    typed: ServingEngine = BatchingEngine(tiny_base)
    assert typed.base == "tiny"
    assert typed.load() == Load(0, 0, 16, 64)


def test_a_mixed_batch_says_what_each_would_be_told_alone(
    tiny_base: LoadedBase, models: dict[str, SPTModel], folders: dict[str, Path], contexts: list[Dialogue]
) -> None:
    """Greedy and sampled, any adapter, prompt and mixture of prompts, long and short, more requests than slots."""
    decodings = (
        GREEDY,
        Decoding(max_new_tokens=40),
        Decoding(max_new_tokens=20, temperature=1.0, seed=5),
        Decoding(max_new_tokens=30, temperature=0.7, top_p=0.8, seed=6),
        Decoding(max_new_tokens=30, no_repeat_ngram_size=2, no_repeat_history_ngram=2),
        Decoding(max_new_tokens=1),
        Decoding(max_new_tokens=25, kind="fused"),
        Decoding(max_new_tokens=15, kind="gated", gate_temperature=0.5, temperature=1.0, seed=7),
    )
    requests = [
        ServingRequest(name, context, decodings[n % len(decodings)], prompt=(None, 1)[n % 5 == 0])
        for n, (context, name) in enumerate((context, name) for context in contexts for name in models)
    ]

    async def visit(engine: BatchingEngine) -> list[Answer]:
        return await answers(engine, requests)

    given = serve(tiny_base, visit, adapters=folders, slots=5, prefill=64)
    for request, answer in zip(requests, given, strict=True):
        assert_equal(answer, alone(models[request.adapter or ""], request), request.decoding)
    assert {answer.finish for answer in given} == {"stop", "length"}
    assert len({answer.text for answer in given}) > len(requests) / 2


@pytest.mark.parametrize("name", CONFIGS)
def test_every_architecture(name: str, tiny_base: LoadedBase, contexts: list[Dialogue], tmp_path: Path) -> None:
    """Those that cannot be batched generate in turn: sliding windows, ALiBi."""
    tokenizer = tiny_base.tokenizer
    base = LoadedBase(Backbone(make_architecture(name, len(tokenizer)), base=name), tokenizer)
    model = varied(tiny_spt(base), seed=3)
    decodings = (GREEDY, replace(GREEDY, kind="fused"))
    requests = [ServingRequest("it", context, decodings[n % 2]) for n, context in enumerate(contexts[:8:2])]

    async def visit(engine: BatchingEngine) -> list[Answer]:
        return await answers(engine, requests)

    given = serve(base, visit, adapters={"it": saved(model, tmp_path / "it")}, prefill=50)
    for request, answer in zip(requests, given, strict=True):
        assert_equal(answer, alone(model, request), GREEDY)


def test_a_seed_repeats_and_no_seed_does_not(
    tiny_base: LoadedBase, folders: dict[str, Path], contexts: list[Dialogue]
) -> None:
    def asked(seed: int | None) -> ServingRequest:
        return ServingRequest("one", contexts[0], Decoding(max_new_tokens=12, temperature=1.5, seed=seed))

    async def visit(engine: BatchingEngine) -> list[Answer]:
        return await answers(engine, [asked(seed) for seed in (1, 1, 2, None, None)])

    same, again, other, free, free_too = (answer.text for answer in serve(tiny_base, visit, adapters=folders))
    assert same == again
    assert len({same, other, free, free_too}) == 4


def test_the_bare_model_and_a_text_to_continue(
    tiny_base: LoadedBase, models: dict[str, SPTModel], folders: dict[str, Path], contexts: list[Dialogue]
) -> None:
    text = "given persona: i mend nets"

    async def visit(engine: BatchingEngine) -> list[Answer]:
        requests = [
            ServingRequest(None, contexts[3], GREEDY),
            ServingRequest(None, None, GREEDY, text=text),
            ServingRequest("one", None, GREEDY, text=text, prompt=2),
        ]
        return await answers(engine, requests)

    bare, continued, prompted = serve(tiny_base, visit, adapters=folders)
    assert bare.selection is None is continued.selection
    assert prompted.selection.prompt == 2
    tokenizer, backbone = tiny_base.tokenizer, tiny_base.backbone
    ids = torch.tensor([tokenizer.encode(text)])
    for answer, embeddings in (
        (continued, backbone.embed(ids)),
        (prompted, torch.cat([models["one"].prompts.embeddings[2:], backbone.embed(ids)], dim=1)),
    ):
        new = backbone.model.generate(
            inputs_embeds=embeddings, max_new_tokens=16, do_sample=False, eos_token_id=tokenizer.eos_token_id
        )
        assert answer.text == tokenizer.decode(new[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    chat = tiny_spt(tiny_base, "chat", count=1, length=0, max_length=1024)
    assert bare.text == alone(chat, ServingRequest(None, contexts[3], GREEDY)).text


def test_stops_of_a_request_are_held_back_and_cut(
    tiny_base: LoadedBase, models: dict[str, SPTModel], folders: dict[str, Path], contexts: list[Dialogue]
) -> None:
    request = ServingRequest("one", contexts[0], Decoding(max_new_tokens=40))
    whole = alone(models["one"], request).text
    assert len(whole) > 20
    stops = (whole[10:14], "never said")

    async def visit(engine: BatchingEngine) -> Answer:
        return await collect(engine.submit(replace(request, stop=stops)))

    answer = serve(tiny_base, visit, adapters=folders)
    assert answer.text == whole[: whole.index(stops[0])].strip()
    assert answer.finish == "stop"
    assert 0 < answer.tokens < 40


def test_an_end_token_ends_the_reply_and_is_no_part_of_it(
    tiny_base: LoadedBase,
    tiny_model: Make,
    contexts: list[Dialogue],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = varied(tiny_model(learn_stop=False), seed=1)
    request = ServingRequest("it", contexts[0], GREEDY)
    tokens = alone(model, request).tokens
    monkeypatch.setattr(tiny_base.backbone.model.generation_config, "eos_token_id", tokens[5])

    async def visit(engine: BatchingEngine) -> Answer:
        return await collect(engine.submit(request))

    answer = serve(tiny_base, visit, adapters={"it": saved(model, tmp_path / "it")})
    assert (answer.finish, answer.tokens) == ("stop", tokens.index(tokens[5]))
    assert_equal(answer, alone(model, request), GREEDY)


@pytest.mark.parametrize("style", ["metaspace", "prepend"])
def test_a_continuation_keeps_the_space_that_joins_it_to_its_text(style: str) -> None:
    """Decoders of SentencePiece drop it where a text begins, which is not here."""
    tokenizer = dummy_prefix_tokenizer(style)
    base = LoadedBase(Backbone(tiny_llama(len(tokenizer)), base="spaced"), tokenizer)
    request = ServingRequest(None, None, GREEDY, text="i mend nets in", logprobs=2)
    ids = tokenizer("i mend nets in", return_tensors="pt").input_ids
    bias = torch.zeros(len(tokenizer))
    words = [number for piece, number in tokenizer.get_vocab().items() if piece[0] == "▁" and piece[1:].isalpha()]
    bias[words] = 100.0
    base.backbone.model.get_output_embeddings().register_forward_hook(lambda _, __, logits: logits + bias)
    new = base.backbone.model.generate(ids, max_new_tokens=16, do_sample=False, pad_token_id=0)[0]

    async def visit(engine: BatchingEngine) -> list[Answer]:
        return await answers(engine, [request])

    [answer] = serve(base, visit)
    assert "i mend nets in" + answer.text == tokenizer.decode(new, skip_special_tokens=True)
    assert answer.text[:1] == " "
    tokens = [one for piece in answer.pieces for one in piece.logprobs]
    assert "".join(one.token for one in tokens) == answer.text
    assert all(one.token in {other.token for other in one.top} for one in tokens)


def test_logprobs_are_the_models_own(
    tiny_base: LoadedBase, models: dict[str, SPTModel], folders: dict[str, Path], contexts: list[Dialogue]
) -> None:
    decoding = Decoding(max_new_tokens=6, temperature=2.0, seed=1)
    request = ServingRequest("one", contexts[0], decoding, prompt=0, logprobs=3)

    async def visit(engine: BatchingEngine) -> list[Answer]:
        return await answers(engine, [request, replace(request, logprobs=0), replace(request, logprobs=None)])

    three, none, off = serve(tiny_base, visit, adapters=folders)
    tokens = alone(models["one"], request).tokens
    model = models["one"]
    ids = torch.tensor([[*model.encoder.encode_context(contexts[0]).input_ids, *tokens]])
    embeddings = torch.cat([model.prompts.embeddings[:1], model.backbone.embed(ids)], dim=1)
    logits = model.backbone.head(model.backbone.hidden(embeddings)).detach()[0]
    logprobs = logits.log_softmax(1)[-len(tokens) - 1 : -1]
    given = [one for piece in three.pieces for one in piece.logprobs]
    assert [one.logprob for one in given] == pytest.approx(
        [float(row[token]) for row, token in zip(logprobs, tokens, strict=True)], abs=1e-4
    )
    for one, row in zip(given, logprobs, strict=True):
        assert [top.logprob for top in one.top] == pytest.approx(row.topk(3).values.tolist(), abs=1e-4)
        assert one.top[0].token == model.decode([int(row.argmax())])
    plain = [one for piece in none.pieces for one in piece.logprobs]
    assert [one.logprob for one in plain] == pytest.approx([one.logprob for one in given], abs=1e-4)
    assert not any(one.top for one in plain)
    assert not any(piece.logprobs for piece in off.pieces)
    assert {three.text, none.text, off.text} == {alone(model, request).text}


def test_a_text_is_continued_without_control_characters_and_halves_of_surrogate_pairs(
    tiny_base: LoadedBase, folders: dict[str, Path]
) -> None:
    requests = [ServingRequest("one", None, GREEDY, text=text) for text in ("once\nupon", "\ud800on\x1bce\nupon\udcff")]

    async def visit(engine: BatchingEngine) -> tuple[list[Answer], list[int]]:
        return await answers(engine, requests), [chosen.prompt for chosen in await engine.select(requests)]

    (plain, dirty), prompts = serve(tiny_base, visit, adapters=folders)
    assert (dirty.text, dirty.selection) == (plain.text, plain.selection)
    assert prompts == [plain.selection.prompt] * 2


def test_selection_is_that_of_the_engine_for_one_user(
    tiny_base: LoadedBase, models: dict[str, SPTModel], folders: dict[str, Path], contexts: list[Dialogue]
) -> None:
    local = LocalEngine(models["one"])
    free = local.select(contexts)
    worst = [min(range(3), key=lambda k: chosen.scores[k]) for chosen in free]
    requests = [ServingRequest("one", context, GREEDY) for context in contexts]
    kept = [replace(request, previous=k, threshold=9.0) for request, k in zip(requests, worst, strict=True)]
    left = [replace(request, previous=k) for request, k in zip(requests, worst, strict=True)]

    async def visit(engine: BatchingEngine) -> list[list[int]]:
        return [[s.prompt for s in await engine.select(some)] for some in (requests, kept, left)]

    before = [selection.prompt for selection in free]
    assert serve(tiny_base, visit, adapters=folders) == [before, worst, before]
    assert set(before) != {0}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"adapter": "three"}, AdapterError, "there is no adapter 'three'; there are: one, two"),
        ({"prompt": 3}, UsageError, "prompts 0 to 2"),
        ({"previous": -1}, UsageError, "prompts 0 to 2"),
        ({"decoding": Decoding(num_beams=2)}, UsageError, "num_beams"),
        ({"decoding": Decoding(max_new_tokens=150, kind="fused")}, UsageError, "holds 128 for a request for each of 3"),
        (
            {"adapter": "two", "decoding": Decoding(kind="gated")},
            UsageError,
            "5 prompts .* this server has 4; raise --slots",
        ),
        ({"decoding": Decoding(max_new_tokens=2000)}, UsageError, "window is 1024"),
        ({"decoding": Decoding(max_new_tokens=600)}, UsageError, "holds 512 for a request"),
        ({"context": Dialogue("x", (), ())}, DataError, "no turns"),
        ({"context": None, "text": ""}, DataError, "text: empty"),
        ({"context": None, "text": "\ud800\x1b"}, DataError, "text: empty"),
    ],
)
def test_bad_requests_fail_alone(
    change: dict[str, object],
    error: type[Exception],
    message: str,
    tiny_base: LoadedBase,
    folders: dict[str, Path],
    contexts: list[Dialogue],
) -> None:
    good = ServingRequest("one", contexts[0], GREEDY)

    async def visit(engine: BatchingEngine) -> None:
        stream = engine.submit(replace(good, **change))
        other = engine.submit(good)
        with pytest.raises(error, match=message):
            await stream.started()
        with pytest.raises(error, match=message):
            await anext(stream)
        assert (await collect(other)).text
        assert engine.load().running + engine.load().waiting == 0

    serve(tiny_base, visit, adapters=folders, places=512, slots=4)


@pytest.mark.parametrize("places", [16_384, 768])
@pytest.mark.parametrize(
    "speaking", [(None, None, 1), ("one", "top1", 1), ("one", "fused", 3), ("windowed", "top1", 1)]
)
def test_a_long_conversation_loses_old_turns_until_there_is_room_for_the_reply(
    tiny_base: LoadedBase,
    tiny_model: Make,
    folders: dict[str, Path],
    tmp_path: Path,
    places: int,
    speaking: tuple[str | None, Mixture | None, int],
) -> None:
    adapter, kind, speakers = speaking
    windowed = tiny_model(max_length=1024)
    adapters = {**folders, "windowed": saved(windowed, tmp_path / "windowed")}
    turns = tuple(Turn(f"what about map number {n} ?", "it shows the coast .") for n in range(120))
    talk = Dialogue("long", ("i keep old maps .",), (*turns, Turn("and you ?")))
    request = ServingRequest(adapter, talk, Decoding(max_new_tokens=128, kind=kind))
    short = replace(request, context=replace(talk, turns=talk.turns[-2:]), decoding=GREEDY)

    async def visit(engine: BatchingEngine) -> tuple[list[int], list[int]]:
        streams = [engine.submit(one) for one in (request, short)]
        for stream in streams:
            await stream.started()
        texts = [await collect(stream) for stream in streams]
        return [stream.prompt_tokens for stream in streams], [answer.tokens for answer in texts]

    (long, few), (said, _) = serve(tiny_base, visit, adapters=adapters, places=places)
    model = {None: None, "one": tiny_model(), "windowed": windowed}[adapter]
    room = min(1024, places // speakers) - 128
    widest = 1024 if model is None else model.encoder.context_budget + 4
    assert few < long <= min(room, widest)
    assert long > min(room, widest) - 80  # no more turns are dropped than have to be
    assert said <= 128


def test_a_message_that_leaves_no_room_for_the_reply_is_refused(tiny_base: LoadedBase) -> None:
    words = tiny_base.tokenizer.decode(tiny_base.tokenizer.encode("what about the nets ? " * 200)[:950])
    talk = Dialogue("long", (), (Turn("hi", "hello"), Turn(words)))

    async def visit(engine: BatchingEngine) -> None:
        stream = engine.submit(ServingRequest(None, talk, Decoding(max_new_tokens=128)))
        with pytest.raises(UsageError, match=r"max_new_tokens: .* window is 1024"):
            await stream.started()

    serve(tiny_base, visit)


def test_an_adapter_says_who_speaks_where_a_request_does_not(
    tiny_base: LoadedBase, models: dict[str, SPTModel], contexts: list[Dialogue], tmp_path: Path
) -> None:
    models["one"].speakers = Speakers("gated", gate_temperature=0.4)
    folder = saved(models["one"], tmp_path / "meant")
    requests = [ServingRequest("meant", contexts[0], replace(GREEDY, kind=kind)) for kind in (None, "gated", "top1")]

    async def visit(engine: BatchingEngine) -> list[Answer]:
        assert engine.adapters.describe("meant").decoding == "gated"
        return await answers(engine, requests)

    given = serve(tiny_base, visit, adapters={"meant": folder})
    for request, answer in zip(requests, given, strict=True):
        assert_equal(answer, alone(models["one"], request), GREEDY)
    assert given[0].text == given[1].text != given[2].text


def test_prompts_that_speak_together_take_a_slot_each(
    tiny_base: LoadedBase, models: dict[str, SPTModel], folders: dict[str, Path], contexts: list[Dialogue]
) -> None:
    """Two mixtures of three do not fit into five slots, so the second waits, and what came after it."""
    mixture = ServingRequest("one", contexts[0], replace(LONG, kind="fused"))
    single = ServingRequest("one", contexts[0], LONG)

    async def visit(engine: BatchingEngine) -> None:
        first = engine.submit(mixture)
        await anext(first)
        second = engine.submit(mixture)
        await second.started()
        beside = engine.submit(single)
        await beside.started()
        assert first.weights == (1 / 3,) * 3
        assert beside.weights is None
        await asyncio.sleep(0.05)
        assert engine.load().running == 1, "first come, first served"
        await first.aclose()
        await anext(beside)
        assert engine.load().running == 2
        await second.aclose()
        await beside.aclose()

    serve(tiny_base, visit, adapters=folders, slots=5)


def test_requests_without_meaning_are_refused(contexts: list[Dialogue]) -> None:
    for change in ({"text": "a"}, {"stop": ("",)}, {"threshold": -1.0}, {"logprobs": -1}):
        with pytest.raises(UsageError, match=next(iter(change)) if "text" not in change else "context"):
            replace(ServingRequest("one", contexts[0], GREEDY), **change)


@pytest.mark.parametrize("setting", [{"slots": 0}, {"queue_limit": -1}, {"places": 10}, {"prefill": 0}])
def test_settings_out_of_range_are_refused(setting: dict[str, int], tiny_base: LoadedBase) -> None:
    with pytest.raises(UsageError, match=next(iter(setting))):
        BatchingEngine(tiny_base, **setting)


def test_the_base_has_no_prompts_to_select(tiny_base: LoadedBase, contexts: list[Dialogue]) -> None:
    async def visit(engine: BatchingEngine) -> None:
        with pytest.raises(UsageError, match="name an adapter"):
            await engine.select([ServingRequest(None, contexts[0], GREEDY)])

    serve(tiny_base, visit)


def test_a_closed_stream_frees_its_slot_within_one_token(
    tiny_base: LoadedBase, folders: dict[str, Path], contexts: list[Dialogue], passes: Passes
) -> None:
    passes.seconds = 0.02

    async def visit(engine: BatchingEngine) -> int:
        async with aclosing(engine.submit(ServingRequest("one", contexts[0], LONG))) as stream:
            await anext(stream)
            assert engine.load().running == 1
        at_close = passes.count
        while engine.load().running:
            await asyncio.sleep(0.001)
        assert [piece.finish async for piece in stream][-1:] != ["length"]
        return passes.count - at_close

    assert serve(tiny_base, visit, adapters=folders, slots=1) <= 1


def test_closing_while_waiting_leaves_the_queue(
    tiny_base: LoadedBase, folders: dict[str, Path], contexts: list[Dialogue], passes: Passes
) -> None:
    passes.seconds = 0.005
    request = ServingRequest("one", contexts[0], LONG)

    async def visit(engine: BatchingEngine) -> None:
        first = engine.submit(request)
        await anext(first)
        second, third = engine.submit(request), engine.submit(request)
        await second.started()
        assert engine.load() == Load(1, 2, 1, 2)
        with pytest.raises(OverloadedError, match="all 1 slots are busy and 2 requests wait") as refused:
            engine.submit(request)
        assert refused.value.retry_after >= 1
        await second.aclose()
        await third.aclose()
        await second.aclose()  # does nothing
        while engine.load().waiting:
            await asyncio.sleep(0.001)
        fourth = engine.submit(replace(request, decoding=GREEDY))
        await first.aclose()
        assert (await collect(fourth)).finish == "length"

    serve(tiny_base, visit, adapters=folders, slots=1, queue_limit=2)


def test_a_late_request_joins_and_does_not_wait_for_the_others(
    tiny_base: LoadedBase, models: dict[str, SPTModel], folders: dict[str, Path], contexts: list[Dialogue]
) -> None:
    early = ServingRequest("one", contexts[0], LONG)
    late = ServingRequest("one", contexts[1], GREEDY)

    async def visit(engine: BatchingEngine) -> tuple[Answer, int]:
        async with aclosing(engine.submit(early)) as stream:
            first = await anext(stream)
            answer = await collect(engine.submit(late))
            return answer, engine.load().running + first.tokens

    answer, proof = serve(tiny_base, visit, adapters=folders)
    assert_equal(answer, alone(models["one"], late), GREEDY)
    assert proof >= 2


def test_a_conversation_runs_only_what_is_new(
    tiny_base: LoadedBase,
    models: dict[str, SPTModel],
    folders: dict[str, Path],
    dialogues: tuple[Dialogue, ...],
    passes: Passes,
) -> None:
    """Two conversations at once, turn by turn: the same answers, for less than half of the work. In one, all prompts speak together."""
    talks = [dialogues[0], dialogues[3]]

    async def visit(engine: BatchingEngine) -> list[tuple[ServingRequest, Answer]]:
        passes.tokens = 0
        given = []
        for turn in range(3):
            requests = [
                ServingRequest("one", talks[0].context(turn), GREEDY, prompt=1),
                ServingRequest("one", talks[1].context(turn), replace(GREEDY, kind="fused")),
            ]
            given += zip(requests, await answers(engine, requests), strict=True)
        return given

    given = serve(tiny_base, visit, adapters=folders)
    encoder = models["one"].encoder
    speakers = [1 if request.prompt is not None else models["one"].prompts.count for request, _ in given]
    contexts = sum(
        n * len(encoder.encode_context(request.context).input_ids)
        for n, (request, _) in zip(speakers, given, strict=True)
    )
    new = sum(n * answer.tokens for n, (_, answer) in zip(speakers, given, strict=True))
    assert passes.tokens - new < 0.6 * contexts
    for request, answer in given:
        assert_equal(answer, alone(models["one"], request), GREEDY)


def test_memory_for_keys_and_values_is_bounded(
    tiny_base: LoadedBase, models: dict[str, SPTModel], folders: dict[str, Path], contexts: list[Dialogue]
) -> None:
    """With room for 256 places, long replies wait for each other though slots are free."""
    request = ServingRequest("one", contexts[0], Decoding(max_new_tokens=120))

    async def visit(engine: BatchingEngine) -> tuple[list[Answer], int]:
        most = 0

        async def watch() -> None:
            nonlocal most
            while True:
                most = max(most, engine.load().running)
                await asyncio.sleep(0.002)

        watching = asyncio.create_task(watch())
        given = await answers(engine, [request] * 3)
        watching.cancel()
        return given, most

    given, most = serve(tiny_base, visit, adapters=folders, slots=8, places=256)
    assert most == 1
    assert {answer.text for answer in given} == {alone(models["one"], request).text}


def test_an_adapter_whose_numbers_overflow_harms_nobody(
    tiny_base: LoadedBase, contexts: list[Dialogue], tmp_path: Path
) -> None:
    """Its row's keys and values are not finite; others run beside it, and after it in the same slot."""
    backbone = Backbone(make_architecture("gpt2", len(tiny_base.tokenizer)), base="gpt2")
    base = LoadedBase(backbone, tiny_base.tokenizer)
    model = varied(tiny_spt(base), seed=1)
    bad = tiny_spt(base, retriever=Retriever("linear", dim=32, keys=3))
    with torch.no_grad():
        bad.prompts.embeddings[1] = 3e38
    folders = {"good": saved(model, tmp_path / "good"), "bad": saved(bad, tmp_path / "bad")}
    good = [ServingRequest("good", context, GREEDY) for context in contexts[:3]]

    async def visit(engine: BatchingEngine) -> list[Answer]:
        beside = [engine.submit(request) for request in good]
        for _ in range(3):
            with pytest.raises(UnavailableError, match="not finite"):
                await collect(engine.submit(ServingRequest("bad", contexts[3], GREEDY, prompt=1)))
        assert (await collect(engine.submit(ServingRequest("bad", contexts[3], GREEDY, prompt=2)))).text
        return [await collect(stream) for stream in beside] + await answers(engine, good)

    given = serve(base, visit, adapters=folders, slots=4)
    for request, answer in zip(good * 2, given, strict=True):
        assert_equal(answer, alone(model, request), GREEDY)


def test_a_failing_model_fails_its_batch_and_no_more(
    tiny_base: LoadedBase,
    models: dict[str, SPTModel],
    folders: dict[str, Path],
    contexts: list[Dialogue],
    passes: Passes,
) -> None:
    request = ServingRequest("one", contexts[0], GREEDY)

    async def visit(engine: BatchingEngine) -> Answer:
        passes.failing = {passes.count + 4}
        with pytest.raises(UnavailableError, match=r"the model failed \(RuntimeError\)"):
            await collect(engine.submit(request))
        return await collect(engine.submit(request))

    answer = serve(tiny_base, visit, adapters=folders)
    assert_equal(answer, alone(models["one"], request), GREEDY)


def test_stopping_drains_or_ends_what_is_open(
    tiny_base: LoadedBase, folders: dict[str, Path], contexts: list[Dialogue], passes: Passes
) -> None:
    request = ServingRequest("one", contexts[0], GREEDY)

    async def visit(engine: BatchingEngine) -> None:
        first = asyncio.create_task(collect(engine.submit(request)))
        await asyncio.sleep(0)
        await engine.stop(drain=30)
        assert (await first).finish == "length"
        with pytest.raises(UnavailableError, match="starting or stopping"):
            engine.submit(request)
        with pytest.raises(UnavailableError):
            await engine.select([request])
        await engine.start()
        passes.seconds = 0.01
        running = engine.submit(replace(request, decoding=LONG))
        await anext(running)
        streams = [running, engine.submit(request), engine.submit(request)]
        await engine.stop()
        for stream in streams:
            with pytest.raises(UnavailableError, match="stops"):
                await collect(stream)
        assert engine.load() == Load(0, 0, 1, 64)

    serve(tiny_base, visit, adapters=folders, slots=1)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("sptune-batch")]
