"""YAML as recipes need it: numbers as people write them, and no key twice."""

from __future__ import annotations

import re
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of version 1.2, and no key twice.

    Version 1.1 reads `1:50` as 110 and `1e-3` as a text, and a second `training:` would silently replace the first.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 - pyyaml's own name and form
        first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith((":int", ":float", ":timestamp"))]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for i, key in enumerate(keys):
            if key in keys[:i]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is there twice", node.value[i][0].start_mark
                )
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what either version of YAML would take for a number."""


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9_]*)$"), list("-+0123456789"))
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"),
        list("-+.0123456789"),
    )


def read_yaml(text: str) -> Any:
    """The value of a YAML text; the keys of mappings are strings.

    Raises:
        yaml.YAMLError: not YAML, or a key that stands twice.
        ValueError: a number that is none.
        RecursionError: nested without end.

    >>> read_yaml("{a: 1e-3, b: 1:50}")
    {'a': 0.001, 'b': '1:50'}
    """
    return _string_keys(yaml.load(text, Loader=_Loader))


def write_yaml(value: Any) -> str:
    """A value as YAML, its keys in their own order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def _string_keys(value: Any) -> Any:
    return {str(key): _string_keys(inner) for key, inner in value.items()} if isinstance(value, dict) else value
