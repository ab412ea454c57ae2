"""All metrics together: profiles, what is missing and why, human figures, per-reply scores."""

from __future__ import annotations

import json
import math
import random
from dataclasses import FrozenInstanceError, asdict, replace

import numpy as np
import pytest

from sptune.errors import ModelError, UsageError
from sptune.evaluation.metrics import bertscore, meteor, profile
from sptune.evaluation.metrics.bertscore import BertScore
from sptune.evaluation.metrics.diversity import distinct
from sptune.evaluation.metrics.profile import Reply, compute, corpus_scores, per_reply
from sptune.evaluation.metrics.resampling import bleu_of_rows, distinct_of_rows

SAILOR = ("i live on a wooden sailboat .", "my two dogs travel with me .")
BAKER = ("i bake rye bread at night .", "my dogs hate flour .")
REPLIES = [
    Reply("i live on a boat .", "i live on a wooden boat .", SAILOR, "one", 0),
    Reply("The dogs come too!", "my two dogs come along .", SAILOR, "one", 1),
    Reply("", "rye bread , mostly .", BAKER, "two", 0),
    Reply("i bake at night , and you ?", "i bake at night , do you cook ?", BAKER, "two", 1),
    Reply("i bake at night , and you ?", "no , i sleep then .", BAKER, "two", 2),
]
BERTSCORE = {"bertscore_f1", "bertscore_precision", "bertscore_recall"}
REFERENCE_FREE = {"dist1", "dist2", "ead1", "ead2", "entropy4", "self_bleu", "persona_recall", "copy_rate", "words"}
REFERENCE_FREE |= {"repetition", "unique"}
OVERLAP = {"f1", "bleu", "rouge1", "rouge2", "rougeL"}


class EmptyWordNet:
    def synsets(self, word: str) -> list[object]:
        return []


@pytest.fixture(autouse=True)
def no_wordnet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meteor, "find_wordnet", lambda: None)


@pytest.mark.parametrize("name", ["paper", "standard"])
def test_every_value_has_a_rule_and_every_absence_a_reason(name: str) -> None:
    report = compute(REPLIES, profile=name)
    assert set(report.values) == OVERLAP | REFERENCE_FREE | {"empty"}
    assert set(report.rules) == set(report.values)
    assert set(report.missing) == BERTSCORE | {"meteor"}
    assert set(report.human) == REFERENCE_FREE
    assert all(math.isfinite(value) for value in (*report.values.values(), *report.human.values()))
    assert "nltk.downloader wordnet" in report.missing["meteor"]
    assert "encoder" in report.missing["bertscore_f1"]
    json.dumps(asdict(report))


def test_empty_predictions_are_counted_not_dropped() -> None:
    report = compute(REPLIES, profile="paper")
    assert (report.replies, report.empty_replies, report.values["empty"]) == (5, 1, 20.0)
    without = [one for one in REPLIES if one.prediction]
    assert report.values["f1"] == pytest.approx(compute(without, profile="paper").values["f1"] * 4 / 5)
    nothing = compute([replace(one, prediction="") for one in REPLIES], profile="standard").values
    assert nothing.pop("empty") == 100.0
    assert nothing.pop("unique") == 20.0
    assert set(nothing.values()) == {0.0}


@pytest.mark.parametrize("name", ["paper", "standard"])
def test_replies_equal_to_the_references_are_perfect_and_human(name: str) -> None:
    report = compute([replace(one, prediction=one.reference) for one in REPLIES], profile=name)
    assert [report.values[metric] for metric in sorted(OVERLAP)] == pytest.approx([100.0] * len(OVERLAP))
    assert {metric: report.values[metric] for metric in REFERENCE_FREE} == report.human


def test_order_does_not_matter() -> None:
    shuffled = random.Random(1).sample(REPLIES, len(REPLIES))
    assert compute(shuffled, profile="paper") == compute(REPLIES, profile="paper")


def test_profiles_follow_their_rules() -> None:
    paper, standard = compute(REPLIES, profile="paper"), compute(REPLIES, profile="standard")
    assert paper.values["words"] == pytest.approx((6 + 4 + 0 + 8 + 8) / 5)
    assert standard.values["words"] == pytest.approx((5 + 4 + 0 + 6 + 6) / 5)
    assert paper.values["bleu"] == standard.values["bleu"]
    assert paper.values["f1"] != standard.values["f1"]
    assert "white-space" in paper.rules["f1"]
    assert "ParlAI" in standard.rules["f1"]
    assert "no stemming" in paper.rules["rouge1"]
    assert "Porter" in standard.rules["rouge1"]
    assert "tok:13a" in paper.rules["bleu"]


