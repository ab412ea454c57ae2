"""What the retriever and each loss add to a training step, and what choosing and fusing add to a reply, in time and peak memory.

Run it on a quiet machine:  python benchmarks/cost.py [--data FILE] [--dialogues 8] [--repeat 5] [--only selection,fusion]

Every variant runs in a process of its own, beside the same work without it: the two take turns, now one first and now the other, and the
figures are ratios of the two: the median, and the middle half of all rounds.

Training steps, against `prompts` (K = 4 prompts of L = 8, L_LLM alone, no retriever):
retriever           the retriever scores every context; no loss uses the scores
selection           ... and learns from the selection loss
mlp, transformer    ... with another map g
hidden              ... reading the bare model's last hidden state, one more forward pass without gradient
contrastive         the retriever learns from the contrastive loss instead (sentence BLEU of personas)
fusion              the fusion loss as the paper states it: average of the K distributions; no retriever
weighted_logits     the fusion loss as published code has it: score-weighted sum of logits
all, all_weighted   selection, contrastive and either fusion loss, with the default weights

Replies, against `forced` (greedy, each context's prompt known before):
top1                the retriever chooses the prompt first
fused, gated        all K prompts speak together
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sptune.build import load_recipe_base, make_model
from sptune.config import Recipe, parse_recipe
from sptune.data.batch import collate
from sptune.data.dialogue import Dialogue
from sptune.data.load import load_dialogues
from sptune.model.generate import Decoding, PromptedContext, generate_tokens
from sptune.model.load import LoadedBase
from sptune.model.retriever import Contexts, Retriever
from sptune.model.spt import SPTModel
from sptune.training.objective import Objective
from sptune.training.similarity import make_similarity

Step = Callable[[], object]

OFF = tuple(f"losses.{name}.weight=0" for name in ("selection", "contrastive", "fusion"))
SELECTION = (*OFF, "losses.selection.weight=0.4")
WEIGHTED = "losses.fusion.kind=score_weighted_logits"
TRAINING: dict[str, tuple[str, ...]] = {
    "prompts": OFF,
    "retriever": OFF,
    "selection": SELECTION,
    "mlp": (*SELECTION, "retriever.kind=mlp"),
    "transformer": (*SELECTION, "retriever.kind=transformer"),
    "hidden": (*SELECTION, "retriever.input=hidden", "retriever.keys=random"),
    "contrastive": (*OFF, "losses.contrastive.weight=0.4"),
    "fusion": (*OFF, "losses.fusion.weight=1"),
    "weighted_logits": (*OFF, "losses.fusion.weight=1", WEIGHTED),
    "all": (),
    "all_weighted": (WEIGHTED,),
}
UNSCORED = ("prompts", "fusion")  # no loss of theirs needs a score
REPLIES = ("top1", "fused", "gated")
VARIANTS = (*list(TRAINING)[1:], *REPLIES)
BATCH, NEW_TOKENS = 4, 32


class NoRetriever(Retriever):
    """Scores nothing."""

    def forward(self, contexts: Contexts, prompts: Tensor) -> Tensor:
        return prompts.new_zeros(len(contexts.length), len(prompts))


def training_step(recipe: Recipe, base: LoadedBase, talks: list[Dialogue], *, scored: bool) -> Step:
    model = make_model(recipe, base=base)
    if not scored:
        model.retriever = NoRetriever("identity", dim=base.backbone.embedding_dim)
    sequences = [sequence for talk in talks for sequence in model.encoder.encode(talk)]
    sequences.sort(key=lambda sequence: len(sequence.input_ids))
    parts = [sequences[i : i + BATCH] for i in range(0, len(sequences), BATCH)]
    batches = [collate(part, stop_id=model.encoder.stop_id) for part in parts]
    similarity = make_similarity(recipe.losses.contrastive.similarity, backbone=model.backbone)
    objective = Objective(recipe.losses, similarity=similarity)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def step() -> None:
        for batch in batches:
            output = model(batch, fuse_logits=objective.fuses_logits)
            objective(output, batch).total.backward()
            optimizer.step()
            optimizer.zero_grad()

    return step


def reply_step(model: SPTModel, talks: list[Dialogue], kind: Any) -> Step:
    contexts = [talk.context(len(talk.turns) - 1) for talk in talks]
    if kind != "forced":
        return lambda: model.generate(contexts, decoding=Decoding(max_new_tokens=NEW_TOKENS, kind=kind))
    ids = [model.encoder.encode_context(context).input_ids for context in contexts]
    chosen = model.scores(contexts).argmax(1).tolist()
    rows = [PromptedContext(row, prompt) for row, prompt in zip(ids, chosen, strict=True)]
    return lambda: generate_tokens(model, rows, decoding=Decoding(max_new_tokens=NEW_TOKENS))


def make_steps(variant: str, base: LoadedBase, talks: list[Dialogue]) -> tuple[Step, Step]:
    """The work without the variant's part, and with it."""
    if variant in REPLIES:
        model = make_model(Recipe(), base=base)
        # every row makes all its tokens
        model.encoder.stop_id = model.backbone.model.generation_config.eos_token_id = None
        return reply_step(model, talks, "forced"), reply_step(model, talks, variant)
    first, second = (parse_recipe({}, TRAINING[name]) for name in ("prompts", variant))
    bare = training_step(first, base, talks, scored=False)
    return bare, training_step(second, base, talks, scored=variant not in UNSCORED)


