"""The Kubernetes manifests, as the tests read them: `kubectl kustomize` only adds the namespace, the image and a hash."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
BY_HAND = {"keys.yaml", "loader.yaml"}  # applied once, by hand: an `apply -k` must not put the keys back
Object = dict[str, Any]


def read_objects(file: Path) -> list[Object]:
    """The objects of one file."""
    return list(yaml.safe_load_all(file.read_text(encoding="utf-8")))


@cache
def kustomization(variant: str) -> Object:
    """The kustomization of `local` or `vllm`."""
    [one] = read_objects(KUBERNETES / variant / "kustomization.yaml")
    return one


def objects(variant: str) -> list[Object]:
    """All objects of `local` or `vllm`, those of other variants that it is made from included."""
    found = []
    for resource in kustomization(variant)["resources"]:
        path = (KUBERNETES / variant / resource).resolve()
        found += objects(path.name) if path.is_dir() else read_objects(path)
    return found


def named(variant: str, kind: str, name: str) -> Object:
    """The one object of that kind and name."""
    [found] = [one for one in objects(variant) if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def pods(variant: str) -> list[Object]:
    """All pod templates, each with `metadata.labels` and `spec`."""
    return [one["spec"]["template"] for one in objects(variant) if one["kind"] in {"Deployment", "StatefulSet"}]


def pod(variant: str, name: str) -> Object:
    """The pod template with that name as its label."""
    [found] = selected(variant, {"app.kubernetes.io/name": name})
    return found


def selected(variant: str, labels: dict[str, str]) -> list[Object]:
    """The pod templates that a label selector finds."""
    return [one for one in pods(variant) if labels.items() <= one["metadata"]["labels"].items()]


def container(template: Object) -> Object:
    """The only container of a pod template."""
    [found] = template["spec"]["containers"]
    return found


def option(template: Object, flag: str) -> str:
    """The value of `--flag=value` in a container's command line."""
    [found] = [text.partition("=")[2] for text in container(template)["args"] if text.startswith(f"{flag}=")]
    return found
