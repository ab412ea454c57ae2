"""Generation throughput of a batch whose rows use different prompts, against plain `generate` without prompts. Bar: at least 0.9.

Run it on a quiet machine:  python benchmarks/generate.py [--rows 32] [--new-tokens 32] [--repeat 3]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from sptune.data.load import load_dialogues
from sptune.model.generate import Decoding, PromptedContext, generate_tokens
from sptune.model.spt import SPTModel


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def plain(model: SPTModel, contexts: list[tuple[int, ...]], new_tokens: int) -> None:
    width = max(map(len, contexts))
    ids = torch.zeros(len(contexts), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, context in enumerate(contexts):
        ids[row, width - len(context) :] = torch.tensor(context)
        mask[row, width - len(context) :] = 1
    with torch.no_grad():
        model.backbone.model.generate(
            ids, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, pad_token_id=0
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--data", default="sample:train")
    args = parser.parse_args()

    model = SPTModel.from_base(num_prompts=4, prompt_length=8)
    model.encoder.stop_id = model.backbone.model.generation_config.eos_token_id = None  # every row makes all its tokens
    turns = [talk.context(n) for talk in load_dialogues(args.data) for n in range(len(talk.turns))][: args.rows]
    contexts = [model.encoder.encode_context(turn).input_ids for turn in turns]
    rows = [PromptedContext(context, i % 4) for i, context in enumerate(contexts)]
    decoding = Decoding(max_new_tokens=args.new_tokens)

    def ours() -> None:
        model.scores(turns)  # choosing counts
        generate_tokens(model, rows, decoding=decoding)

    for run in (ours, lambda: plain(model, contexts, args.new_tokens)):  # warm up
        run()
    pairs = [(seconds(ours), seconds(lambda: plain(model, contexts, args.new_tokens))) for _ in range(args.repeat)]
    tokens = args.rows * args.new_tokens
    mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{args.rows} rows over 4 prompts: {tokens / mine:.0f} new tokens/s; plain generate: {tokens / theirs:.0f}")
    print(
        f"throughput against plain generate: {theirs / mine:.2f} (at least 0.9: {'met' if theirs / mine >= 0.9 else 'NOT met'})"
    )


if __name__ == "__main__":
    main()
