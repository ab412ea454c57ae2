"""What the retriever needs to know of the training contexts before the first step: their mean, their spread, and where they cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the field's usual name

from sptune.errors import DataError, RecipeError
from sptune.training.loader import PackedLoader

if TYPE_CHECKING:
    from sptune.data.encoder import TokenSequence
    from sptune.model.spt import SPTModel

MOST_CONTEXTS = 16_384  # about as many are kept for the spread and the clusters; the mean is over all
LEAST_VARIANCE = 1e-10  # of the largest: what varies less is rounding


@torch.no_grad()
def prepare_retriever(
    model: SPTModel,
    sequences: Sequence[TokenSequence],
    *,
    budget: int,
    centre: bool,
    clusters: bool,
    alike: int = 1,
    seed: int,
) -> None:
    """Set the retriever's centre, whitening and keys from the training contexts.

    Args:
        model: whose retriever is set.
        sequences: of the training dialogues.
        budget: tokens of a batch.
        centre: subtract the mean context vector; whitening always does.
        clusters: put the keys on the centres of a spherical k-means over g(c_i) (scikit-learn).
        alike: so many neighbouring keys begin on one centre; it divides K, and there are K / alike clusters.
        seed: of the k-means, and of which contexts are kept.

    Raises:
        DataError: fewer contexts than clusters.
        RecipeError: clusters without keys, or of a retriever that reads all tokens; contexts that vary in fewer directions than whitening asks for.
    """
    retriever = model.retriever
    whiten = retriever.reading.rank is not None
    if not (centre or whiten or clusters):
        return
    count = sum(len(sequence.spans) for sequence in sequences)
    if clusters:
        _check_clusters(model, contexts=count, alike=alike)
    total = torch.zeros(retriever.centre.shape, dtype=torch.float64)
    kept: list[Tensor] = []
    draw = torch.Generator().manual_seed(seed)
    for read in _read(model, sequences, budget):
        total += read.cpu().double().sum(0)
        if whiten or clusters:
            kept.append(read[(torch.rand(len(read), generator=draw) * count < MOST_CONTEXTS).to(read.device)])
    if centre or whiten:
        retriever.centre.copy_((total / count).float())
    if whiten:
        rank = retriever.whitener.shape[1]
        retriever.whitener.copy_(principal_components(torch.cat(kept) - retriever.centre, rank=rank))
    if clusters and retriever.keys is not None:
        encoded = retriever.encode(torch.cat(kept))
        centres = _cluster_centres(encoded, count=len(retriever.keys) // alike, seed=seed)
        retriever.keys.copy_(centres.repeat_interleave(alike, 0))


def _check_clusters(model: SPTModel, *, contexts: int, alike: int) -> None:
    if model.retriever.keys is None or model.retriever.kind == "transformer":
        raise RecipeError(
            "retriever.keys=clusters: needs a retriever with keys, of a kind that reads one vector; choose linear, mlp or identity"
        )
    if contexts < (wanted := len(model.retriever.keys) // alike):
        raise DataError(
            f"data.train: {contexts} turns, fewer than the {wanted} clusters of retriever.keys=clusters; "
            "give more, or set retriever.keys=random"
        )


def _read(model: SPTModel, sequences: Sequence[TokenSequence], budget: int) -> Iterator[Tensor]:
    """(n, D) what the retriever reads of the contexts of one batch after another."""
    for inputs in PackedLoader(sequences, model=model, budget=8 * budget, shuffle=False):
        batch = inputs["batch"].to(model.backbone.device)
        yield model.retriever.read(
            model.contexts(model.backbone.embed(batch.input_ids), batch.example_row, batch.context_length)
        )


def principal_components(vectors: Tensor, *, rank: int) -> Tensor:
    """The principal axes of centred vectors, each divided by the standard deviation along it: `vectors @ it` is white.

    Args:
        vectors: (n, D).
        rank: how many axes, the widest first.

    Returns:
        (D, rank).

    Raises:
        RecipeError: the vectors vary in fewer directions.
    """
    values = vectors.cpu().double()  # some devices have no float64
    variance, axes = torch.linalg.eigh(values.T @ values / len(values))  # ascending
    directions = int((variance > LEAST_VARIANCE * variance[-1]).sum())
    if directions < rank:
        raise RecipeError(
            f"retriever.whiten: the {len(values)} training contexts vary in {directions} directions, fewer than {rank}; "
            f"set it to {directions} or less, or give more dialogues"
        )
    white: Tensor = axes[:, -rank:] / variance[-rank:].sqrt()
    return white.flip(1).float()


def _cluster_centres(encoded: Tensor, *, count: int, seed: int) -> Tensor:
    """(K, hidden) unit centres of the directions of (n, hidden) vectors."""
    from sklearn.cluster import KMeans

    directions = F.normalize(encoded, dim=1).cpu().double().numpy()
    centres = KMeans(count, n_init=10, random_state=seed).fit(directions).cluster_centers_
    return F.normalize(torch.from_numpy(centres), dim=1).float()
