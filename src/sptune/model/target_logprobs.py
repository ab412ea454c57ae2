"""Log-probabilities of target tokens from hidden states, without keeping a (N, V) tensor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.utils.checkpoint import checkpoint

Head = Callable[[Tensor], Tensor]  # (M, H) hidden states -> (M, V) logits


def _chunk_logprobs(hidden: Tensor, targets: Tensor, head: Head) -> Tensor:
    logits = head(hidden).float()  # (C, V)
    chosen: Tensor = logits.gather(1, targets[:, None]).squeeze(1)
    return chosen - logits.logsumexp(1)  # (C,)


class _TargetLogprobs(torch.autograd.Function):
    """log p(target | hidden), row by row. A row's value depends on its hidden state alone, so the forward pass can keep the gradient of each
    row, (M, H), instead of its logits, (M, V); the backward pass only scales it."""

    @staticmethod
    def forward(ctx: FunctionCtx, hidden: Tensor, targets: Tensor, head: Head, chunk: int) -> Tensor:
        values = torch.empty(hidden.shape[0], dtype=torch.float32, device=hidden.device)
        gradient = torch.empty_like(hidden) if hidden.requires_grad else None
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            if gradient is None:
                values[part] = _chunk_logprobs(hidden[part], targets[part], head)
                continue
            with torch.enable_grad():
                rows = hidden[part].detach().requires_grad_()
                logprobs = _chunk_logprobs(rows, targets[part], head)
                (gradient[part],) = torch.autograd.grad(logprobs.sum(), rows)
            values[part] = logprobs.detach()
        ctx.save_for_backward(*([] if gradient is None else [gradient]))
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return (gradient * upstream[0][:, None]).to(gradient.dtype), None, None, None


def target_logprobs(hidden: Tensor, targets: Tensor, *, head: Head, chunk: int = 256) -> Tensor:
    """Log-probability of each target token: `log softmax(head(h))[target]`.

    Args:
        hidden: (M, H) last hidden states at the positions that predict the targets.
        targets: (M,) token ids.
        head: the frozen output layer, (C, H) -> (C, V) logits. It must treat rows independently.
        chunk: C, rows whose logits exist at one time.

    Returns:
        (M,) float32 log-probabilities in nats. Differentiable once, with respect to `hidden`.
    """
    result: Tensor = _TargetLogprobs.apply(hidden, targets, head, chunk)  # type: ignore[no-untyped-call]
    return result


def weighted_logits_logprobs(
    hidden: Tensor, targets: Tensor, weights: Tensor, *, head: Head, chunk: int = 128
) -> Tensor:
    """Log-probability of each target under the softmax of the weighted sum of K logit vectors (fusion of the published code).

    Args:
        hidden: (K, N, H) last hidden states of the K prompts.
        targets: (N,) token ids.
        weights: (N, K) weight of each prompt's logits: the scores s_ik.
        head: the frozen output layer.
        chunk: target positions whose (K, C, V) logits exist at one time; they are computed again in the backward pass.

    Returns:
        (N,) float32 log-probabilities in nats, differentiable in `hidden` and `weights`.
    """

    def fused(rows: Tensor, ids: Tensor, mix: Tensor) -> Tensor:
        each = head(rows.flatten(0, 1)).float()  # (K * C, V), one product of matrices
        logits = torch.einsum("kcv,ck->cv", each.view(*rows.shape[:2], each.shape[1]), mix.float())  # (C, V)
        return logits.gather(1, ids[:, None]).squeeze(1) - logits.logsumexp(1)

    parts = [
        checkpoint(fused, hidden[:, i : i + chunk], targets[i : i + chunk], weights[i : i + chunk], use_reentrant=False)
        for i in range(0, max(1, targets.shape[0]), chunk)
    ]
    return torch.cat(parts)
