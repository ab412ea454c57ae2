from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from sptune.adapter import Adapter, load_adapter
from sptune.errors import AdapterError, UsageError
from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase
from sptune.model.spt import SPTModel
from sptune.peft_adapter import common_base, export_prompts, import_prompts
from sptune.peft_folder import PeftPrompt, read_peft
from sptune.text import PAPER_STOPS
from tiny import DIALOGUES, tiny_llama, tiny_spt


def make_base(tokenizer: PreTrainedTokenizerFast, kind: str = "llama") -> LoadedBase:
    """A tiny base model of D = 32 that a test may change."""
    model: Any = tiny_llama(len(tokenizer))
    if kind == "gpt2":
        torch.manual_seed(0)
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=96))
    return LoadedBase(Backbone(model, base=f"tiny/{kind}"), tokenizer)


@pytest.fixture
def base(tiny_tokenizer: PreTrainedTokenizerFast) -> LoadedBase:
    return make_base(tiny_tokenizer)


@pytest.fixture
def model(base: LoadedBase) -> SPTModel:
    return tiny_spt(base, count=3, length=5)


def logits_of_ours(model: SPTModel, prompt: int, ids: torch.Tensor) -> torch.Tensor:
    """Logits of the text tokens of [SP_k; tokens]."""
    rows = model.prompts.embeddings[prompt].expand(ids.shape[0], -1, -1)
    inputs = torch.cat([rows, model.backbone.embed(ids)], dim=1)  # (B, L+T, D)
    return model.backbone.head(model.backbone.hidden(inputs))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_peft_loads_an_exported_prompt_with_equal_logits(
    kind: str, tiny_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    from peft import PeftModel

    model = tiny_spt(make_base(tiny_tokenizer, kind), count=3, length=5)
    ids = torch.randint(0, len(tiny_tokenizer), (2, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = [logits_of_ours(model, k, ids) for k in range(3)]
    export_prompts(model.adapter(), tmp_path / "peft", prompt=2)
    peft = PeftModel.from_pretrained(model.backbone.model, tmp_path / "peft").eval()
    with torch.no_grad():
        theirs = peft(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    assert torch.allclose(theirs, ours[2], atol=1e-5, rtol=0)
    assert not torch.allclose(theirs, ours[1], atol=1e-3)


def test_the_folder_is_what_peft_itself_writes(model: SPTModel, tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model

    export_prompts(model.adapter(), tmp_path / "ours", prompt=0)
    peft = get_peft_model(model.backbone.model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5))
    peft.save_pretrained(tmp_path / "theirs")
    ours, theirs = (json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("ours", "theirs"))
    assert set(ours) == set(theirs) - {"peft_version"}  # filled in by the PEFT that reads it
    for key in ("peft_type", "task_type", "num_virtual_tokens", "token_dim", "num_transformer_submodules"):
        assert ours[key] == theirs[key], key
    shapes = [
        {k: v.shape for k, v in load_file(tmp_path / n / "adapter_model.safetensors").items()}
        for n in ("ours", "theirs")
    ]
    assert shapes[0] == shapes[1]


def test_export_needs_no_peft(model: SPTModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)  # `import peft` now fails
    export_prompts(model.adapter(), tmp_path / "peft", prompt=0)
    assert sorted(file.name for file in (tmp_path / "peft").iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]


def test_every_prompt_comes_back_bit_for_bit(model: SPTModel, tmp_path: Path) -> None:
    folders = export_prompts(model.adapter(), tmp_path / "peft")
    assert [folder.name for folder in folders] == ["prompt-0", "prompt-1", "prompt-2"]
    prompts = [read_peft(folder) for folder in folders]
    assert common_base(prompts) is prompts[-1]
    again = import_prompts(prompts, LoadedBase(model.backbone, model.encoder.tokenizer))
    assert torch.equal(again.prompts.embeddings, model.prompts.embeddings)


def test_an_alias_is_written_as_its_hub_id_unless_a_name_is_given(model: SPTModel, tmp_path: Path) -> None:
    adapter = model.adapter()
    config = adapter.config.model_copy(
        update={"base": adapter.config.base.model_copy(update={"id": "smollm2-135m", "revision": "abc"})}
    )
    adapter = Adapter(config, adapter.tensors)
    export_prompts(adapter, tmp_path / "hub", prompt=0)
    export_prompts(adapter, tmp_path / "own", prompt=0, base="me/mine")
    hub, own = read_peft(tmp_path / "hub"), read_peft(tmp_path / "own")
    assert (hub.base, hub.revision) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "abc")
    assert (own.base, own.revision) == ("me/mine", None)


def test_an_imported_adapter_saves_loads_and_answers(model: SPTModel, tmp_path: Path) -> None:
    base = LoadedBase(model.backbone, model.encoder.tokenizer)
    prompts = [read_peft(folder) for folder in export_prompts(model.adapter(), tmp_path / "peft")]
    for count in (1, 3):
        imported = import_prompts(prompts[:count], base)
        imported.save_pretrained(tmp_path / "adapter")
        config = load_adapter(tmp_path / "adapter").config
        assert (config.num_prompts, config.prompt_length, config.retriever.kind) == (count, 5, "identity")
        loaded = SPTModel.from_pretrained(tmp_path / "adapter", base=base)
        reply = loaded.generate([DIALOGUES[0].context(1)])[0]
        assert len(reply.selection.scores) == count
        assert loaded.stops == PAPER_STOPS


def test_export_refuses_what_does_not_exist(model: SPTModel, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no prompt 3; this adapter has prompts 0 to 2"):
        export_prompts(model.adapter(), tmp_path / "peft", prompt=3)
    with pytest.raises(UsageError, match="no prompt -1"):
        export_prompts(model.adapter(), tmp_path / "peft", prompt=-1)
    bare = tiny_spt(LoadedBase(model.backbone, model.encoder.tokenizer), count=1, length=0)
    with pytest.raises(AdapterError, match="no virtual tokens"):
        export_prompts(bare.adapter(), tmp_path / "peft", prompt=0)
    assert list(tmp_path.iterdir()) == []


def test_only_an_earlier_export_is_replaced_and_only_by_force(model: SPTModel, tmp_path: Path) -> None:
    output = tmp_path / "peft"
    export_prompts(model.adapter(), output, prompt=0)
    before = (output / "adapter_model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="--force"):
        export_prompts(model.adapter(), output, prompt=1)
    assert (output / "adapter_model.safetensors").read_bytes() == before
    export_prompts(model.adapter(), output, prompt=1, force=True)
    assert (output / "adapter_model.safetensors").read_bytes() != before
    export_prompts(model.adapter(), output, force=True)
    assert sorted(file.name for file in output.iterdir()) == ["prompt-0", "prompt-1", "prompt-2"]
    export_prompts(model.adapter(), output, force=True)
    (output / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="left alone"):
        export_prompts(model.adapter(), output, force=True)
    assert (output / "notes.txt").read_text() == "mine"


def test_a_trained_adapter_is_never_replaced_by_its_export(model: SPTModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "adapter")
    with pytest.raises(UsageError, match="left alone"):
        export_prompts(model.adapter(), tmp_path / "adapter", prompt=0, force=True)
    assert load_adapter(tmp_path / "adapter").config.num_prompts == 3


def peft_folder(path: Path, tensors: dict[str, torch.Tensor] | None = None, **changes: Any) -> Path:
    """A valid PEFT folder of L = 2, D = 32, but for `changes` of its configuration; `...` removes a key."""
    path.mkdir()
    config = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "num_virtual_tokens": 2,
        "token_dim": 32,
        **changes,
    }
    config = {key: value for key, value in config.items() if value is not ...}
    (path / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors or {"prompt_embeddings": torch.ones(2, 32)}, path / "adapter_model.safetensors")
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"token_dim": None},
        {"task_type": None},
        {"num_transformer_submodules": 1},
        {"some_key_of_a_later_peft": [1, 2]},
    ],
)
def test_read_accepts_what_peft_versions_write(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert read_peft(peft_folder(tmp_path / "peft", **changes)).embeddings.shape == (2, 32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_read_turns_other_precisions_into_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.arange(64).view(2, 32) / 4
    read = read_peft(peft_folder(tmp_path / "peft", {"prompt_embeddings": values.to(dtype)}))
    assert read.embeddings.dtype == torch.float32
    assert torch.equal(read.embeddings, values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LORA"}, "peft_type: .*'PROMPT_TUNING'.*got 'LORA'"),
        ({"peft_type": "SELECTIVE_PROMPT_TUNING"}, "sptune adapter already"),
        ({"peft_type": ...}, "peft_type: Field required"),
        ({"task_type": "SEQ_2_SEQ_LM", "num_transformer_submodules": 2}, "task_type: .*num_transformer_submodules"),
        ({"num_virtual_tokens": 0}, "num_virtual_tokens: .*greater than or equal to 1"),
        ({"num_virtual_tokens": "2"}, "num_virtual_tokens: .*valid integer"),
        ({"num_virtual_tokens": 3}, r"has shape \(2, 32\), adapter_config.json says \(3, 32\)"),
        ({"token_dim": 33}, r"has shape \(2, 32\), adapter_config.json says \(2, 33\)"),
        ({"base_model_name_or_path": ["a"]}, "base_model_name_or_path: .*valid string"),
    ],
)
def test_read_refuses_a_configuration(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        read_peft(peft_folder(tmp_path / "peft", **changes))


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"prompt_embeddings": torch.full((2, 32), torch.nan)}, "not finite"),
        ({"prompt_embeddings": torch.full((2, 32), torch.inf)}, "not finite"),
        ({"prompt_embeddings": torch.ones(2, 32, dtype=torch.int64)}, "is I64"),
        ({"prompt_embeddings": torch.ones(64)}, "has 1 dimensions"),
        ({"prompt_embeddings": torch.ones(2, 32), "score.weight": torch.ones(1)}, "and nothing else.*score.weight"),
        ({"base_model.lora_A.weight": torch.ones(2, 32)}, "must hold prompt_embeddings"),
    ],
)
def test_read_refuses_tensors(tmp_path: Path, tensors: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        read_peft(peft_folder(tmp_path / "peft", tensors))


def remove_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def put_pickle(folder: Path) -> None:
    remove_weights(folder)
    torch.save({"prompt_embeddings": torch.ones(2, 32)}, folder / "adapter_model.bin")


def cut_weights(folder: Path) -> None:
    raw = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(raw[: len(raw) // 2])


def disguise_pickle(folder: Path) -> None:
    torch.save({"prompt_embeddings": torch.ones(2, 32)}, folder / "adapter_model.safetensors")


def nest_deeply(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[" * 200_000)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_weights, "adapter_model.safetensors: missing"),
        (put_pickle, "adapter_model.bin: a pickle.*safe_serialization"),
        (cut_weights, "cut short"),
        (disguise_pickle, "not a safetensors file"),
        (nest_deeply, "not valid JSON"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json: missing"),
        (lambda folder: (folder / "adapter_config.json").write_bytes(b"\xff\xfe{}"), "not valid JSON"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "must hold a JSON object"),
        (lambda folder: (folder / "adapter_config.json").write_text(" " * (2**22 + 1)), "larger than"),
    ],
)
def test_read_refuses_damaged_folders(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    folder = peft_folder(tmp_path / "peft")
    damage(folder)
    with pytest.raises(AdapterError, match=message):
        read_peft(folder)


def test_read_refuses_a_name_that_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="hf download"):
        read_peft("owner/name")
    (tmp_path / "file").touch()
    with pytest.raises(AdapterError, match="no such folder"):
        read_peft(tmp_path / "file")


def test_prompts_that_do_not_belong_together_are_refused(base: LoadedBase) -> None:
    prompt = PeftPrompt(torch.randn(3, 32))
    with pytest.raises(AdapterError, match="have 3, 4; import prompts of one length"):
        import_prompts([prompt, PeftPrompt(torch.randn(4, 32))], base)
    with pytest.raises(AdapterError, match=r"adapter 1 was made for embeddings of width 12.*--base"):
        import_prompts([PeftPrompt(torch.randn(3, 12))], base)
    with pytest.raises(AdapterError, match="adapters 1 and 3 hold the same prompt"):
        import_prompts([prompt, PeftPrompt(torch.randn(3, 32)), prompt], base)


def test_the_base_is_the_one_that_all_adapters_name() -> None:
    nameless = PeftPrompt(torch.zeros(1, 2))
    named = replace(nameless, base="a/b", revision="main")
    assert common_base([nameless, nameless]) is None
    assert common_base([nameless, named]) == named
    with pytest.raises(AdapterError, match=r"a/b at main, c/d"):
        common_base([named, replace(nameless, base="c/d")])
