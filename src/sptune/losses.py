"""The losses of Selective Prompt Tuning, as pure functions of target log-probabilities and scores.

Shapes: K prompts, N response tokens, n examples. `target_logprobs[k, t]` is the log-probability in nats of response token t under prompt k;
`example[t]` is the example that token t belongs to.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812 - the field's usual name
from torch import Tensor

Similar = Literal["attract", "repel"]


def example_nll(target_logprobs: Tensor, *, example: Tensor, examples: int) -> Tensor:
    """l_ik: mean negative log-likelihood per response token of each example under each prompt (paper, eq. 3).

    Args:
        target_logprobs: (K, N).
        example: (N,) example of each token.
        examples: n; every example has at least one token.

    Returns:
        (n, K) nats per token.

    >>> example_nll(torch.tensor([[-1.0, -3.0, -2.0]]), example=torch.tensor([0, 0, 1]), examples=2)
    tensor([[2.],
            [2.]])
    """
    return (
        example_sums(-target_logprobs, example=example, examples=examples) / example_tokens(example, examples)[:, None]
    )


def example_sums(values: Tensor, *, example: Tensor, examples: int) -> Tensor:
    """(n, K) sums over each example's tokens of (K, N) values."""
    return values.new_zeros(values.shape[0], examples).index_add(1, example, values).T


def example_tokens(example: Tensor, examples: int) -> Tensor:
    """(n,) how many response tokens each example has."""
    return torch.bincount(example, minlength=examples)


def llm_loss(target_logprobs: Tensor, *, weights: Tensor | None = None, example: Tensor | None = None) -> Tensor:
    """L_LLM: `-(1/N) sum_t sum_k w_ik log p_k(t)`, a mean over prompts and response tokens where no weights are given (paper, eq. 4).

    Args:
        target_logprobs: (K, N).
        weights: (n, K) weight of prompt k on example i, each row summing to 1; None is 1/K throughout.
        example: (N,) example of each token, needed with weights.

    Returns:
        Scalar, nats per token.

    >>> llm_loss(torch.tensor([[-1.0, -2.0], [-3.0, -2.0]]))
    tensor(2.)
    """
    if weights is None:
        return -target_logprobs.mean()
    if example is None:
        raise ValueError("example: missing; weights are given per example")
    return -(target_logprobs * weights.T[:, example]).sum(0).mean()


def responsibility_weights(nll: Tensor, *, temperature: float, share: float = 1.0) -> Tensor:
    """`(1 - share)/K + share * softmax_k(-l_ik / temperature)`, detached: each prompt learns most from what it does best.

    Args:
        nll: (n, K) l_ik, nats per token.
        temperature: tau_r > 0.
        share: 0 gives uniform weights (the published update), 1 the responsibilities; annealed in training.

    Returns:
        (n, K), rows sum to 1.
    """
    weights = F.softmax(-nll.detach() / temperature, dim=1)
    return (1 - share) / nll.shape[1] + share * weights


