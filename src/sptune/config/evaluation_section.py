"""The section `evaluation` of a recipe: on what, and how replies are made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from sptune.config.sections import Positive, Range, Section, Temperature

KEPT_IN_ADAPTER = ("decoding", "gate_temperature")  # keys of `evaluation` that say who speaks, in adapters too

RerankWeight = Annotated[float, Field(ge=-1e6, le=1e6)]


class RerankSection(Section):
    """Candidates of each reply, and what chooses among them."""

    candidates: int = Field(16, ge=1, le=1024, description="m, candidates of each reply")
    greedy: int = Field(
        1, ge=0, description="how many are greedy: that of the source, then those of the prompts, best score first"
    )
    source: Literal["top1", "each", "drawn", "fused", "gated"] = Field(
        "drawn",
        description="the others are sampled from the chosen prompt, all prompts in turn, a prompt drawn from the gate, or a mixture at every token",
    )
    temperature: Positive = Field(1.0, description="of the samples")
    top_p: float = Field(0.9, gt=0, le=1, description="nucleus probability of the samples")
    prior: Literal["prompt", "bare", "none"] = Field(
        "prompt",
        description="log-probability without the context: by the prompts whose likelihood counts, by the base model alone, or not measured",
    )
    similarity: Literal["f1", "rouge", "bleu", "chrf"] = Field(
        "rouge", description="of a candidate to the others, for consensus; rouge is the mean of ROUGE-1 and ROUGE-2"
    )
    likelihood: Literal["top1", "fused", "gated", "mixture"] = Field(
        "gated",
        description="whose likelihood counts: of the chosen prompt, of all at every token, gated, or of one drawn from the gate for all tokens",
    )
    length_power: float = Field(1.0, ge=-10, le=10, description="alpha; log-probabilities are divided by tokens^alpha")
    prior_weight: RerankWeight = Field(0.75, description="lambda, of minus the log-probability without the context")
    consensus_weight: RerankWeight = Field(40.0, description="mu, of the mean similarity to the other candidates")
    persona_weight: RerankWeight = Field(
        0.0, description="rho, of the share of the persona's content words that are there"
    )


class EvaluationSection(Section):
    """What the run is evaluated on at its end, and how replies are generated."""

    path: str | None = Field(
        None, description="file of the test dialogues; null is data.path, and no evaluation where split is null too"
    )
    split: Range = Field(None, description="dialogues to evaluate on, 'A:B'; null is all of evaluation.path")
    base: bool = Field(True, description="also evaluate the bare base model")
    limit: int | None = Field(None, ge=1, description="at most that many dialogues")
    profile: Literal["paper", "standard"] = Field("paper", description="rules of the metrics, see docs/metrics.md")
    bertscore_model: str | None = Field(None, description="folder or hub id of BERTScore's encoder; null leaves it out")
    max_new_tokens: int = Field(32, ge=1, le=4096, description="the most tokens of a reply")
    num_beams: int = Field(1, ge=1, le=64, description="1 is greedy")
    no_repeat_ngram_size: int = Field(0, ge=0, description="n-grams of that length come once in a reply; 0 is no rule")
    no_repeat_history_ngram: int = Field(
        0, ge=0, description="n-grams of that length that the speaker said before do not come again; 0 is no rule"
    )
    decoding: Literal["top1", "fused", "gated", "rerank"] = Field(
        "top1",
        description="who speaks: the chosen prompt, at every token the average of all prompts, their gated average, or the best of some "
        "candidates; kept in the adapter",
    )
    gate_temperature: Temperature | None = Field(
        None, description="of the gate softmax(scores / gate_temperature); null is losses.gate_temperature"
    )
    rerank: RerankSection = RerankSection()
