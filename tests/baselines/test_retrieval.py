"""RAG: what is found, that it is never the dialogue at hand, and that turns stay what each is alone."""

from __future__ import annotations

import doctest
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from small_method import Fitted, Maker, small_recipe
from transformers import BertConfig, BertModel

from small_run import talks
from sptune import build
from sptune.baselines import front, retrieval
from sptune.baselines.examples import Shelf
from sptune.baselines.method import TrainingData
from sptune.baselines.retrieval import Bm25Index, DenseIndex, ExampleSearch, holds, make_index, word_embedding
from sptune.data.batch import collate
from sptune.data.dialogue import Dialogue, Turn
from sptune.model.load import LoadedBase
from tiny import packed

KINDS = ("bm25", "dense")


def harbour(name: str, message: str = "what do you do ?") -> Dialogue:
    return Dialogue(name, ("i mend nets in the harbour .",), (Turn(message, "i mend nets ."), Turn("why ?", name)))


def search(base: LoadedBase, dialogues: list[Dialogue], kind: str, count: int = 1) -> ExampleSearch:
    encoder = build.make_bare_model(small_recipe(), base=base).encoder
    return ExampleSearch(Shelf(dialogues, encoder=encoder, count=count), kind=kind, base=base)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_alike_is_found(tiny_base: LoadedBase, kind: str):
    others = [Dialogue(f"other-{n}", ("i bake bread .",), (Turn(f"loaf {n} ?", "rye ."),)) for n in range(5)]
    find = search(tiny_base, [*others[:2], harbour("sea"), *others[2:]], kind)
    query = Dialogue("new", ("i mend nets .",), (Turn("what do you do in the harbour ?"),))
    assert "i mend nets in the harbour ." in find(query.persona, query.turns)


@pytest.mark.parametrize("kind", KINDS)
def test_a_dialogue_of_the_training_data_never_finds_itself(tiny_base: LoadedBase, kind: str):
    dialogues = talks(12)
    find = search(tiny_base, dialogues, kind, count=3)
    examples = find._shelf.examples
    for talk in dialogues:
        for n in range(len(talk.turns)):
            for start in range(n + 1):  # the oldest turns may have been dropped
                context = replace(talk.context(n), turns=talk.context(n).turns[start:])
                found = find.find(context.persona, context.turns)
                assert len(found) == 3
                assert all(examples[number].dialogue.id != talk.id for number in found)


@pytest.mark.parametrize("kind", KINDS)
def test_nor_a_copy_of_itself_under_another_name(tiny_base: LoadedBase, kind: str):
    find = search(tiny_base, [harbour("same"), replace(harbour("same"), id="copy"), *talks(2)], kind, count=4)
    shown = find(harbour("same").persona, harbour("same").context(0).turns)
    assert "harbour" not in shown