def selection_loss(
    scores: Tensor,
    nll: Tensor,
    *,
    teacher_temperature: float = 1.0,
    student_temperature: float = 1.0,
    noise: Tensor | None = None,
) -> Tensor:
    """L_selection: `KL( softmax_k(-l_ik / tau_g) || softmax_k(s_ik / tau_s) )`, batch mean; the teacher is detached (paper, eq. 5).

    Args:
        scores: (n, K) s_ik.
        nll: (n, K) l_ik, nats per token.
        teacher_temperature: tau_g > 0.
        student_temperature: tau_s > 0.
        noise: (n, K) added to the teacher's losses, or None.

    Returns:
        Scalar >= 0, nats; 0 where the scores order and space the prompts as the losses do.
    """
    teacher_logits = -(nll.detach() if noise is None else nll.detach() + noise) / teacher_temperature
    teacher = F.log_softmax(teacher_logits, dim=1)
    student = F.log_softmax(scores / student_temperature, dim=1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def contrastive_loss(
    scores: Tensor, *, similarity: Tensor, threshold: float, mask: Tensor | None = None, similar: Similar = "attract"
) -> Tensor:
    """L_contrastive over pairs of contexts: similar ones (M > Gamma) attract, the others must not share a score pattern (paper, eq. 6).

    With `attract` (the published code) a pair costs `1 - cos(s_i, s_j)` where `M_ij > threshold`, else `max(0, cos(s_i, s_j))`. With `repel`
    (the published summary) the two cases change places.

    Args:
        scores: (n, K).
        similarity: (n, n) M, textual similarity of contexts, on its own scale (BLEU: 0..100).
        threshold: Gamma.
        mask: (n, n) True for the pairs that count; None counts all. The diagonal never counts.
        similar: what similar contexts do.

    Returns:
        Scalar, mean over the pairs i < j that count; 0 where there is none.

    >>> scores = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> contrastive_loss(scores, similarity=torch.full((2, 2), 90.0), threshold=20)
    tensor(1.)
    >>> contrastive_loss(scores, similarity=torch.zeros(2, 2), threshold=20)
    tensor(0.)
    """
    unit = F.normalize(scores, dim=1)
    cosine = unit @ unit.T  # (n, n)
    together = (similarity > threshold) == (similar == "attract")
    cost = torch.where(together, 1 - cosine, cosine.clamp(min=0))
    pairs = torch.ones_like(together).triu(1)
    if mask is not None:
        pairs = pairs & mask
    return (cost * pairs).sum() / pairs.sum().clamp(min=1)


def fusion_loss(target_logprobs: Tensor) -> Tensor:
    """L_fusion: negative log-likelihood under the average of the K distributions, `-(logsumexp_k log p_k - log K)` (paper, eq. 7).

    Args:
        target_logprobs: (K, N).

    Returns:
        Scalar, nats per token. Never above `llm_loss`; equal where the prompts agree.

    >>> fusion_loss(torch.tensor([[0.5], [0.25]]).log())  # -log(0.375)
    tensor(0.9808)
    """
    return -(target_logprobs.logsumexp(0) - math.log(target_logprobs.shape[0])).mean()


def gate(scores: Tensor, *, temperature: float) -> Tensor:
    """log pi_ik = log_softmax_k(s_ik / temperature): (n, K) log-probabilities of the prompts given the context, from scores (n, K)."""
    return F.log_softmax(scores / temperature, dim=1)


def mixture_loss(log_gate: Tensor, sums: Tensor, *, tokens: int) -> Tensor:
    """`-(1/N) sum_i log sum_k pi_ik p_k(R_i)`: the response's likelihood under the mixture of the K prompts (docs/method.md, not of the paper).

    Its gradient trains each prompt in proportion to its posterior, and the gate towards it.

    Args:
        log_gate: (n, K) log pi_ik.
        sums: (n, K) log-probability of each whole response under each prompt, nats, summed over its tokens.
        tokens: N.

    Returns:
        Scalar, nats per token. Never above `expected_loss`.

    >>> even = torch.tensor([[0.5, 0.5]]).log()
    >>> mixture_loss(even, torch.tensor([[0.5, 0.25]]).log(), tokens=1)  # -log(0.375)
    tensor(0.9808)
    """
    return -(log_gate + sums).logsumexp(1).sum() / tokens


def expected_loss(log_gate: Tensor, sums: Tensor, *, tokens: int, uniform_share: float = 0.0) -> Tensor:
    """`-(1/N) sum_i sum_k pi_ik log p_k(R_i)`: the loss that a prompt drawn from the gate has on average (docs/method.md, not of the paper).

    Each prompt learns from the contexts that the gate gives it, so what it specialises in is something that the context shows.

    Args:
        log_gate: (n, K) log pi_ik.
        sums: (n, K) log-probability of each whole response under each prompt, nats, summed over its tokens.
        tokens: N.
        uniform_share: 0..1, the share of pi that is spread evenly: what every prompt learns from every example.

    Returns:
        Scalar, nats per token.

    >>> even = torch.tensor([[0.5, 0.5]]).log()
    >>> expected_loss(even, torch.tensor([[-1.0, -3.0]]), tokens=1)
    tensor(2.)
    """
    weights = (1 - uniform_share) * log_gate.exp() + uniform_share / sums.shape[1]
    return -(weights * sums).sum() / tokens


def balance_loss(log_gate: Tensor) -> Tensor:
    """`KL( mean_i pi_i || uniform ) = log K - H(mean_i pi_i)`: 0 where a batch uses all prompts alike, log K where it uses one.

    Args:
        log_gate: (n, K) log pi_ik.

    >>> balance_loss(torch.tensor([[0.9, 0.1], [0.1, 0.9]]).log())
    tensor(0.)
    """
    mean = log_gate.exp().mean(0)
    return (mean * (mean.clamp(min=1e-12).log() + math.log(mean.shape[0]))).sum().clamp(min=0)


def regret_loss(scores: Tensor, nll: Tensor, *, temperature: float = 1.0) -> Tensor:
    """`mean_i sum_k pi_ik (l_ik - min_j l_ij)`: the regret of a prompt drawn from the retriever's own distribution; the losses are detached.

    Unlike `selection_loss` it does not ask the scores to copy how the losses are spaced, only to put little weight on what is bad.

    Args:
        scores: (n, K) s_ik.
        nll: (n, K) l_ik, nats per token.
        temperature: of pi = softmax(s / temperature), > 0.

    Returns:
        Scalar >= 0, nats per token.

    >>> regret_loss(torch.tensor([[1.0, 1.0]]), torch.tensor([[2.0, 3.0]]))
    tensor(0.5000)
    """
    regret = nll.detach() - nll.detach().amin(1, keepdim=True)
    return (gate(scores, temperature=temperature).exp() * regret).sum(1).mean()
