"""Noise on the retriever's scores at inference (paper, ablations)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from sptune.model.selection import Selection, select

if TYPE_CHECKING:
    from sptune.evaluation.turns import ChosenTurn


def with_noise(turns: Sequence[ChosenTurn], deviation: float, *, seed: int = 0) -> list[ChosenTurn]:
    """`turns` with the prompts that `s_ik + deviation * e_ik` chooses, `e_ik` standard normal.

    Args:
        turns: from `choose_prompts`.
        deviation: standard deviation of the noise, in units of the scores, > 0.
        seed: of the noise. A turn's e depends on it, the dialogue's id and the turn alone, so that more noise is more of the same.
    """
    return [replace(turn, selection=_disturbed(turn, deviation, seed)) for turn in turns]


def _disturbed(turn: ChosenTurn, deviation: float, seed: int) -> Selection:
    digest = hashlib.sha256(f"{seed}\0{turn.dialogue.id}\0{turn.span.turn}".encode()).digest()
    scores = np.array(turn.selection.scores)
    noise = np.random.default_rng(int.from_bytes(digest[:8])).standard_normal(scores.shape)
    [selection] = select(torch.from_numpy(scores + deviation * noise)[None])
    return selection
