"""The result of an evaluation: what was evaluated, how, and every figure; written as JSON (docs/evaluation.md)."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from sptune import __version__
from sptune.errors import DataError
from sptune.evaluation.metrics.profile import MetricReport
from sptune.evaluation.ranking import Ranking, TurnRank
from sptune.evaluation.scoring import Likelihood, TurnScore
from sptune.files import write_json
from sptune.model.figures import SelectionFigures

if TYPE_CHECKING:
    from sptune.evaluation.turns import ChosenTurn
    from sptune.model.spt import SPTModel

SCHEMA_VERSION = 1
RESULT_NAME, TURNS_NAME, GENERATIONS_NAME = "evaluation.json", "turns.jsonl", "generations.jsonl"
CANDIDATES_NAME = "candidates.jsonl"
PARTIAL_NAME, PARTIAL_CANDIDATES_NAME = "generations.partial.jsonl", "candidates.partial.jsonl"
_SCORED = ("tokens", "bytes", "logprobs", "fused_logprob", "gated_logprob", "mixture_logprob")
_RANKED = ("rank", "candidates")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which model was evaluated.

    Attributes:
        base: the base model, as it was asked for.
        revision: its hub revision, or None.
        embedding_sha256: hash of its embedding table, as in the adapter.
        adapter: the adapter's folder or hub id; None for a bare model or one in memory.
        adapter_sha256: hash of `adapter_model.safetensors`, or of what it would be; None for a bare model (L = 0).
        prompts: K.
        prompt_length: L, virtual tokens of a prompt.
        template: kind of template.
        learn_stop: whether the end of a response counts as a token.
        dtype: what the base model computed in.
    """

    base: str
    revision: str | None
    embedding_sha256: str
    adapter: str | None
    adapter_sha256: str | None
    prompts: int
    prompt_length: int
    template: str
    learn_stop: bool
    dtype: str


