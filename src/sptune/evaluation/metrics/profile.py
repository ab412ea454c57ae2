"""All text metrics of a list of replies, by one of two sets of rules: `paper` and `standard`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from sptune.errors import UsageError
from sptune.evaluation.metrics import bertscore, bleu, diversity, length, meteor, persona
from sptune.evaluation.metrics.f1 import unigram_f1
from sptune.evaluation.metrics.resampling import CorpusScore, bleu_of_rows, distinct_of_rows
from sptune.evaluation.metrics.rouge import rouge
from sptune.text import Rule, tokenize_words

WORDS = {
    "whitespace": "white-space tokens, no normalisation",
    "parlai": "ParlAI normalisation (lower case, no punctuation, no articles)",
    "words": "lower-case words without punctuation",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """One generated reply and what it is measured against.

    Attributes:
        prediction: the generated text, already cut; may be empty.
        reference: the gold response.
        persona: the sentences about the speaker.
        dialogue_id: the dialogue it belongs to; replies of one dialogue are resampled together.
        turn: number of the turn in its dialogue, from 0.
    """

    prediction: str
    reference: str
    persona: tuple[str, ...]
    dialogue_id: str
    turn: int


@dataclass(frozen=True, slots=True)
class MetricReport:
    """The metrics of a list of replies. Units and ranges: docs/metrics.md.

    Attributes:
        values: metric -> value.
        rules: metric -> the rule or library signature that it came from.
        missing: metric -> why it was not computed, and how to get it.
        human: the reference-free metrics, computed on the references instead of the replies.
        replies: how many replies were measured, empty ones included.
        empty_replies: how many of them are empty.
    """

    values: dict[str, float]
    rules: dict[str, str]
    missing: dict[str, str]
    human: dict[str, float]
    replies: int
    empty_replies: int


@dataclass(frozen=True, slots=True)
class Profile:
    """Rules of a profile: how F1 splits words, how everything else of ours does, and whether ROUGE compares stems."""

    f1: Rule
    words: Rule
    stem: bool


PROFILES = {"paper": Profile("whitespace", "whitespace", False), "standard": Profile("parlai", "words", True)}


def compute(
    predictions: Sequence[Reply], *, profile: str, bertscore_model: str | None = None, seed: int | None = 0
) -> MetricReport:
    """All text metrics of `predictions`. Deterministic, downloads nothing, and does not depend on the order of replies.

    Args:
        predictions: at least one reply.
        profile: `paper` (the published rules) or `standard` (normalised text, for replies that are not tokenised).
        bertscore_model: encoder for BERTScore, a local folder or a downloaded hub id; None leaves BERTScore out.
        seed: of the sample that self-BLEU is computed on; None leaves self-BLEU out, which takes longer than all else together.

    Returns:
        Values, the rule behind each, what is missing and why, and the human responses' figures to compare with.

    Raises:
        UsageError: no replies, or an unknown profile.
        ModelError: the named encoder cannot be loaded.
    """
    rules = _rules(profile)
    if not predictions:
        raise UsageError("metrics: there are no replies to measure; widen the split or generate some first")
    texts, references = [one.prediction for one in predictions], [one.reference for one in predictions]
    personas = [one.persona for one in predictions]
    each = per_reply(predictions, profile)
    values = {name: math.fsum(one[name] for one in each) / len(each) for name in each[0]}
    overlap = bleu.corpus_bleu(texts, references)
    values["bleu"] = overlap.score
    values |= _reference_free(texts, personas, rules, seed)
    empty = length.count_empty(texts)
    values["empty"] = 100.0 * empty / len(texts)
    missing: dict[str, str] = {}
    _add_meteor(values, missing, texts, references, rules)
    _add_bertscore(values, missing, texts, references, bertscore_model)
    human = _reference_free(references, personas, rules, seed)
    named = _describe(rules, overlap.signature, bertscore_model, seed)
    return MetricReport(values, {name: named[name] for name in values}, missing, human, len(texts), empty)


def per_reply(predictions: Sequence[Reply], profile: str) -> list[dict[str, float]]:
    """The metrics that each reply has by itself, for the bootstrap and for looking at single replies.

    Args:
        predictions: the replies.
        profile: `paper` or `standard`.

    Returns:
        For each reply f1, rouge1, rouge2, rougeL (percent) and words (number); their means are those of `compute`.

    Raises:
        UsageError: an unknown profile.
    """
    rules = _rules(profile)
    rows = []
    for one in predictions:
        scores = rouge(one.prediction, one.reference, stem=rules.stem)
        row = {"f1": unigram_f1(one.prediction, one.reference, rules.f1)}
        row |= {"rouge1": scores.rouge1, "rouge2": scores.rouge2, "rougeL": scores.rougeL}
        rows.append(row | {"words": float(len(tokenize_words(one.prediction, rules.words)))})
    return rows


def corpus_scores(predictions: Sequence[Reply], profile: str) -> dict[str, CorpusScore]:
    """BLEU, DIST-1 and DIST-2 as functions of rows, for `significance.paired_bootstrap`.

    Args:
        predictions: the replies.
        profile: `paper` or `standard`.

    Returns:
        bleu, dist1, dist2 -> a function from rows to the metric (percent); of all rows it gives that of `compute`.

    Raises:
        UsageError: an unknown profile.
    """
    rule = _rules(profile).words
    texts = [one.prediction for one in predictions]
    return {
        "bleu": bleu_of_rows(texts, [one.reference for one in predictions]),
        "dist1": distinct_of_rows(texts, 1, rule),
        "dist2": distinct_of_rows(texts, 2, rule),
    }


def _rules(profile: str) -> Profile:
    if profile not in PROFILES:
        raise UsageError(f"profile: {profile!r} is not one of {', '.join(PROFILES)}")
    return PROFILES[profile]


def _reference_free(
    texts: Sequence[str], personas: Sequence[tuple[str, ...]], rules: Profile, seed: int | None
) -> dict[str, float]:
    rule = rules.words
    found = {} if seed is None else {"self_bleu": bleu.self_bleu(texts, seed=seed)}
    return found | {
        "dist1": diversity.distinct(texts, 1, rule),
        "dist2": diversity.distinct(texts, 2, rule),
        "ead1": diversity.expectation_adjusted_distinct(texts, 1, rule),
        "ead2": diversity.expectation_adjusted_distinct(texts, 2, rule),
        "entropy4": diversity.ngram_entropy(texts, 4, rule),
        "persona_recall": persona.persona_recall(texts, personas),
        "copy_rate": persona.copy_rate(texts, personas, 4, rule),
        "words": length.mean_words(texts, rule),
        "repetition": diversity.repetition(texts, 3, rule),
        "unique": diversity.unique_share(texts),
    }


def _add_meteor(
    values: dict[str, float], missing: dict[str, str], texts: Sequence[str], references: Sequence[str], rules: Profile
) -> None:
    wordnet = meteor.find_wordnet()
    if wordnet is None:
        missing["meteor"] = meteor.MISSING
        return
    pairs = zip(texts, references, strict=True)
    values["meteor"] = math.fsum(meteor.meteor(text, gold, wordnet, rules.words) for text, gold in pairs) / len(texts)


def _add_bertscore(
    values: dict[str, float], missing: dict[str, str], texts: Sequence[str], references: Sequence[str], name: str | None
) -> None:
    names = ("bertscore_f1", "bertscore_precision", "bertscore_recall")
    if name is None or not bertscore.installed():
        missing |= dict.fromkeys(names, bertscore.NOT_NAMED if name is None else bertscore.NOT_INSTALLED)
        return
    scores = bertscore.bertscore(texts, references, bertscore.load_encoder(name))
    values |= dict(zip(names, (scores.f1, scores.precision, scores.recall), strict=True))


def _describe(rules: Profile, signature: str, bertscore_model: str | None, seed: int | None) -> dict[str, str]:
    words, sacrebleu = WORDS[rules.words], f"sacrebleu {version('sacrebleu')}"
    stems = "Porter stems" if rules.stem else "no stemming"
    layer = bertscore.tuned_layer(bertscore_model or "") or "last"
    encoder = f"torchmetrics, encoder {bertscore_model}, layer {layer}, no idf, no rescaling; mean over replies"
    adjusted = f"N / (V (1 - ((V - 1) / V)^C)), V = {diversity.EAD_VOCABULARY}; {words}"
    rouge_rule = f"rouge-score {version('rouge-score')}, F-measure, {stems}; mean over replies"
    return {
        "f1": f"unigram F1 over multi-sets; {WORDS[rules.f1]}; mean over replies",
        "bleu": f"sacrebleu {signature}",
        **dict.fromkeys(("rouge1", "rouge2", "rougeL"), rouge_rule),
        "meteor": f"nltk {version('nltk')}, alpha 0.9, beta 3, gamma 0.5; {words}; mean over replies",
        **dict.fromkeys(("bertscore_f1", "bertscore_precision", "bertscore_recall"), encoder),
        **dict.fromkeys(("dist1", "dist2"), f"distinct / all n-grams of all replies; {words}"),
        **dict.fromkeys(("ead1", "ead2"), adjusted),
        "entropy4": f"4-grams of all replies, nats; {words}",
        "self_bleu": f"{sacrebleu} sentence BLEU, each of {bleu.SELF_BLEU_SAMPLE} (seed {seed}) against the others",
        "persona_recall": "idf-weighted share of the persona's content words; mean over replies",
        "copy_rate": f"4-grams that stand in the persona / all 4-grams of all replies; {words}",
        "words": f"{words}; mean over replies",
        "repetition": f"1 - distinct / all 3-grams of a reply; {words}; mean over replies",
        "unique": "distinct replies / replies",
        "empty": "empty replies / replies",
    }
