"""`--set path=value` and `--config FILE.yaml`: change a preset, checked against types and ranges."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from coinbench import registry
from coinbench.errors import UsageError, unknown

Tree = dict[str, Any]
PARTS = ("data", "problem", "method", "methods", "evaluation")
_NUMBERS = {
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
    ),
}


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: YAML 1.1 reads the seeds 1:3 as 63 in base 60, and 1e-3 as text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        """Refuse a key that is given twice: YAML takes the last without a word."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.constructor.ConstructorError(problem=f"key {twice[0]!r} is given twice")
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, _NUMBERS.get(tag, pattern)) for tag, pattern in resolvers]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse(text: str) -> tuple[list[str], Any]:
    """Split "a.b=value" into its path and its value, read as YAML.

    >>> parse("method.gamma=0.2")
    (['method', 'gamma'], 0.2)

    Raises:
        UsageError: there is no "=" or no path, or the value is no YAML.
    """
    path, equals, value = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise UsageError(f"--set {short(text)}: expected path=value, as in --set method.gamma=0.2")
    try:
        return keys, _load(value)
    except ValueError as error:
        raise UsageError(f"--set {short(text)}: the value is not readable ({error})") from error


_DEEPEST, _MOST = 20, 10_000


def _load(text: str) -> Any:
    """Read YAML.

    Raises:
        ValueError: it is none, or a value without end; the text is one line.
    """
    try:
        value = yaml.load(text, _Loader)
        _count(value, 0)
    # Besides its own errors PyYAML raises those of int(), date(), ... and, on deep nesting, RecursionError.
    except Exception as error:
        raise ValueError((str(error) or type(error).__name__).splitlines()[0]) from error
    return value


def _count(value: Any, depth: int, seen: int = 0) -> int:
    """Count the values of a tree; anchors can make one that has no end, or that a few lines blow up."""
    if depth > _DEEPEST or seen > _MOST:
        raise ValueError(f"more than {_DEEPEST} levels or {_MOST} values")
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple | set) else ()
    for part in parts:
        seen = _count(part, depth + 1, seen)
    return seen + 1


def short(value: Any) -> str:
    """Return a value as a message quotes it.

    >>> short("a" * 200)[-4:]
    "aa…'"
    """
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:98]}…{text[-1]}"


def apply(model: BaseModel, changes: Iterable[tuple[list[str], Any]], fields: Tree) -> Any:
    """Return `model` with changes, validated.

    Args:
        model: an Experiment, possibly without required fields.
        changes: paths and values; a path that begins with "method" changes every method that has the field.
        fields: defaults for the keys that `model` does not hold yet, by path of the part ("data").

    Raises:
        UsageError: an unknown key (lists the near ones), a wrong type, or a value out of range.
    """
    tree = model.model_dump(mode="json", warnings=False)
    for part, values in fields.items():
        tree[part] = {**values, **tree[part]}
    for keys, value in changes:
        if keys[-1] == "name" and keys[0] in ("data", "method", "methods"):
            raise UsageError(f"--set {'.'.join(keys)}: names are chosen with --dataset and --methods")
        for expanded in _expand(keys, tree):
            _put(tree, expanded, value)
    return validate(type(model), tree)


def _expand(keys: list[str], tree: Tree) -> list[list[str]]:
    if keys[0] != "method":
        return [keys]
    if len(keys) == 1:
        raise UsageError("--set method=...: name a field, as in --set method.gamma=0.2")
    if not isinstance(tree["methods"], dict) or not all(isinstance(c, dict) for c in tree["methods"].values()):
        raise UsageError(f"--set methods: expected settings by method, got {short(tree['methods'])}")
    holders = [name for name, config in tree["methods"].items() if keys[1] in config]
    if not holders:
        known = sorted({key for config in tree["methods"].values() for key in config})
        raise unknown("key method.", keys[1], known)
    meanings = {name: _meaning(tree["methods"][name]["name"], keys[1]) for name in holders}
    if len(set(meanings.values())) > 1:
        ways = " or ".join(f"methods.{name}.{keys[1]}" for name in holders)
        raise UsageError(f"--set method.{keys[1]}: means something else in each of {', '.join(holders)}; set {ways}")
    return [["methods", name, *keys[1:]] for name in holders]


def _meaning(method: str, key: str) -> str:
    """Return what a setting says it is: two methods may use one letter for two things, as γ in VisCoIN and FLINT."""
    return registry.METHODS.load(method).config.model_fields[key].description or key


def _put(tree: Tree, keys: list[str], value: Any) -> None:
    node = tree
    for depth, key in enumerate(keys):
        where = ".".join(keys[:depth])
        if not isinstance(node, dict):
            raise UsageError(f"--set {'.'.join(keys)}: {where} is a value and has no keys")
        if key not in node:
            known = [*(PARTS if not depth else node)]
            raise unknown(f"key {where}." if where else "key", key, known)
        if depth == len(keys) - 1:
            if isinstance(node[key], dict) and not isinstance(value, dict):
                raise UsageError(
                    f"--set {'.'.join(keys)}: has keys of its own ({', '.join(node[key])}); set one of them"
                )
            node[key] = value
        node = node[key]


def flatten(tree: Tree, prefix: tuple[str, ...] = ()) -> list[tuple[list[str], Any]]:
    """Return the leaves of a nested mapping as changes.

    >>> flatten({"method": {"gamma": 0.2}})
    [(['method', 'gamma'], 0.2)]
    """
    changes = []
    for key, value in tree.items():
        path = (*prefix, str(key))
        if isinstance(value, dict):
            changes += flatten(value, path)
        else:
            changes.append(([*path], value))
    return changes


def read_yaml(path: Path) -> Tree:
    """Read a configuration file.

    Raises:
        UsageError: it is missing, no YAML, or no mapping.
    """
    try:
        tree = _load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UsageError(f"--config {path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: not readable ({error})") from error
    except ValueError as error:
        raise UsageError(f"--config {path}: not readable as YAML ({error})") from error
    if not isinstance(tree, dict):
        raise UsageError(f"--config {path}: expected a mapping of settings, got {type(tree).__name__}")
    return tree


def validate(model: type[BaseModel], tree: Tree) -> Any:
    """Return `tree` as a `model`.

    Raises:
        UsageError: one line that names the first wrong key and what is wrong with it.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        if first["type"] == "missing":
            raise UsageError(f"{where}: required; give it with --set {where}=...{more}") from error
        raise UsageError(f"{where}: {message}, got {short(first['input'])}{more}") from error
