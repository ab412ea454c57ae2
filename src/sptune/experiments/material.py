"""What a cell works with: made by the layers above, which see the recipe and everything else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sptune.evaluation.run import Settings, Source

if TYPE_CHECKING:
    from sptune.baselines.method import Method
    from sptune.data.dialogue import Dialogue


@dataclass(frozen=True, slots=True)
class Material:
    """What a cell works with.

    Attributes:
        method: to be fitted.
        train: dialogues to learn from.
        validation: dialogues that choose checkpoints, learning rates and the best single prompt.
        test: dialogues to evaluate on.
        evaluation: name of a decoding (`top1`, or one of `evaluation.decoding`) -> how to evaluate under it.
        source: where the test dialogues came from.
    """

    method: Method
    train: Sequence[Dialogue]
    validation: Sequence[Dialogue]
    test: Sequence[Dialogue]
    evaluation: Callable[[str], Settings]
    source: Source