@dataclass(frozen=True, slots=True)
class DataInfo:
    """What the model was evaluated on.

    Attributes:
        path: the file, as it was given; None for dialogues in memory.
        split: the dialogues "A:B" of it; None is all.
        persona: whose persona was read.
        dialogues: how many.
        turns: how many responses they have.
        sha256: of the dialogues evaluated, as JSON lines of the `messages` form with sorted keys.
    """

    path: str | None
    split: str | None
    persona: str | None
    dialogues: int
    turns: int
    sha256: str


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Everything that an evaluation found, as in `evaluation.json`. Parts that were not run, or could not be, are None.

    Attributes:
        model: which model; None where metrics were computed again from generations.
        data: on what; None where metrics were computed again from generations.
        settings: how: the fields of `run.Settings`, and `stops`, the texts that end a reply.
        likelihood: perplexities of the gold responses.
        selection: how well prompts were chosen; None where K = 1.
        ranking: hits@k and MRR.
        metrics: metrics of the generated replies, with the rules behind them and the human responses' figures.
        missing: part of the evaluation -> why it is not there.
        timings: part -> seconds.
        schema_version: of `evaluation.json`.
        sptune_version: that wrote it.
    """

    model: ModelInfo | None
    data: DataInfo | None
    settings: dict[str, Any]
    likelihood: Likelihood | None = None
    selection: SelectionFigures | None = None
    ranking: Ranking | None = None
    metrics: MetricReport | None = None
    missing: dict[str, str] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    sptune_version: str = __version__

    def to_json(self) -> dict[str, Any]:
        """The result as a JSON object; `from_json` gives back an equal result."""
        record: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return record

    @classmethod
    def from_json(cls, record: Any, *, name: str = "evaluation.json") -> EvaluationResult:
        """The result in a JSON object.

        Args:
            record: what `to_json` gave.
            name: of the file, for messages.

        Raises:
            DataError: another schema version, or not a result.
        """
        version = record.get("schema_version") if isinstance(record, dict) else None
        if version != SCHEMA_VERSION:
            raise DataError(
                f"{name}: schema_version is {version!r}; sptune {__version__} reads {SCHEMA_VERSION}; evaluate again"
            )
        try:
            return TypeAdapter(cls).validate_python(record)
        except ValidationError as error:
            fault = error.errors()[0]
            raise DataError(f"{name}: {'.'.join(map(str, fault['loc']))}: {fault['msg']}; evaluate again") from error


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """A line of `turns.jsonl`: the figures of one turn. Those of parts that were not run are None.

    Attributes:
        dialogue: id of its dialogue.
        turn: number of the turn in its dialogue, from 0.
        prompt: the chosen prompt.
        scores: K scores of the prompts.
        margin: best score minus second best.
        tokens: response tokens, as in `scoring.TurnScore`.
        bytes: UTF-8 bytes of the response.
        logprobs: K summed log-probabilities of the response, nats.
        fused_logprob: the same under the average of the K distributions.
        rank: of the gold response among the candidates, from 1.
        candidates: how many different candidates.
        gated_logprob: log-probability of the response under the gated average of the K distributions at every token.
        mixture_logprob: the same of the whole response by one prompt drawn from the gate.
    """

    dialogue: str
    turn: int
    prompt: int
    scores: tuple[float, ...]
    margin: float
    tokens: int | None = None
    bytes: int | None = None
    logprobs: tuple[float, ...] | None = None
    fused_logprob: float | None = None
    rank: int | None = None
    candidates: int | None = None
    gated_logprob: float | None = None
    mixture_logprob: float | None = None


def model_info(model: SPTModel, adapter: str | Path | None) -> ModelInfo:
    """Describe `model`, which was loaded from `adapter`."""
    saved = model.adapter()
    return ModelInfo(
        base=saved.config.base.id,
        revision=saved.config.base.revision,
        embedding_sha256=saved.config.base.embedding_sha256,
        adapter=None if adapter is None else str(adapter),
        adapter_sha256=_adapter_hash(saved.tensors) if model.prompts.length else None,
        prompts=model.prompts.count,
        prompt_length=model.prompts.length,
        template=saved.config.template.kind,
        learn_stop=saved.config.template.learn_stop,
        dtype=str(model.backbone.dtype).removeprefix("torch."),
    )


def turn_records(
    turns: Sequence[ChosenTurn], scores: Sequence[TurnScore], ranks: Sequence[TurnRank]
) -> list[TurnRecord]:
    """One record a turn. `scores` and `ranks` are in the order of `turns`, and may lack some or all of them."""
    scored, ranked = deque(scores), deque(ranks)
    records = []
    for turn in turns:
        where, chosen = (turn.dialogue.id, turn.span.turn), turn.selection
        record = TurnRecord(*where, chosen.prompt, chosen.scores, chosen.margin)
        if scored and (scored[0].dialogue, scored[0].turn) == where:
            record = _filled(record, scored.popleft(), _SCORED)
        if ranked and (ranked[0].dialogue, ranked[0].turn) == where:
            record = _filled(record, ranked.popleft(), _RANKED)
        records.append(record)
    return records


def save_result(folder: Path, result: EvaluationResult) -> None:
    """Write `evaluation.json`.

    Raises:
        StorageError: it cannot be written.
    """
    write_json(folder / RESULT_NAME, result.to_json())


def load_result(path: str | Path) -> EvaluationResult:
    """Read an `evaluation.json`, or that of a folder.

    Raises:
        DataError: missing, damaged, or of another schema version.
    """
    file = Path(path)
    file = file / RESULT_NAME if file.is_dir() else file
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read ({error}); give what `sptune evaluate --output` wrote") from error
    return EvaluationResult.from_json(record, name=str(file))


def _filled(record: TurnRecord, source: TurnScore | TurnRank, names: Sequence[str]) -> TurnRecord:
    values: dict[str, Any] = {name: getattr(source, name) for name in names}
    return replace(record, **values)


def _adapter_hash(tensors: dict[str, Any]) -> str:
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().float().contiguous().clone() for name, tensor in tensors.items()}
    return hashlib.sha256(save(plain, metadata={"format": "pt"})).hexdigest()
