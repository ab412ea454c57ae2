"""The top of the report: the figures that matter most, what to beware of, and what was run."""

from __future__ import annotations

from collections.abc import Iterator

from sptune.config import LossesSection, Recipe, RetrieverSection
from sptune.report.differences import Differences, comparable, rough_intervals
from sptune.report.document import Block, Row, Section, Table, Tile, Tiles, Warnings, table_row
from sptune.report.results import label_of, result_tiles
from sptune.report.run_folder import MAIN, RunFolder
from sptune.report.selection import known_selection, selection_tile

COLLAPSE_SHARE = 0.95  # one prompt chosen this often, with K > 1
_GAIN = 0.9995  # of perplexity: less than half a thousandth is nothing
_CUT_SHARE = 0.2  # of replies that came to no end


def short_section(run: RunFolder, found: Differences) -> Section | None:
    """The most telling figures, and the warnings; `found`: differences between the adapter and the bare model."""
    tiles = [*result_tiles(run, found), *selection_tile(run)]
    if not run.main and run.kept and run.kept.get("perplexity"):
        tiles.insert(0, Tile("Validation perplexity", f"{run.kept['perplexity']:.2f}", f"at step {run.kept['step']}"))
    blocks: list[Block] = [Tiles(tuple(tiles))] if tiles else []
    warnings = tuple(find_warnings(run))
    if warnings:
        blocks.append(Warnings(warnings))
    return Section("In short", tuple(blocks)) if blocks else None


def run_section(run: RunFolder) -> Section | None:
    """What was run, on what, for how long."""
    rows = (*(_recipe_rows(run.recipe) if run.recipe else ()), *_training_rows(run))
    return Section("What was run", (Table(("", ""), tuple(rows), wordy=True),)) if rows else None


def subtitle(run: RunFolder) -> str:
    """One line on what this run is."""
    if run.recipe is None:
        return "Selective Prompt Tuning"
    p = run.recipe.prompts
    kind = (
        f"{p.count} soft prompts of {p.length} virtual tokens"
        if p.count > 1
        else f"one soft prompt of {p.length} virtual tokens"
    )
    return f"Selective Prompt Tuning of {run.recipe.model.base}: {kind}"


def training_warnings(run: RunFolder) -> list[tuple[int, str]]:
    """What the monitor said while training: step and text."""
    found = []
    for record in run.train:
        found += [(record["step"], text) for text in record.get("warnings", ())]
    return found


def find_warnings(run: RunFolder) -> Iterator[str]:
    """What the monitor said in training, and what the evaluations give reason to say."""
    for number, (step, text) in enumerate(training_warnings(run), start=1):
        yield f"Training, step {step} (⚠ {number} in the plot of usage): {text}."
    yield from _selection_warnings(run)
    if run.main:
        yield from _reply_warnings(run)
        data = run.main.result.data
        if data and len(run.evaluations) > 1 and (rough := rough_intervals(data.dialogues)):
            yield rough
        for name, one in run.evaluations.items():
            differ = comparable(run.main, one) if name != MAIN else []
            if differ:
                yield f"{label_of(name)} cannot be compared with SPT: they do not share {' and '.join(differ)}."


def _selection_warnings(run: RunFolder) -> Iterator[str]:
    found = known_selection(run)
    if found is None:
        return
    share = max(found.figures.usage)
    if share >= COLLAPSE_SHARE:
        prompt = found.figures.usage.index(share)
        yield f"On {found.data} prompt {prompt} is chosen in {share:.0%} of turns: this amounts to plain prompt tuning."
    likelihood = found.evaluated.result.likelihood if found.evaluated else None
    if likelihood and likelihood.perplexity >= likelihood.best_prompt_perplexity * _GAIN:
        yield (
            f"Choosing gains nothing: always prompt {likelihood.best_prompt} has perplexity "
            f"{likelihood.best_prompt_perplexity:.2f}, choosing for every turn {likelihood.perplexity:.2f}."
        )


def _reply_warnings(run: RunFolder) -> Iterator[str]:
    if run.main is None or run.main.result.metrics is None:
        return
    report = run.main.result.metrics
    if report.empty_replies:
        yield f"{report.empty_replies} of {report.replies} replies are empty."
    words, human = report.values.get("words"), report.human.get("words")
    if words and human and words < 0.7 * human:
        yield (
            f"Replies have {words:.1f} words, human ones {human:.1f}. DIST rises as text gets shorter: "
            "judge diversity by the adjusted figures."
        )
    most = (run.main.result.settings.get("decoding") or {}).get("max_new_tokens")
    cut = sum(bool(one.unfinished) for one in run.main.generations)
    if cut > _CUT_SHARE * len(run.main.generations):
        yield f"{cut} of {len(run.main.generations)} replies came to no end within {most} tokens, and are cut there."


