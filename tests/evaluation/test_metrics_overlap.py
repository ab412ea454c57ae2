"""F1, BLEU, ROUGE and METEOR: held to the libraries and to hand-worked numbers."""

from __future__ import annotations

import doctest
import random
from dataclasses import dataclass

import nltk
import pytest
import sacrebleu
from nltk.corpus.reader import WordNetCorpusReader
from nltk.corpus.util import LazyCorpusLoader
from nltk.translate.meteor_score import single_meteor_score
from rouge_score.rouge_scorer import RougeScorer

from sptune.evaluation.metrics import f1
from sptune.evaluation.metrics.bleu import corpus_bleu, self_bleu
from sptune.evaluation.metrics.f1 import unigram_f1
from sptune.evaluation.metrics.meteor import find_wordnet, meteor
from sptune.evaluation.metrics.rouge import Rouge, rouge

PREDICTIONS = ["i sail my small boat every day .", "no , i have two dogs .", "", "what do you do for a living ?"]
REFERENCES = ["i sail my old boat on sundays .", "yes , i have two cats .", "me too .", "what do you do for a living ?"]


def test_docstring_examples_hold() -> None:
    assert doctest.testmod(f1).failed == 0


def test_f1_counts_repeated_words_as_often_as_both_have_them() -> None:
    """Shared multi-set {no, no}: 100 * 2 * 2 / (3 + 2) = 80."""
    assert unigram_f1("no no no", "no no") == pytest.approx(80.0, abs=1e-6)


def test_f1_rules_differ_in_case_punctuation_and_articles() -> None:
    assert unigram_f1("The dog.", "a dog") == 0.0
    assert unigram_f1("The dog.", "a dog", "parlai") == 100.0


@pytest.mark.parametrize(
    "score", [unigram_f1, lambda a, b: unigram_f1(a, b, "parlai"), lambda a, b: rouge(a, b).rougeL]
)
def test_identical_is_100_and_empty_is_0(score) -> None:
    assert score("i sail boats", "i sail boats") == pytest.approx(100.0)
    assert score("", "i sail boats") == score("i sail boats", "") == score("", "") == 0.0


def test_f1_takes_any_script() -> None:
    assert unigram_f1("я люблю 日本 🙂", "я люблю 日本 🙂") == 100.0


def test_corpus_bleu_equals_sacrebleu_and_names_its_signature() -> None:
    result = corpus_bleu(PREDICTIONS, REFERENCES)
    assert result.score == pytest.approx(sacrebleu.corpus_bleu(PREDICTIONS, [REFERENCES]).score, abs=1e-6)
    assert result.signature == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"


def test_corpus_bleu_by_hand() -> None:
    """5 tokens of which 4 match, then 3/4 bigrams, 2/3 trigrams, 1/2 4-grams, no brevity: 100 (.8 .75 2/3 .5)^(1/4)."""
    expected = 100.0 * (0.8 * 0.75 * 2 / 3 * 0.5) ** 0.25
    assert corpus_bleu(["i sail my old yacht"], ["i sail my old boat"]).score == pytest.approx(expected, abs=1e-6)


def test_empty_replies_cost_bleu() -> None:
    full = corpus_bleu(REFERENCES[:2], REFERENCES[:2]).score
    assert full == pytest.approx(100.0)
    assert 0.0 < corpus_bleu([REFERENCES[0], ""], REFERENCES[:2]).score < 80.0
    assert corpus_bleu(["", ""], REFERENCES[:2]).score == 0.0


def test_self_bleu_of_a_small_set_equals_sacrebleu_against_the_others() -> None:
    texts = [text for text in PREDICTIONS if text]
    others = [texts[1:], [texts[0], texts[2]], texts[:2]]
    pairs = zip(texts, others, strict=True)
    expected = sum(sacrebleu.sentence_bleu(text, rest, use_effective_order=True).score for text, rest in pairs) / 3
    assert self_bleu(texts) == pytest.approx(expected, abs=1e-6)


