"""A model and an adapter whose replies always have all the tokens they may have."""

from __future__ import annotations

import json
from pathlib import Path

from huggingface_hub import snapshot_download

from sptune.model.load import locate
from sptune.model.spt import SPTModel


def write_endless(folder: Path, *, base: str = "smollm2-135m", num_prompts: int = 4, prompt_length: int = 8) -> None:
    """Write `folder/base`, a model without an end of sequence, and `folder/adapter`, which learned none."""
    source = Path(locate(base))
    if not source.is_dir():
        source = Path(snapshot_download(base))
    (folder / "base").mkdir()
    for file in source.iterdir():
        (folder / "base" / file.name).symlink_to(file)
    name = folder / "base" / "generation_config.json"
    settings = json.loads(name.read_text())
    name.unlink()
    name.write_text(json.dumps({key: value for key, value in settings.items() if key != "eos_token_id"}))
    model = SPTModel.from_base(str(folder / "base"), num_prompts=num_prompts, prompt_length=prompt_length)
    model.encoder.learn_stop = False
    model.stops = ()
    model.save_pretrained(folder / "adapter")
