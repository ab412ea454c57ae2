"""Imports run only downwards: errors, then files and text, and so on up to the command line."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import sptune

ROOT = Path(sptune.__file__).parent

# From the lowest layer to the highest; modules of one layer may import each other.
LAYERS = (
    {"errors", "extras"},
    {"files", "text"},
    {"config"},
    {"data"},
    {"adapter", "peft_folder", "run_data"},
    {"model"},
    {"losses", "peft_adapter"},
    {"evaluation"},
    {"training"},
    {"baselines"},
    {"engine", "report"},
    {"experiments"},
    {"server"},
    {"cli", "build", "preflight", "doctor", "__main__"},
)
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}

MODULES = {
    ".".join(("sptune", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything of sptune's that is imported below `tree`: modules, or names in them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "sptune")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide the layer; write the whole name"
            if (node.module or "").split(".")[0] == "sptune":
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def module_of(name: str) -> str:
    """The module that a dotted name is, or stands in."""
    return name if name in MODULES else name.rpartition(".")[0]


def layer_of(module: str) -> int:
    part = module.split(".")[1]
    assert part in RANK, f"{module} has no layer; give it one in tests/test_layering.py"
    return RANK[part]


def upward_imports(module: str, tree: ast.AST) -> list[str]:
    """What `module` imports from above its own layer, or from the package's front door."""
    faults = []
    for line, name in imported(tree):
        target = module_of(name)
        if target == "sptune":
            if name != "sptune.__version__":
                faults.append(f"{module}:{line} imports {name}: inside the package, import it from where it is defined")
        elif layer_of(target) > layer_of(module):
            faults.append(f"{module}:{line} imports {name}, which is a layer above")
    return faults


@pytest.mark.parametrize("module", [name for name in MODULES if name != "sptune"])
def test_imports_run_downwards(module: str):
    faults = upward_imports(module, ast.parse(MODULES[module].read_text(encoding="utf-8")))
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("module", "source", "bad"),
    [
        ("sptune.data.load", "from sptune.model.spt import SPTModel", True),
        ("sptune.data.load", "def f():\n    import sptune.model.spt", True),
        ("sptune.data.load", "if TYPE_CHECKING:\n    from sptune.losses import llm_loss", True),
        ("sptune.losses", "from sptune import training", True),
        ("sptune.model.spt", "from sptune import SPTTrainer", True),
        ("sptune.model.spt", "from sptune import __version__", False),
        ("sptune.model.spt", "from sptune.adapter import Adapter\nimport torch", False),
        ("sptune.training.trainer", "from sptune import losses", False),
    ],
)
def test_the_check_itself(module: str, source: str, bad: bool):
    assert bool(upward_imports(module, ast.parse(source))) == bad


def test_losses_are_pure_and_metrics_know_no_model():
    for module, path in MODULES.items():
        names = {module_of(name) for _, name in imported(ast.parse(path.read_text(encoding="utf-8")))}
        if module == "sptune.losses":
            assert not names
        if module.startswith("sptune.evaluation.metrics"):
            assert all(n.startswith(("sptune.errors", "sptune.text", "sptune.evaluation.metrics")) for n in names), (
                module
            )


def test_no_module_needs_itself_to_be_imported():
    """Raises CycleError, with the cycle, when imports at the top of modules run in a circle."""
    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        top = ast.Module([node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)], [])
        graph[module] = {module_of(name) for _, name in imported(top)} - {module, "sptune"}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(MODULES) - 1