def test_per_reply_scores_average_to_the_report() -> None:
    report, each = compute(REPLIES, profile="standard"), per_reply(REPLIES, "standard")
    assert len(each) == len(REPLIES)
    for metric in ("f1", "rouge1", "rouge2", "rougeL", "words"):
        assert np.mean([row[metric] for row in each]) == pytest.approx(report.values[metric])
    assert set(each[2].values()) == {0.0}


@pytest.mark.parametrize("name", ["paper", "standard"])
def test_corpus_scores_of_all_rows_are_those_of_the_report(name: str) -> None:
    report, rows = compute(REPLIES, profile=name), np.arange(len(REPLIES))
    for metric, score in corpus_scores(REPLIES, name).items():
        assert score(rows) == pytest.approx(report.values[metric], abs=1e-6)


def test_corpus_scores_of_some_rows_are_those_of_a_smaller_corpus() -> None:
    rows = np.array([3, 0, 0, 4])
    chosen = [REPLIES[row] for row in rows]
    report = compute(chosen, profile="paper")
    for metric, score in corpus_scores(REPLIES, "paper").items():
        assert score(rows) == pytest.approx(report.values[metric], abs=1e-6)


def test_corpus_scores_of_nothing_are_0() -> None:
    assert distinct_of_rows(["", ""], 1)(np.array([0, 1])) == distinct(["", ""], 1) == 0.0
    assert distinct_of_rows(["a", "b"], 1)(np.array([], dtype=np.intp)) == 0.0
    assert bleu_of_rows(["", ""], ["a", "b"])(np.array([1])) == 0.0


def test_meteor_is_there_when_its_data_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meteor, "find_wordnet", EmptyWordNet)
    report = compute([replace(one, prediction=one.reference) for one in REPLIES[:1]], profile="paper")
    assert report.values["meteor"] == pytest.approx(100.0 * (1 - 0.5 / 7**3), abs=1e-6)
    assert "nltk" in report.rules["meteor"]
    assert "meteor" not in report.missing


def test_bertscore_is_there_when_an_encoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bertscore, "load_encoder", lambda name: name)
    monkeypatch.setattr(bertscore, "bertscore", lambda texts, references, encoder: BertScore(1.0, 2.0, 3.0))
    report = compute(REPLIES, profile="paper", bertscore_model="some/encoder")
    expected = {"bertscore_precision": 1.0, "bertscore_recall": 2.0, "bertscore_f1": 3.0}
    assert {metric: report.values[metric] for metric in BERTSCORE} == expected
    assert "some/encoder" in report.rules["bertscore_f1"]
    assert set(report.missing) == {"meteor"}


def test_bertscore_says_how_to_install_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bertscore, "installed", lambda: False)
    assert "sptune[bertscore]" in compute(REPLIES, profile="paper", bertscore_model="x").missing["bertscore_recall"]


def test_an_encoder_that_cannot_be_loaded_is_an_error_not_a_gap() -> None:
    with pytest.raises(ModelError, match="no/such-encoder"):
        compute(REPLIES, profile="paper", bertscore_model="no/such-encoder")


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(UsageError, match="no replies"):
        compute([], profile="paper")
    for call in (lambda: compute(REPLIES, profile="papre"), lambda: per_reply(REPLIES, "papre")):
        with pytest.raises(UsageError, match="'papre' is not one of paper, standard"):
            call()


def test_results_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        REPLIES[0].prediction = "other"  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        compute(REPLIES, profile="paper").replies = 0  # type: ignore[misc]


def test_self_bleu_depends_on_the_seed_only_through_its_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (compute(REPLIES, profile="paper", seed=seed) for seed in (0, 1))
    assert first.values["self_bleu"] == pytest.approx(second.values["self_bleu"])
    assert "seed 1" in second.rules["self_bleu"]
    assert set(profile.PROFILES) == {"paper", "standard"}


def test_without_a_seed_self_bleu_alone_is_left_out() -> None:
    whole, part = (compute(REPLIES, profile="paper", seed=seed) for seed in (0, None))
    for found, kept in ((whole.values, part.values), (whole.human, part.human), (whole.rules, part.rules)):
        assert kept == {name: value for name, value in found.items() if name != "self_bleu"}
    assert "self_bleu" in whole.values