def test_self_bleu_is_seeded_and_blind_to_order() -> None:
    rng = random.Random(0)
    words = [f"w{number}" for number in range(10)]
    texts = [" ".join(rng.choices(words, k=6)) for _ in range(30)]
    shuffled = rng.sample(texts, len(texts))
    assert self_bleu(texts, sample=10, seed=3) == self_bleu(shuffled, sample=10, seed=3)
    assert self_bleu(texts, sample=10, seed=3) != self_bleu(texts, sample=10, seed=4)


def test_self_bleu_ranges_from_all_different_to_all_the_same() -> None:
    assert self_bleu(["i sail every day"] * 5) == pytest.approx(100.0)
    assert self_bleu(["one two", "drei vier", "cinq six"]) == 0.0
    assert self_bleu(["alone"]) == self_bleu([]) == self_bleu(["", ""]) == 0.0


@pytest.mark.parametrize("stem", [False, True])
def test_rouge_equals_the_library(stem: bool) -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=stem)
    for prediction, reference in zip(PREDICTIONS, REFERENCES, strict=True):
        expected = scorer.score(reference, prediction)
        ours = rouge(prediction, reference, stem=stem)
        for name, score in (("rouge1", ours.rouge1), ("rouge2", ours.rouge2), ("rougeL", ours.rougeL)):
            assert score == pytest.approx(100.0 * expected[name].fmeasure, abs=1e-6)


def test_rouge_by_hand() -> None:
    """Unigrams 3 of 4 and 3 of 4, bigrams 1 of 3 ("i sail"), longest common subsequence "i sail home" 3 of 4."""
    ours = rouge("i sail fast home", "i sail home now")
    assert ours.rouge1 == pytest.approx(75.0)
    assert ours.rouge2 == pytest.approx(100.0 / 3.0)
    assert ours.rougeL == pytest.approx(75.0)


def test_rouge_stems_only_when_told() -> None:
    assert rouge("sailing", "sailed") == Rouge(0.0, 0.0, 0.0)
    assert rouge("sailing", "sailed", stem=True).rouge1 == 100.0


@dataclass(frozen=True)
class Lemma:
    word: str

    def name(self) -> str:
        return self.word


@dataclass(frozen=True)
class Synset:
    words: tuple[str, ...]

    def lemmas(self) -> list[Lemma]:
        return [Lemma(word) for word in self.words]


class TinyWordNet:
    """Knows one set of synonyms."""

    def synsets(self, word: str) -> list[Synset]:
        return [Synset(("boat", "ship"))] if word in ("boat", "ship") else []


def test_meteor_equals_the_library() -> None:
    for prediction, reference in zip(PREDICTIONS, REFERENCES, strict=True):
        expected = single_meteor_score(reference.split(), prediction.split(), wordnet=TinyWordNet())
        assert meteor(prediction, reference, TinyWordNet()) == pytest.approx(100.0 * expected, abs=1e-6)


def test_meteor_by_hand() -> None:
    """ "my ship" and "my boat": both words match (one by synonym) in one chunk: 1 * (1 - 0.5 (1 / 2)^3) = 0.9375."""
    assert meteor("my ship", "my boat", TinyWordNet()) == pytest.approx(93.75, abs=1e-6)
    assert meteor("", "my boat", TinyWordNet()) == meteor("nothing", "my boat", TinyWordNet()) == 0.0


def test_meteor_splits_words_by_rule() -> None:
    assert meteor("My ship.", "my boat", TinyWordNet(), "words") == pytest.approx(93.75, abs=1e-6)
    assert meteor("My ship.", "my boat", TinyWordNet()) < 60.0


@pytest.mark.parametrize("partial", [False, True])
def test_wordnet_is_absent_without_its_data_and_nothing_is_fetched(tmp_path, monkeypatch, partial: bool) -> None:
    if partial:
        (tmp_path / "corpora" / "wordnet").mkdir(parents=True)
    fresh = LazyCorpusLoader("wordnet", WordNetCorpusReader, "no other languages")
    monkeypatch.setattr(nltk.corpus, "wordnet", fresh)
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(nltk, "download", lambda *_, **__: pytest.fail("tried to download"))
    assert find_wordnet() is None
