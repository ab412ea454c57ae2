"""The figures of the tables: the ten of the paper's table in its order, and those that stand beside them."""

from __future__ import annotations

from sptune.report.metric_specs import MetricSpec

PAPER = (
    MetricSpec("metrics", "f1", "F1", "higher"),
    MetricSpec("metrics", "bleu", "BLEU", "higher"),
    MetricSpec("metrics", "rouge1", "R-1", "higher"),
    MetricSpec("metrics", "rouge2", "R-2", "higher"),
    MetricSpec("metrics", "rougeL", "R-L", "higher"),
    MetricSpec("metrics", "bertscore_f1", "BERT-F1", "higher"),
    MetricSpec("metrics", "bertscore_precision", "BERT-P", "higher"),
    MetricSpec("metrics", "bertscore_recall", "BERT-R", "higher"),
    MetricSpec("metrics", "dist1", "DIST-1", "higher"),
    MetricSpec("metrics", "dist2", "DIST-2", "higher"),
)

FURTHER = (
    MetricSpec("likelihood", "perplexity", "perplexity", "lower"),
    MetricSpec("likelihood", "bits_per_byte", "bits/byte", "lower", 3),
    MetricSpec("ranking", "hits_at_1", "hits@1, %", "higher"),
    MetricSpec("metrics", "persona_recall", "persona recall, %", "higher"),
    MetricSpec("metrics", "words", "words a reply", "human"),
    MetricSpec("metrics", "ead1", "adjusted DIST-1", "higher"),
    MetricSpec("metrics", "ead2", "adjusted DIST-2", "higher"),
)

# in sentences too: without its unit
NAMES = {spec.key: spec.label.removesuffix(", %") for spec in (*PAPER, *FURTHER)}
SPECS = {spec.key: spec for spec in (*PAPER, *FURTHER)}
