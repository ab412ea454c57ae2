"""The soft prompt group: K prompts of L virtual tokens each, and the ways to initialise them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sptune.errors import RecipeError


class SoftPrompts(nn.Module):
    """SP_1 .. SP_K, trainable, kept in float32 whatever the base model computes in (paper, section 3.1).

    Args:
        embeddings: (K, L, D) initial values. L = 0 is the bare model.
    """

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(embeddings.detach().float().clone())

    @property
    def count(self) -> int:
        """K."""
        return self.embeddings.shape[0]

    @property
    def length(self) -> int:
        """L, virtual tokens of each prompt."""
        return self.embeddings.shape[1]

    def plain(self) -> SoftPrompts:
        """The prompts as an adapter holds them: numbers that are trained themselves, and nothing that makes them."""
        return self if isinstance(self.embeddings, nn.Parameter) else SoftPrompts(self.embeddings)


def sample_rows(table: Tensor, *, count: int, length: int, generator: torch.Generator) -> Tensor:
    """(K, L, D): different rows of the embedding table, drawn without replacement while there are enough.

    Args:
        table: (V, D).
        count: K.
        length: L.
        generator: of the draw.
    """
    needed = count * length
    if needed <= table.shape[0]:
        rows = torch.randperm(table.shape[0], generator=generator)[:needed]
    else:
        rows = torch.randint(table.shape[0], (needed,), generator=generator)
    return distinct(table[rows.to(table.device)].float().view(count, length, table.shape[1]), generator)


def from_token_ids(table: Tensor, *, ids: list[int], count: int, length: int, generator: torch.Generator) -> Tensor:
    """(K, L, D): the embeddings of a text, repeated or cut to L tokens; prompts after the first get a little noise so that they differ.

    Raises:
        RecipeError: the text is empty.
    """
    if not ids:
        raise RecipeError("prompts.text: empty; give a text such as 'Answer in the voice of the persona.'")
    repeated = (ids * (length // len(ids) + 1))[:length]
    prompt = table[torch.tensor(repeated, dtype=torch.long, device=table.device)].float()
    return distinct(prompt.expand(count, -1, -1).clone(), generator)


def from_kmeans(table: Tensor, *, count: int, length: int, seed: int) -> Tensor:
    """(K, L, D): K x L centres of a k-means over a sample of the embedding table (scikit-learn's MiniBatchKMeans).

    Args:
        table: (V, D).
        count: K.
        length: L.
        seed: of sample and k-means.
    """
    from sklearn.cluster import MiniBatchKMeans

    generator = torch.Generator().manual_seed(seed)
    sample = table[torch.randperm(table.shape[0], generator=generator)[:8192].to(table.device)].float().cpu()
    clusters = min(count * length, sample.shape[0])
    centres = MiniBatchKMeans(clusters, random_state=seed, n_init=3).fit(sample.numpy()).cluster_centers_
    rows = torch.arange(count * length) % clusters
    return distinct(torch.from_numpy(centres).float()[rows].view(count, length, -1), generator)


def random_normal(table: Tensor, *, count: int, length: int, generator: torch.Generator) -> Tensor:
    """(K, L, D): normal noise with the embedding table's own mean and standard deviation, per dimension."""
    noise = torch.randn(count, length, table.shape[1], generator=generator).to(table.device)
    values = table.float()
    return noise * values.std(0) + values.mean(0)


def distinct(prompts: Tensor, generator: torch.Generator) -> Tensor:
    """`prompts` (K, L, D) with a tenth of their own spread added as noise to each that equals an earlier one."""
    for k in range(1, prompts.shape[0]):
        if any(torch.equal(prompts[k], prompts[j]) for j in range(k)):
            spread = prompts.std() if prompts.numel() > 1 else torch.tensor(1.0)
            noise = torch.randn(prompts.shape[1:], generator=generator).to(prompts.device)
            prompts[k] = prompts[k] + 0.1 * torch.clamp(spread, min=1e-3) * noise
    return prompts
