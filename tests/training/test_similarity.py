"""M(C_i, C_j): every measure is a similarity of contexts on the scale 0 to 100."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from sptune.data.batch import TokenBatch, collate
from sptune.data.dialogue import Dialogue, Turn
from sptune.errors import ModelError, RecipeError
from sptune.model.spt import SPTModel
from sptune.text import chrf, sentence_bleu, token_jaccard
from sptune.training.similarity import (
    SimilarityKind,
    context_text,
    different_dialogues,
    make_similarity,
    text_matrix,
)

BEES = ("i keep bees by the river .", "my honey won a prize .")
BEES_TOO = ("i keep bees by the river .", "my dog is called button .")
MAPS = ("old maps cover all walls here .",)
TEXT_MEASURES = {"persona_bleu": sentence_bleu, "jaccard": token_jaccard, "chrf": chrf}


@pytest.fixture
def batch(tiny_model: Callable[..., SPTModel]) -> TokenBatch:
    """Five turns: two of a beekeeper, one of another, one of a mapmaker, one of a person without persona."""
    people = {"a": (BEES, 2), "b": (BEES_TOO, 1), "c": (MAPS, 1), "d": ((), 1)}
    dialogues = [
        Dialogue(name, persona, tuple(Turn(f"hello {n}", f"answer {n}") for n in range(turns)))
        for name, (persona, turns) in people.items()
    ]
    encoder = tiny_model().encoder
    return collate([s for talk in dialogues for s in encoder.encode(talk)], stop_id=encoder.stop_id)


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of 16 dimensions and 24 positions."""
    folder = tmp_path_factory.mktemp("encoder")
    words = {word for persona in (BEES, BEES_TOO, MAPS) for sentence in persona for word in sentence.split()}
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=24,
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture
def measure(
    tiny_model: Callable[..., SPTModel], encoder_folder: Path
) -> Callable[[SimilarityKind, TokenBatch], torch.Tensor]:
    backbone = tiny_model().backbone
    return lambda kind, batch: make_similarity(kind, backbone=backbone, encoder=str(encoder_folder))(batch)


@pytest.mark.parametrize("kind", get_args(SimilarityKind))
def test_every_measure_is_a_symmetric_table_of_0_to_100(measure, batch: TokenBatch, kind: SimilarityKind):
    table = measure(kind, batch)
    assert table.shape == (5, 5)
    assert bool((table >= 0).all())
    assert bool((table <= 100).all())
    torch.testing.assert_close(table, table.T)
    assert float(table[0, 0]) == pytest.approx(100, abs=1e-3)
    assert not table.requires_grad


@pytest.mark.parametrize("kind", ["persona_bleu", "jaccard", "chrf", "encoder"])
def test_alike_personas_are_more_alike(measure, batch: TokenBatch, kind: SimilarityKind):
    """Turns of one person: 100. Two beekeepers: between. A beekeeper and a mapmaker: least."""
    table = measure(kind, batch)
    assert float(table[0, 1]) == pytest.approx(100, abs=1e-3)
    assert float(table[0, 1]) > float(table[0, 2]) > float(table[0, 3])


@pytest.mark.parametrize("kind", TEXT_MEASURES)
def test_persona_measures_by_hand(measure, batch: TokenBatch, kind: SimilarityKind):
    table = measure(kind, batch)
    assert float(table[0, 2]) == pytest.approx(TEXT_MEASURES[kind](" ".join(BEES), " ".join(BEES_TOO)))
    assert float(table[2, 3]) == pytest.approx(TEXT_MEASURES[kind](" ".join(BEES_TOO), " ".join(MAPS)))


@pytest.mark.parametrize("kind", get_args(SimilarityKind))
def test_a_users_persona_counts_as_any_other_that_is_given(measure, batch: TokenBatch, kind: SimilarityKind):
    known = tuple(replace(talk, persona=(), partner_persona=talk.persona) for talk in batch.dialogues)
    torch.testing.assert_close(measure(kind, replace(batch, dialogues=known)), measure(kind, batch))


