"""What an offline probe can tell from a context about which prompt will do best: the yardstick of the retriever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from sptune.evaluation.result import TurnRecord
from sptune.evaluation.scoring import perplexity_of
from sptune.model.retriever import Contexts

if TYPE_CHECKING:
    from torch import Tensor

    from sptune.data.dialogue import Dialogue
    from sptune.model.spt import SPTModel

FOLDS = 5
ALPHAS = tuple(10.0**power for power in range(-1, 8))


@dataclass(frozen=True, slots=True)
class ContextFeatures:
    """What the probe reads of n contexts, in the order of the data.

    Attributes:
        hidden: (n, H) the bare model's last hidden state at the context's last token.
        embedding: (n, D) mean word embedding of the context's tokens: what the retriever reads.
    """

    hidden: Tensor
    embedding: Tensor


@dataclass(frozen=True, slots=True)
class FeatureProbe:
    """A probe that reads one kind of features.

    Attributes:
        perplexity: of the test responses, each under the prompt that the probe picks.
        alpha: ridge penalty, chosen by cross-validation over dialogues.
        picks: the prompt of every test turn.
    """

    perplexity: float
    alpha: float
    picks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """`probe.json`.

    Attributes:
        perplexity: of the probe that reads the hidden state.
        fitted_on: the turns that it learned from: validation or train.
        fitted_turns: how many.
        hidden: the probe that reads the hidden state.
        embedding: the probe that reads the mean word embedding.
    """

    perplexity: float
    fitted_on: str
    fitted_turns: int
    hidden: FeatureProbe
    embedding: FeatureProbe

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ProbeTurns:
    """Turns to fit or to test a probe.

    Attributes:
        features: of their contexts.
        records: their log-probabilities under K prompts; as many, in the same order.
    """

    features: ContextFeatures
    records: Sequence[TurnRecord]


def run_probe(fit: ProbeTurns, test: ProbeTurns, *, fitted_on: str) -> ProbeResult:
    """Fit both probes on some turns and let them pick prompts for others.

    Ridge regression from the features of a context to the K mean losses of its response (each turn's own mean over the
    prompts taken off, and weighed by its tokens); the pick is the lowest loss that is predicted.

    Args:
        fit: turns that are not the test's.
        test: turns to pick for.
        fitted_on: name of the turns of `fit`.
    """
    hidden = _probe(fit, test, "hidden")
    embedding = _probe(fit, test, "embedding")
    return ProbeResult(hidden.perplexity, fitted_on, len(fit.records), hidden, embedding)


@torch.no_grad()
def context_features(model: SPTModel, dialogues: Sequence[Dialogue]) -> ContextFeatures:
    """The features of every turn of `dialogues` that has a response, in order; no prompt is in front of the contexts.

    Args:
        model: its base model and template are used.
        dialogues: at least one response among them.
    """
    backbone = model.backbone
    hidden: list[Tensor] = []
    means: list[Tensor] = []
    for sequence in (sequence for dialogue in dialogues for sequence in model.encoder.encode(dialogue)):
        embeddings = backbone.embed(torch.tensor([sequence.input_ids], device=backbone.device))  # (1, T, D)
        length = torch.tensor([span.context_length for span in sequence.spans], device=backbone.device)
        states = backbone.hidden(embeddings)  # (1, T, H)
        contexts = Contexts(embeddings, torch.zeros_like(length), length, hidden=states)
        hidden.append(contexts.last_hidden().cpu())
        means.append(contexts.means().cpu())
    return ContextFeatures(torch.cat(hidden), torch.cat(means))


def _probe(fit: ProbeTurns, test: ProbeTurns, name: str) -> FeatureProbe:
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    inputs = getattr(fit.features, name).numpy()
    tokens = torch.tensor([record.tokens or 1 for record in fit.records], dtype=torch.double)
    losses = -_logprobs(fit.records) / tokens[:, None]  # (n, K)
    groups = [record.dialogue for record in fit.records]
    folds = min(FOLDS, len(set(groups)))
    splits = list(GroupKFold(folds).split(inputs, groups=groups)) if folds > 1 else None
    ridge = RidgeCV(ALPHAS, cv=splits, scoring="neg_mean_squared_error")
    probe = make_pipeline(StandardScaler(), ridge)
    differences = (losses - losses.mean(1, keepdim=True)).numpy()
    probe.fit(inputs, differences, ridgecv__sample_weight=tokens.numpy())
    picks = tuple(int(pick) for pick in probe.predict(getattr(test.features, name).numpy()).argmin(1))
    return FeatureProbe(_perplexity(test.records, picks), float(ridge.alpha_), picks)


def _logprobs(records: Sequence[TurnRecord]) -> Tensor:
    return torch.tensor([record.logprobs for record in records], dtype=torch.double)  # (n, K)


def _perplexity(records: Sequence[TurnRecord], picks: Sequence[int]) -> float:
    chosen = _logprobs(records)[torch.arange(len(picks)), torch.tensor(picks)]
    return perplexity_of(-float(chosen.sum()), sum(record.tokens or 1 for record in records))