def test_training_sequences_never_show_their_own_responses(
    make: Maker, tiny_base: LoadedBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Seen in what the trainer itself is given."""
    dialogues = [
        Dialogue(
            f"talk-{n}",
            talk.persona,
            tuple(replace(turn, response=f"answer {n} {m}") for m, turn in enumerate(talk.turns)),
        )
        for n, talk in enumerate(talks(8))
    ]
    seen = []
    train = build.make_trainer

    def spy(*arguments: object, **named: object) -> object:
        trainer = train(*arguments, **named)  # type: ignore[arg-type]
        seen.extend(trainer.sequences)
        return trainer

    monkeypatch.setattr(build, "make_trainer", spy)
    recipe = small_recipe(training={"max_steps": 1})
    make("spt", recipe=recipe, rag="bm25", examples=2).fit(TrainingData(dialogues), folder=tmp_path, seed=0)
    assert len(seen) >= 8
    for sequence in seen:
        for span in sequence.spans:
            context = tiny_base.tokenizer.decode(sequence.input_ids[: span.context_length])
            examples, own = context.rsplit("\n\n", 1)
            number = sequence.dialogue.id.removeprefix("talk-")
            assert f"answer {number} " not in examples
            assert "answer " in examples
            assert f"answer {number} {span.turn}" not in own


def test_the_gold_response_is_never_read(fitted: Fitted):
    method, folder = fitted("rag", examples=2)
    encoder = method.load(folder).encoder
    for talk in talks(3, seed=6):
        last = len(talk.turns) - 1
        other = replace(talk, turns=(*talk.turns[:last], replace(talk.turns[last], response="something else entirely")))
        contexts = []
        for one in (talk, other):
            sequence = encoder.encode(one)[-1]
            contexts.append(sequence.input_ids[: sequence.spans[-1].context_length])
        assert contexts[0] == contexts[1] == encoder.encode_context(talk.context(last)).input_ids


@pytest.mark.parametrize("rag", KINDS)
def test_packed_turns_are_what_each_is_alone(fitted: Fitted, rag: str):
    method, folder = fitted("rag", examples=2, rag=rag)
    model = method.load(folder)
    dialogues = talks(3, seed=6, turns=3)
    batch = packed(model, tuple(dialogues))
    with torch.no_grad():
        together = model(batch).target_logprobs[0]
        alone = []
        for talk in dialogues:
            for n, turn in enumerate(talk.turns):
                context = model.encoder.encode_context(talk.context(n)).input_ids
                own = Dialogue(talk.id, talk.persona, (*talk.turns[:n], turn))
                (sequence,) = model.encoder.encode(own)[-1:]
                assert sequence.input_ids[: len(context)] == context
                one = collate([replace(sequence, spans=sequence.spans[-1:])], stop_id=model.encoder.stop_id)
                alone.append(model(one).target_logprobs[0])
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)


def test_each_turn_has_examples_of_its_own(fitted: Fitted):
    """So that a dialogue is more than one sequence; were it one, the test above would show little."""
    method, folder = fitted("rag", examples=2)
    assert any(len(method.load(folder).encoder.encode(talk)) > 1 for talk in talks(3, seed=6, turns=3))


def test_the_search_gives_the_same_again(tiny_base: LoadedBase):
    first, second = (search(tiny_base, talks(12), "bm25", count=3) for _ in range(2))
    for talk in talks(5, seed=3):
        context = talk.context(0)
        found = first.find(context.persona, context.turns)
        assert found == first.find(context.persona, context.turns) == second.find(context.persona, context.turns)
    assert first._find.cache_info().hits == 5


def test_equals_keep_the_order_of_the_data(tiny_base: LoadedBase):
    find = search(tiny_base, [harbour(name) for name in ("a", "b", "c")], "bm25", count=2)
    assert find.find(("nobody .",), (Turn("xyzzy"),)) == (0, 1)


def test_bm25_by_hand():
    """One of two texts holds the word; Lucene's form: idf = ln(1 + (2 - 1 + 0.5) / (1 + 0.5)) = ln 2, times 1 / (1 + 1.5)."""
    index = Bm25Index(["boats", "bread"])
    assert index.scores("Boats!").tolist() == pytest.approx([0.2772589, 0.0])
    assert index.scores("?").tolist() == [0, 0]


def test_dense_scores_are_centred_cosines():
    vectors = {"east": [1.0, 5.0], "west": [-1.0, 5.0], "east too": [3.0, 5.0]}
    index = DenseIndex(["east", "west"], embed=lambda text: torch.tensor(vectors[text]))
    assert index.scores("east too").tolist() == pytest.approx([1, -1])


def test_a_word_embedding_is_the_mean_of_the_table_s_rows(tiny_base: LoadedBase):
    ids = tiny_base.tokenizer.encode("nets in the harbour", add_special_tokens=False)
    embed = word_embedding(tiny_base)
    assert torch.allclose(embed("nets in the harbour"), tiny_base.backbone.embedding_table[ids].mean(0), atol=1e-6)
    assert embed("").tolist() == [0.0] * 32


def test_a_sentence_encoder_can_take_the_place_of_word_embeddings(tiny_base: LoadedBase, tmp_path: Path):
    torch.manual_seed(0)
    width = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(tiny_base.tokenizer), **width)).save_pretrained(tmp_path)
    tiny_base.tokenizer.save_pretrained(tmp_path)
    texts = ["nets in the harbour", "rye bread", "old maps"]
    index = make_index("dense", texts, base=tiny_base, encoder=str(tmp_path))
    for number, text in enumerate(texts):
        assert index.scores(text).argmax() == number


def test_a_context_without_its_oldest_turns_is_still_the_dialogue():
    talk = Dialogue("a", ("i sail .",), tuple(Turn(f"q{n}", f"r{n}") for n in range(3)))
    for start in range(3):
        said = [(turn.user, turn.response) for turn in talk.context(2).turns[start:]]
        assert holds(talk, talk.persona, said)
        assert not holds(talk, ("i fly .",), said)
    assert not holds(talk, talk.persona, [("q0", "r0"), ("q2", None)])
    assert not holds(talk, talk.persona, [("q2", "r2"), ("q3", None)])


@pytest.mark.parametrize("module", [front, retrieval])
def test_the_examples_in_the_docstrings_run(module: ModuleType):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0
