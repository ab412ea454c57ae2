"""A few contexts with every system's reply, chosen by their place in the data and not by their quality."""

from __future__ import annotations

from collections.abc import Sequence

from sptune.evaluation.generation import Generation
from sptune.report.document import Block, Paragraph, Sample, SampleReply, Section
from sptune.report.results import label_of
from sptune.report.run_folder import MAIN, Evaluated, RunFolder

MOST_SAMPLES = 8


def samples_section(run: RunFolder) -> Section | None:
    """Sample replies of the adapter (or, without it, of the first evaluation that has replies)."""
    one = (
        run.main
        if run.main and run.main.generations
        else next((e for e in run.evaluations.values() if e.generations), None)
    )
    if one is None:
        return None
    chosen = pick_samples(one.generations)
    others = {name: {(g.dialogue, g.turn): g for g in e.generations} for name, e in run.evaluations.items()}
    samples: list[Block] = [_sample(run, generation, others) for generation in chosen]
    each = (
        "evenly spaced over the data, as many from each prompt as there are"
        if one.result.selection
        else "evenly spaced over the data"
    )
    return Section(
        "Sample replies",
        (
            Paragraph(f"{len(chosen)} of {len(one.generations):,} turns, {each}; none was picked for its quality."),
            *samples,
        ),
    )


def pick_samples(generations: Sequence[Generation], most: int = MOST_SAMPLES) -> list[Generation]:
    """At most `most` replies, shared out among the prompts in use, evenly spaced within each, in the data's order."""
    groups: dict[int, list[int]] = {}
    for number, one in enumerate(generations):
        groups.setdefault(one.prompt, []).append(number)
    share = dict.fromkeys(sorted(groups, key=lambda prompt: (-len(groups[prompt]), prompt)), 0)
    left = min(most, len(generations))
    while left:
        for prompt in share:
            if left and share[prompt] < len(groups[prompt]):
                share[prompt] += 1
                left -= 1
    picked = [
        groups[prompt][int((i + 0.5) * len(groups[prompt]) / count)]
        for prompt, count in share.items()
        for i in range(count)
    ]
    return [generations[number] for number in sorted(picked)]


def _sample(run: RunFolder, generation: Generation, others: dict[str, dict[tuple[str, int], Generation]]) -> Sample:
    replies = [SampleReply("human", generation.reference)]
    for name, one in run.evaluations.items():
        found = others[name].get((generation.dialogue, generation.turn))
        if found and found.reference == generation.reference:  # ids alone are alike in all files
            replies.append(SampleReply(label_of(name), found.prediction, _detail(one, found), main=name == MAIN))
    title = f"Dialogue {generation.dialogue}, turn {generation.turn + 1}"
    return Sample(title, generation.persona, generation.user, tuple(replies))


def _detail(one: Evaluated, found: Generation) -> str:
    parts = []
    if len(found.scores) > 1:
        score, other = max((score, k) for k, score in enumerate(found.scores) if k != found.prompt)
        chosen = f"prompt {found.prompt}, score {found.scores[found.prompt]:.2f}"
        parts.append(f"{chosen}; the best other is prompt {other}, {score:.2f}")
    most = (one.result.settings.get("decoding") or {}).get("max_new_tokens")
    if found.unfinished:
        parts.append(f"cut at {most} tokens" if isinstance(most, int) else "cut at the limit")
    return "; ".join(parts)
