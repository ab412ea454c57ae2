"""How fast a training step is, against the published way, dynamic padding, plain prompt tuning and the bare model.

Run it on a quiet machine:  python benchmarks/train_step.py [--data FILE] [--dialogues 8] [--repeat 3]

Every variant runs in a process of its own, so that its peak memory is its own; figures are examples (turns) a second, medians of the repeats.
All variants train the same K prompts on turns of the same dialogues:

packed        our step: K prompts x whole dialogues in one forward pass, all losses, backward, optimizer
kernel        the same with torch's own attention kernel, as before sptune.model.causal_attention
published (a) one sequence per turn and prompt, padded to 512, prompts in a Python loop, logits of every position
per_turn  (b) one sequence per turn, dynamic padding, otherwise our step
k1        (c) plain prompt tuning: our step with K = 1
bare          the frozen model's forward and input gradient on our packed batch: body, output layer at response positions, cross-entropy
bare_full     the same with the output layer at every position, as transformers computes a loss
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812

from sptune.config import LossesSection
from sptune.data.batch import TokenBatch, collate
from sptune.data.encoder import TokenSequence
from sptune.data.load import load_dialogues
from sptune.model.load import load_base
from sptune.model.spt import SPTModel
from sptune.training.objective import Objective
from sptune.training.similarity import make_similarity

VARIANTS = ("packed", "kernel", "published", "per_turn", "k1", "bare", "bare_full")
PUBLISHED_LENGTH = 512
PUBLISHED_BATCH = 2  # the published range is 2 to 32 a GPU; on a CPU the batch size hardly matters
Step = Callable[[], int]  # runs one pass and says how many examples it trained on


def one_sequence_per_turn(sequences: list[TokenSequence]) -> list[TokenSequence]:
    return [
        TokenSequence(sequence.dialogue, sequence.input_ids[: span.response_end], (span,))
        for sequence in sequences
        for span in sequence.spans
    ]


def batches(sequences: list[TokenSequence], model: SPTModel, size: int) -> list[TokenBatch]:
    ordered = sorted(sequences, key=lambda sequence: len(sequence.input_ids))
    return [collate(ordered[i : i + size], stop_id=model.encoder.stop_id) for i in range(0, len(ordered), size)]


def spt_step(model: SPTModel, parts: list[TokenBatch]) -> Step:
    objective = Objective(LossesSection(), similarity=make_similarity("persona_bleu", backbone=model.backbone))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)

    def step() -> int:
        for batch in parts:
            objective(model(batch), batch).total.backward()
            optimizer.step()
            optimizer.zero_grad()
        return sum(batch.examples for batch in parts)

    return step


def published_step(model: SPTModel, parts: list[TokenBatch]) -> Step:
    def step() -> int:
        for batch in parts:
            length = model.prompts.length
            ids = F.pad(batch.input_ids, (0, PUBLISHED_LENGTH - batch.input_ids.shape[1]))  # (B, 512)
            mask = torch.arange(length + PUBLISHED_LENGTH)[None] < (batch.lengths + length)[:, None]
            labels = torch.full((ids.shape[0], length + PUBLISHED_LENGTH), -100)
            labels[batch.target_row, length + batch.target_position] = batch.target_ids
            losses = []
            for prompt in model.prompts.embeddings:
                embeddings = model.backbone.embed(ids)
                inputs = torch.cat([prompt.to(embeddings.dtype).expand(len(ids), -1, -1), embeddings], 1)
                logits = model.backbone.model(inputs_embeds=inputs, attention_mask=mask.long(), use_cache=False).logits
                losses.append(F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=-100))
            torch.stack(losses).mean().backward()
            model.zero_grad()
        return sum(batch.examples for batch in parts)

    return step


def bare_step(model: SPTModel, parts: list[TokenBatch], *, full: bool) -> Step:
    def step() -> int:
        for batch in parts:
            count, length = model.prompts.count, model.prompts.length
            rows = count * batch.input_ids.shape[0]
            embeddings = model.backbone.embed(batch.input_ids).repeat(count, 1, 1)
            inputs = F.pad(embeddings, (0, 0, length, 0)).requires_grad_()  # (K B, L + T, D)
            labels = torch.full((rows, inputs.shape[1]), -100)
            shift = torch.arange(count)[:, None] * batch.input_ids.shape[0]
            labels[shift + batch.target_row, length + batch.target_position] = batch.target_ids
            hidden = model.backbone.hidden(inputs)
            if not full:
                hidden, labels = hidden[labels >= 0], labels[labels >= 0]
            logits = model.backbone.head(hidden)
            F.cross_entropy(logits.flatten(0, -2).float(), labels.flatten(), ignore_index=-100).backward()
        return sum(batch.examples for batch in parts)

    return step


def make_step(variant: str, data: str, dialogues: int) -> tuple[Step, int]:
    model = SPTModel.from_base(load_base("smollm2-135m"), num_prompts=1 if variant == "k1" else 4, prompt_length=8)
    if variant == "kernel":
        model.backbone.model.set_attn_implementation("sdpa")
    talks = load_dialogues(data, split=f"1:{dialogues}")
    packed = [sequence for talk in talks for sequence in model.encoder.encode(talk)]
    if variant == "published":
        parts = batches(one_sequence_per_turn(packed)[:: max(1, dialogues)], model, PUBLISHED_BATCH)
        return published_step(model, parts), 4 * PUBLISHED_LENGTH * sum(batch.input_ids.shape[0] for batch in parts)
    parts = batches(one_sequence_per_turn(packed), model, 8) if variant == "per_turn" else batches(packed, model, 4)
    tokens = model.prompts.count * sum(batch.tokens for batch in parts)
    if variant.startswith("bare"):
        return bare_step(model, parts, full=variant == "bare_full"), tokens
    return spt_step(model, parts), tokens


def measure(variant: str, data: str, dialogues: int, repeat: int) -> dict[str, float]:
    torch.manual_seed(0)
    step, tokens = make_step(variant, data, dialogues)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, examples = [], 0
    for _ in range(repeat + 1):
        start = time.perf_counter()
        examples = step()
        seconds.append(time.perf_counter() - start)
    taken = statistics.median(seconds[1:])  # the first pass warms up
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "examples_per_s": examples / taken,
        "tokens_per_s": tokens / taken,
        "peak_mb": peak / 1024,
        "step_mb": (peak - before) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", default="sample:train", help="dialogue file; the figures in docs/performance.md are of ConvAI2"
    )
    parser.add_argument("--dialogues", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--variant", choices=VARIANTS, help="measure one variant and print JSON")
    args = parser.parse_args()
    if args.variant:
        print(json.dumps(measure(args.variant, args.data, args.dialogues, args.repeat)))
        return
    command = [
        sys.executable,
        __file__,
        "--data",
        args.data,
        "--dialogues",
        str(args.dialogues),
        "--repeat",
        str(args.repeat),
    ]
    found = {}
    print(f"{'variant':<11}{'examples/s':>12}{'tokens/s':>10}{'peak MB':>9}{'step MB':>9}{'packed is':>12}")
    for variant in VARIANTS:
        output = subprocess.run([*command, "--variant", variant], check=True, capture_output=True, text=True).stdout
        found[variant] = json.loads(output.splitlines()[-1])
        f = found[variant]
        ratio = found["packed"]["examples_per_s"] / f["examples_per_s"]
        print(
            f"{variant:<11}{f['examples_per_s']:>12.3f}{f['tokens_per_s']:>10.0f}{f['peak_mb']:>9.0f}{f['step_mb']:>9.0f}{ratio:>11.2f}x",
            flush=True,
        )
    bars = {
        "packed against published (a)": (
            found["packed"]["examples_per_s"] / found["published"]["examples_per_s"],
            20,
            "at least",
        ),
        "packed against per_turn (b)": (
            found["packed"]["examples_per_s"] / found["per_turn"]["examples_per_s"],
            4,
            "at least",
        ),
        "cost of K = 4 against k1 (c)": (
            found["k1"]["examples_per_s"] / found["packed"]["examples_per_s"],
            4.2,
            "at most",
        ),
        "time against bare": (found["bare"]["examples_per_s"] / found["packed"]["examples_per_s"], 1.25, "at most"),
    }
    for name, (ratio, bar, kind) in bars.items():
        met = ratio >= bar if kind == "at least" else ratio <= bar
        print(f"{name}: {ratio:.2f} ({kind} {bar}: {'met' if met else 'NOT met'})")


if __name__ == "__main__":
    main()