def test_jaccard_by_hand(measure, batch: TokenBatch):
    """Words of the two beekeepers: 12 and 12 (`.` is one), 8 in common of 16 in all."""
    ours, theirs = set(" ".join(BEES).split()), set(" ".join(BEES_TOO).split())
    assert (len(ours & theirs), len(ours | theirs)) == (8, 16)
    assert float(measure("jaccard", batch)[0, 2]) == 50.0


@pytest.mark.parametrize("kind", [*TEXT_MEASURES, "encoder"])
def test_people_without_persona_are_not_known_to_be_alike(measure, batch: TokenBatch, kind: SimilarityKind):
    assert measure(kind, batch)[4].tolist() == [0] * 5


def test_context_bleu_reads_history_and_question_but_no_response(measure, batch: TokenBatch):
    talk = batch.dialogues[0]
    assert context_text(talk, 0) == " ".join((*BEES, "hello 0"))
    assert context_text(talk, 1) == " ".join((*BEES, "hello 0", "answer 0", "hello 1"))
    expected = sentence_bleu(context_text(talk, 0), context_text(talk, 1))
    assert float(measure("context_bleu", batch)[0, 1]) == pytest.approx(expected)
    assert expected < 100


def test_embedding_similarity_is_the_cosine_of_mean_word_embeddings(
    measure, batch: TokenBatch, tiny_model: Callable[..., SPTModel]
):
    model = tiny_model()
    means = [
        model.backbone.embed(batch.input_ids[row, :length]).mean(0)
        for row, length in zip(batch.example_row.tolist(), batch.context_length.tolist(), strict=True)
    ]
    cosine = torch.cosine_similarity(means[0], means[3], dim=0)
    assert float(measure("embedding", batch)[0, 3]) == pytest.approx(100 * float(cosine), abs=1e-3)


def test_each_pair_of_different_texts_is_measured_once():
    asked: list[tuple[str, str]] = []

    def measure(a: str, b: str) -> float:
        asked.append((a, b))
        return 7.0

    table = text_matrix(["x", "y", "x", "z", "y"], measure)
    assert sorted(asked) == [("x", "y"), ("x", "z"), ("y", "z")]
    assert table[0].tolist() == [100, 7, 100, 7, 7]


def test_different_dialogues_goes_by_id(batch: TokenBatch):
    mask = different_dialogues(batch)
    assert mask[0].tolist() == [False, False, True, True, True]
    assert torch.equal(mask, mask.T)
    assert not bool(mask.diagonal().any())


# The sentence encoder.


def test_a_persona_longer_than_the_encoder_reads_is_cut(measure, batch: TokenBatch, encoder_folder: Path):
    long = replace(batch.dialogues[0], persona=("bees " * 500,))
    table = measure("encoder", replace(batch, dialogues=(long, *batch.dialogues[1:])))
    assert bool(torch.isfinite(table).all())


def test_encoder_needs_a_name(tiny_model: Callable[..., SPTModel]):
    with pytest.raises(RecipeError, match=r"losses\.contrastive\.encoder: missing"):
        make_similarity("encoder", backbone=tiny_model().backbone)


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated", "not json"])
def test_an_encoder_that_cannot_be_loaded_is_refused_by_name(
    tiny_model: Callable[..., SPTModel], encoder_folder: Path, tmp_path: Path, damage: str
):
    folder = tmp_path / "encoder"
    if damage != "missing":
        shutil.copytree(encoder_folder, folder)
    if damage == "empty":
        (folder / "config.json").unlink()
    if damage == "truncated":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:100])
    if damage == "not json":
        (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"losses\.contrastive\.encoder: .*cannot be loaded"):
        make_similarity("encoder", backbone=tiny_model().backbone, encoder=str(folder))
