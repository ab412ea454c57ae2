"""BERTScore with a tiny random encoder on disk, without network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_encoder import save_encoder
from torchmetrics.functional.text.bert import bert_score
from transformers import BertTokenizerFast, GPT2Config, GPT2Model, PreTrainedTokenizerFast

from sptune.errors import ModelError
from sptune.evaluation.metrics.bertscore import (
    BertScore,
    Encoder,
    bertscore,
    bertscores,
    is_here,
    load_encoder,
    tuned_layer,
)

PREDICTIONS = ["i like to sail boats", "hello", "my dog is old . we go out", "cats", "we go"]
REFERENCES = ["my dog", "i like cats and boats a lot", "hello", "cats", "we go out a lot"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return load_encoder(str(folder))


def reference_score(prediction: str, reference: str, encoder: Encoder) -> BertScore:
    """The definition, worked out on the encoder's own hidden states: no start and end token, no negative match."""
    vectors = []
    for text in (prediction, reference):
        tokens = encoder.tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            vectors.append(torch.nn.functional.normalize(encoder.model(**tokens).last_hidden_state[0, 1:-1], dim=-1))
    cosines = (vectors[0] @ vectors[1].T).clamp(min=0.0)
    precision, recall = cosines.max(1).values.mean().item(), cosines.max(0).values.mean().item()
    return BertScore(100 * precision, 100 * recall, 100 * 2 * precision * recall / (precision + recall))


def test_equals_the_definition_and_the_library(encoder: Encoder) -> None:
    for prediction, reference in zip(PREDICTIONS, REFERENCES, strict=True):
        ours = bertscore([prediction], [reference], encoder)
        expected = reference_score(prediction, reference, encoder)
        library = bert_score(
            [prediction], [reference], model=encoder.model, user_tokenizer=encoder.tokenizer, max_length=32
        )
        for part in ("precision", "recall", "f1"):
            assert getattr(ours, part) == pytest.approx(getattr(expected, part), abs=1e-4)
            assert getattr(ours, part) == pytest.approx(100 * float(library[part]), abs=1e-6)


def test_a_batch_is_the_mean_of_its_pairs_in_any_order(encoder: Encoder) -> None:
    together = bertscore(PREDICTIONS, REFERENCES, encoder)
    alone = [bertscore([a], [b], encoder) for a, b in zip(PREDICTIONS, REFERENCES, strict=True)]
    assert together.f1 == pytest.approx(sum(one.f1 for one in alone) / 5, abs=1e-6)
    assert bertscore(PREDICTIONS[::-1], REFERENCES[::-1], encoder) == together


def test_each_reply_has_the_score_that_it_has_alone(encoder: Encoder) -> None:
    each = bertscores([*PREDICTIONS, PREDICTIONS[0]], [*REFERENCES, REFERENCES[0]], encoder)
    fresh = replace(encoder, scores={})
    assert each == [bertscore([a], [b], fresh) for a, b in zip(PREDICTIONS, REFERENCES, strict=True)] + [each[0]]
    assert len({one.f1 for one in each}) == len(PREDICTIONS)
    assert len(fresh.scores) == len(PREDICTIONS), "what was scored is not scored again"


def test_identical_is_100_and_symmetric_roles(encoder: Encoder) -> None:
    assert bertscore(REFERENCES, REFERENCES, encoder).f1 == pytest.approx(100.0, abs=1e-3)
    there, back = bertscore(PREDICTIONS, REFERENCES, encoder), bertscore(REFERENCES, PREDICTIONS, encoder)
    assert (there.precision, there.recall) == pytest.approx((back.recall, back.precision), abs=1e-4)


def test_empty_replies_score_0_and_stay_in_the_mean(encoder: Encoder) -> None:
    half = bertscore(["cats", " "], ["cats", "hello"], encoder)
    assert (half.precision, half.recall, half.f1) == pytest.approx((50.0, 50.0, 50.0), abs=1e-3)
    assert bertscore(["", "\u200b"], ["cats", "hello"], encoder) == BertScore(0.0, 0.0, 0.0)


def test_texts_beyond_the_window_are_cut(encoder: Encoder) -> None:
    assert bertscore(["cats " * 100], ["cats " * 90], encoder).f1 == pytest.approx(100.0, abs=1e-3)


def test_the_layer_is_the_one_told(encoder: Encoder) -> None:
    first = Encoder(encoder.name, encoder.model, encoder.tokenizer, 1, encoder.max_length)
    assert bertscore(PREDICTIONS, REFERENCES, first).f1 != pytest.approx(bertscore(PREDICTIONS, REFERENCES, encoder).f1)
    assert encoder.layer is None
    assert tuned_layer("microsoft/deberta-xlarge-mnli") == tuned_layer("/models/deberta-xlarge-mnli") == 40


def test_an_encoder_that_is_not_here_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere"):
        load_encoder(str(tmp_path / "nowhere"))


def test_an_encoder_is_looked_for_without_being_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_here(str(folder))
    for missing in (tmp_path, tmp_path / "nowhere", "owner/never-downloaded", "no//id"):
        assert not is_here(str(missing))
    cached = tmp_path / "models--owner--name"
    (cached / "snapshots" / "abc").mkdir(parents=True)
    (cached / "snapshots" / "abc" / "config.json").write_text("{}")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert is_here("owner/name"), "a download"


def test_a_model_that_is_no_encoder_is_refused(folder: Path, tmp_path: Path) -> None:
    GPT2Model(GPT2Config(vocab_size=24, n_positions=16, n_embd=8, n_layer=1, n_head=1)).save_pretrained(tmp_path)
    backend = BertTokenizerFast.from_pretrained(folder).backend_tokenizer
    backend.post_processor = None
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="start and one end token"):
        load_encoder(str(tmp_path))
