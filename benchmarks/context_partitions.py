"""Which division of contexts gives K prompts something to specialise in? First-order answer from the gradients of one trained prompt.

For every turn, the gradient of its response's NLL with respect to the soft prompt of a trained K = 1 adapter says what that turn wants changed.
If the contexts of one cluster want the same, the sums of their gradients over two halves of the dialogues point the same way:
gain = mean over random halves of `sum_c <G_c(half 1), G_c(half 2)> / tokens_c`, gradients centred over all turns and scaled by
their RMS per coordinate. `shuffled` is the gain of the same division given to the turns at random. About 5 minutes on one core:

    python benchmarks/context_partitions.py runs/k1/adapter valid_self_original.txt --split 1:160
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from sptune.data.batch import collate
from sptune.data.load import load_dialogues
from sptune.model.retriever import Contexts
from sptune.model.spt import SPTModel
from sptune.training.preparation import principal_components

HALVES = 20
CLUSTER_SEEDS = 3


@dataclass(frozen=True)
class TurnRecord:
    """One turn: its gradient, and everything that a division may look at."""

    dialogue: int
    tokens: int
    gradient: Tensor  # (L * D,)
    read: dict[str, Tensor]  # by name, what a retriever could read
    labels: dict[
        str, int
    ]  # divisions by hand; those named `response ...` look at the answer and only show what could be had


def mean_embedding(model: SPTModel, texts: Iterable[str]) -> Tensor:
    """(D,) mean word embedding of texts."""
    ids = model.encoder.tokenizer.encode(" ".join(texts), add_special_tokens=False)
    return model.backbone.embed(torch.tensor(ids, device=model.backbone.device)).float().mean(0)


def record_turns(model: SPTModel, path: str, split: str) -> list[TurnRecord]:
    """Gradients and readings of every turn."""
    model.prompts.embeddings.requires_grad_(True)
    records = []
    dialogues = load_dialogues(path, split=split)
    for number, dialogue in enumerate(dialogues):
        persona = mean_embedding(model, dialogue.persona)
        for sequence in model.encoder.encode(dialogue):
            batch = collate([sequence], stop_id=model.encoder.stop_id)
            embeddings = model.backbone.embed(batch.input_ids)
            with torch.no_grad():
                hidden = model.backbone.hidden(embeddings)
            contexts = Contexts(embeddings, batch.example_row, batch.context_length, hidden=hidden)
            read = {
                "mean": contexts.means(),
                "recent, half-life 4": contexts.recent(4),
                "recent, half-life 8": contexts.recent(8),
                "recent, half-life 16": contexts.recent(16),
                "last hidden state": contexts.last_hidden(),
            }
            logprobs = model(batch).target_logprobs[0]
            for i, span in enumerate(sequence.spans):
                own = batch.target_example == i
                (gradient,) = torch.autograd.grad(-logprobs[own].sum(), model.prompts.embeddings, retain_graph=True)
                turn = dialogue.turns[span.turn]
                said = [text for past in dialogue.turns[: span.turn] for text in (past.user, past.response or "")]
                history = mean_embedding(model, [*said, turn.user])
                apart = {
                    "persona": persona,
                    "history": history,
                    "persona and history apart": torch.cat([persona, history]),
                }
                labels = {
                    "first turn or later": int(span.turn > 0),
                    "turn 1, 2-3, 4-5, later": int(np.searchsorted([1, 3, 5], span.turn, side="right")),
                    "the user asks": int("?" in turn.user),
                    "response asks (hindsight)": int("?" in (turn.response or "")),
                    "response over 10 words (hindsight)": int(len((turn.response or "").split()) > 10),
                }
                records.append(
                    TurnRecord(
                        number,
                        int(own.sum()),
                        gradient.flatten().detach(),
                        {k: v[i] for k, v in read.items()} | apart,
                        labels,
                    )
                )
        print(f"\r{number + 1} of {len(dialogues)} dialogues", end="", flush=True)
    print()
    return records


def gain(gradients: Tensor, tokens: Tensor, dialogue: np.ndarray, labels: np.ndarray) -> float:
    """Mean over random halves of the dialogues of the agreement of the clusters' gradients."""
    total = 0.0
    for seed in range(HALVES):
        names = np.random.RandomState(seed).permutation(np.unique(dialogue))
        first = np.isin(dialogue, names[: len(names) // 2])
        for cluster in np.unique(labels):
            one, two = (torch.from_numpy((labels == cluster) & half) for half in (first, ~first))
            if one.any() and two.any():
                both = float(tokens[one | two].sum())
                total += float(gradients[one].sum(0) @ gradients[two].sum(0)) / both
    return total / HALVES


def clusters(vectors: Tensor, *, rank: int, count: int) -> list[np.ndarray]:
    """Spherical k-means over whitened vectors, as `retriever.keys=clusters` does it, from several seeds."""
    centred = vectors - vectors.mean(0)
    white = centred @ principal_components(centred, rank=rank)
    unit = torch.nn.functional.normalize(white, dim=1).double().numpy()
    return [KMeans(count, n_init=3, random_state=seed).fit(unit).labels_ for seed in range(CLUSTER_SEEDS)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("adapter", help="a trained adapter of one prompt")
    parser.add_argument("data", help="dialogues it was trained on, or others")
    parser.add_argument("--split", default="1:160")
    parser.add_argument("--prompts", type=int, nargs="+", default=[4, 8], help="numbers of clusters")
    parser.add_argument("--ranks", type=int, nargs="+", default=[8, 16, 32], help="whitened principal components")
    args = parser.parse_args()

    records = record_turns(SPTModel.from_pretrained(args.adapter), args.data, args.split)
    tokens = torch.tensor([float(one.tokens) for one in records])
    dialogue = np.array([one.dialogue for one in records])
    raw = torch.stack([one.gradient for one in records]).double()
    centred = raw - tokens[:, None] * raw.sum(0) / tokens.sum()
    gradients = (centred / centred.pow(2).mean(0).sqrt().clamp(min=1e-12)).float() / math.sqrt(centred.shape[1])

    def show(name: str, divisions: list[np.ndarray]) -> None:
        values = [gain(gradients, tokens, dialogue, labels) for labels in divisions]
        shuffled = [
            gain(gradients, tokens, dialogue, np.random.RandomState(n).permutation(labels))
            for n, labels in enumerate(divisions)
        ]
        print(f"{name:48s} {np.mean(values):8.4f}   shuffled {np.mean(shuffled):8.4f}", flush=True)

    print(f"{len(records)} turns")
    for name in records[0].labels:
        show(name, [np.array([one.labels[name] for one in records])] * CLUSTER_SEEDS)
    for name in records[0].read:
        vectors = torch.stack([one.read[name] for one in records])
        for rank in args.ranks:
            for count in args.prompts:
                show(f"{name}, rank {rank}, K = {count}", clusters(vectors, rank=rank, count=count))


if __name__ == "__main__":
    main()