def _recipe_rows(recipe: Recipe) -> Iterator[Row]:
    p, r, t, d, e = recipe.prompts, recipe.retriever, recipe.template, recipe.data, recipe.evaluation
    yield table_row(
        "base model",
        f"{recipe.model.base}, frozen{f', revision {recipe.model.revision}' if recipe.model.revision else ''}",
    )
    yield table_row("prompts", f"K = {p.count} of L = {p.length} virtual tokens, initialised from {p.init}")
    if p.count > 1:
        yield table_row("retriever", _retriever(r))
    yield table_row(
        "template",
        f"{t.kind}, at most {t.max_length} tokens, {'learns' if t.learn_stop else 'does not learn'} where a reply ends",
    )
    yield table_row("training data", _data(d.path, d.train))
    if recipe.validates:
        yield table_row("validation data", _data(d.validation_path or d.path, d.validation))
    if recipe.evaluates:
        limit = f", the first {e.limit}" if e.limit else ""
        yield table_row("test data", _data(e.path or d.path, e.split) + limit)
    yield table_row("losses", _losses(recipe.losses))
    o = recipe.training
    yield table_row(
        "optimiser",
        f"{o.optimizer}, learning rate {o.prompt_lr:g} (prompts) and {o.retriever_lr:g} (retriever), {o.scheduler}, "
        f"{o.batch_tokens:,} tokens a batch" + (f" x {o.gradient_accumulation}" if o.gradient_accumulation > 1 else ""),
    )
    if o.shared and p.count > 1:
        yield table_row("shared start", f"the prompts are one for {o.shared:.0%} of the steps")
    yield table_row("seed", f"{recipe.seed}")


def _data(path: str, split: str | None) -> str:
    return f"{path}, dialogues {split}" if split else f"{path}, all dialogues"


def _retriever(r: RetrieverSection) -> str:
    reads = {
        "mean": "mean embeddings",
        "recent": f"recent tokens (half-life {r.half_life:g})",
        "hidden": "hidden states",
    }
    parts = [r.kind, r.activation, "centred" if r.centre or r.whiten else "not centred"]
    if r.kind != "transformer":
        parts.append(f"reads {reads[r.input]}" + (f" whitened to {r.whiten} components" if r.whiten else ""))
    keys = {"prompts": "the prompts", "random": "keys of its own", "clusters": "keys of its own, from clusters"}
    return ", ".join([*parts, f"compares with {keys[r.keys]}"])


def _losses(losses: LossesSection) -> str:
    c, s = losses.contrastive, losses.selection
    even = f", {losses.uniform_share:.0%} spread evenly" if losses.uniform_share else ""
    gated = f" ({losses.objective}, gate τ = {losses.gate_temperature:g}{even})" if losses.objective != "mean" else ""
    teacher = f"{s.teacher_temperature:g}, " if s.kind == "kl" else ""
    parts = {
        "LLM": (losses.llm_weight, gated),
        "selection" if s.kind == "kl" else "regret": (s.weight, f" (τ = {teacher}{s.student_temperature:g})"),
        "contrastive": (c.weight, f" ({c.similar} where {c.similarity} > {c.threshold:g})"),
        "fusion": (losses.fusion.weight, f" ({losses.fusion.kind})"),
        "balance": (losses.balance_weight, ""),
    }
    total = " + ".join(f"{weight:g} {name}{detail}" for name, (weight, detail) in parts.items() if weight)
    return f"{total}; update: {losses.update}" + ("; shuffled teachers" if losses.shuffle_teachers else "")


def _training_rows(run: RunFolder) -> Iterator[Row]:
    if run.train:
        last = run.train[-1]
        tokens, examples = (sum(record.get(name, 0) for record in run.train) for name in ("tokens", "examples"))
        epochs = f", {last['epoch']:.2f} epochs" if "epoch" in last else ""
        seen = ", each seen by every prompt" if run.prompts != 1 else ""
        yield table_row("trained", f"{last['step']:,} steps{epochs}: {examples:,.0f} turns, {tokens:,.0f} tokens{seen}")
    if run.kept and run.finished and run.recipe:
        metric = run.recipe.training.metric
        yield table_row(
            "adapter kept",
            f"that of step {run.kept['step']}: lowest validation {metric.replace('_', ' ')}, {run.kept[metric]:.2f}",
        )
    if run.info:
        yield table_row("time", f"{duration(run.info.seconds)} of training, begun {run.info.started}")
        yield table_row("machine", run.info.machine)
    for name, one in run.evaluations.items():
        seconds = sum(one.result.timings.values())
        if seconds:
            yield table_row(
                f"evaluation of {label_of(name)}",
                duration(seconds) + (f", {one.result.model.dtype}" if one.result.model else ""),
            )


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(7), duration(192), duration(7380)
    ('7 s', '3 min 12 s', '2 h 3 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
