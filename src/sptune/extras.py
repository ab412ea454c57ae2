"""The extras of the package: what each is for, which packages it cannot do without, and how to get them."""

from __future__ import annotations

# extra -> (packages, what it is for); the names of the packages are also those of their modules
EXTRAS = {
    "server": (("fastapi", "uvicorn", "prometheus_client", "aiohttp"), "`sptune serve`"),
    "compare": (("peft", "bm25s"), "LoRA, prefix tuning, P-tuning and BM25 in `sptune compare`"),
    "peft": (("peft",), "loads what `sptune export` writes"),
    "hub": (("datasets",), "reads hub:owner/name"),
    "bertscore": (("torchmetrics",), "computes BERTScore"),
}


def how_to_get(extra: str) -> str:
    """The command that installs the packages of an extra."""
    return f"pip install 'sptune[{extra}]'"
