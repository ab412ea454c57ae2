"""How often the tests of `sptune.evaluation.significance` tell two systems apart that are alike, at a level of 5%.

    python benchmarks/false_alarms.py --data valid_self_original.txt [--trials 200] [--dialogues 50] [--samples 200]

The two systems are the two speakers of real dialogues, swapped at random dialogue by dialogue: whatever sets them apart is chance. For DIST-1 and
DIST-2, their differences are tested by bootstrap and by jackknife (`replace=False`), and their mean gain in percent by bootstrap, as in reports.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from sptune.data.dialogue import Turn
from sptune.data.load import load_dialogues
from sptune.evaluation.metrics.resampling import CorpusScore, distinct_of_rows
from sptune.evaluation.significance import BootstrapResult, paired_bootstrap
from sptune.evaluation.table import Table, markdown
from sptune.experiments.report.gains import DIST, gain_score

TURNS = 7
LEVEL = 0.05


def main() -> None:
    """Run the trials and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="dialogue file")
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--dialogues", type=int, default=50)
    parser.add_argument("--samples", type=int, default=200, help="resamples of each test")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    talks = [pair for talk in load_dialogues(options.data) if (pair := _speakers(talk.turns))]
    random = np.random.default_rng(options.seed)
    found: dict[tuple[str, str], list[BootstrapResult]] = {}
    for _ in range(options.trials):
        drawn = random.permutation(len(talks))[: options.dialogues]
        sides = random.integers(0, 2, len(drawn))
        for key, result in _tests([talks[n] for n in drawn], sides, options.samples).items():
            found.setdefault(key, []).append(result)
    print(markdown([_table(found, options.trials)]))


def _speakers(turns: Sequence[Turn]) -> tuple[list[str], list[str]] | None:
    """What either speaker says in the first turns; None where one says too little."""
    users, responses = [turn.user for turn in turns if turn.user], [turn.response for turn in turns if turn.response]
    return (users[:TURNS], responses[:TURNS]) if min(len(users), len(responses)) >= TURNS else None


def _tests(
    talks: list[tuple[list[str], list[str]]], sides: np.ndarray, samples: int
) -> dict[tuple[str, str], BootstrapResult]:
    one, other = (
        [text for talk, side in zip(talks, sides, strict=True) for text in talk[(side + n) % 2]] for n in (0, 1)
    )
    clusters = [f"{number:03}" for number in range(len(talks)) for _ in range(TURNS)]
    left, right = ({name: distinct_of_rows(texts, n) for n, name in enumerate(DIST, 1)} for texts in (one, other))
    gain: CorpusScore = gain_score(left, right, DIST)
    made = {("mean gain, %", "bootstrap"): paired_bootstrap(gain, lambda rows: 0.0, clusters, samples=samples)}
    for name in DIST:
        for way, replace in (("bootstrap", True), ("jackknife", False)):
            made[name, way] = paired_bootstrap(left[name], right[name], clusters, replace=replace, samples=samples)
    return made


def _table(found: dict[tuple[str, str], list[BootstrapResult]], trials: int) -> Table:
    rows = []
    for (name, way), results in sorted(found.items()):
        alarms = np.mean([one.p_value < LEVEL for one in results])
        missed = np.mean([not one.low <= 0.0 <= one.high for one in results])
        rows.append((name, way, f"{alarms:.1%}", f"{missed:.1%}"))
    columns = ("figure", "resampled by", f"p < {LEVEL}", "95% interval leaves out 0")
    return Table(f"False alarms in {trials} trials", columns, tuple(rows))


if __name__ == "__main__":
    main()
