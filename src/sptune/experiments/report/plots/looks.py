"""One colour and mark a method, the same in every plot; the reference stands out in ink."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sptune.report.plots.style import Theme

MARKERS = ("o", "s", "^", "v", "P", "X")
REFERENCE_MARKER = "D"


@dataclass(frozen=True, slots=True)
class Look:
    """How a method is drawn."""

    colour: str
    marker: str


def looks(methods: Sequence[str], reference: str | None, theme: Theme) -> dict[str, Look]:
    """The look of each method, by its place among them; those of one colour differ in their mark.

    Args:
        methods: names, in the order of the settings.
        reference: the one that all are compared with.
        theme: colours.
    """
    found = {}
    others = [name for name in dict.fromkeys(methods) if name != reference]
    for number, name in enumerate(others):
        row, column = divmod(number, len(theme.prompts))
        found[name] = Look(theme.prompts[column], MARKERS[(row + column) % len(MARKERS)])
    if reference is None or reference not in methods:
        return found
    return {reference: Look(theme.ink, REFERENCE_MARKER), **found}