def seconds(step: Step) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def timed(bare: Step, step: Step, *, swapped: bool) -> tuple[float, float]:
    """Seconds of both, which of the two is first being said: whichever is second may find the machine warmer."""
    if swapped:
        second, first = seconds(step), seconds(bare)
    else:
        first, second = seconds(bare), seconds(step)
    return first, second


def memory_mb(name: str) -> float:
    """`VmRSS`, what the process holds now, or `VmHWM`, the most it held since `reset_peak` (Linux)."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(f"{name}:")) / 1024


def reset_peak() -> None:
    """Give free memory back to the system first (glibc), or it would hide what a step needs."""
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def step_mb(step: Step) -> float:
    """The most memory that a step needs beside what was there before it."""
    reset_peak()
    before = memory_mb("VmRSS")
    step()
    return memory_mb("VmHWM") - before


def measure(variant: str, data: str, dialogues: int, repeat: int) -> dict[str, float]:
    torch.manual_seed(0)
    base = load_recipe_base(Recipe())
    bare, step = make_steps(variant, base, load_dialogues(data, split=f"1:{dialogues}"))
    for run in (bare, step):  # warm up
        run()
    memory = [step_mb(run) for run in (bare, step)]
    rounds = [timed(bare, step, swapped=bool(i % 2)) for i in range(repeat)]
    low, middle, high = statistics.quantiles([second / first for first, second in rounds], method="inclusive")
    return {
        "seconds": statistics.median(second for _, second in rounds),
        "time": middle,
        "low": low,
        "high": high,
        "step_mb": memory[1],
        "memory": memory[1] / max(1.0, memory[0]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sample:train", help="dialogue file")
    parser.add_argument("--dialogues", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--only", default=",".join(VARIANTS), help="variants, separated by commas")
    parser.add_argument("--variant", choices=VARIANTS, help="measure one variant and print JSON")
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args.variant, args.data, args.dialogues, args.repeat)))
        return
    shared = ["--data", args.data, "--dialogues", str(args.dialogues), "--repeat", str(args.repeat)]
    print(f"{'variant':<17}{'seconds':>9}{'time':>9}{'middle half':>15}{'step MB':>9}{'memory':>9}")
    for variant in args.only.split(","):
        command = [sys.executable, __file__, *shared, "--variant", variant]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        f = json.loads(output.splitlines()[-1])
        half = f"{f['low']:.2f} to {f['high']:.2f}"
        figures = f"{f['seconds']:>9.2f}{f['time']:>8.2f}x{half:>15}{f['step_mb']:>9.0f}{f['memory']:>8.2f}x"
        print(f"{variant:<17}{figures}", flush=True)


if __name__ == "__main__":
    main()
