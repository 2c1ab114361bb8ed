"""Settings of a paper carried over to an experiment of another size, and held against what a cell was run with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Tree = Mapping[str, Any]
"""A cell or an experiment with one method, as JSON: data, problem, method, evaluation."""
_LATENT = ("w_dim", "latent")
"""What generators call the size of a latent vector."""
RULE = (
    "A setting that is a number is carried over by its ratio to the paper's default: the experiment's own default "
    "times that ratio, K rounded; without Ω, K is the size of the latent vector."
)


def setting_of(tree: Tree, path: str) -> Any:
    """Return what a cell has at a path; `methods.NAME.x` is x of the method NAME. None: it has no such setting.

    >>> tree = {"method": {"name": "viscoin", "K": 24}, "data": {"size": 32}}
    >>> setting_of(tree, "method.K"), setting_of(tree, "methods.viscoin.K"), setting_of(tree, "methods.flint.K")
    (24, 24, None)
    """
    keys = path.split(".")
    node: Any = tree
    if keys[0] == "methods":
        method = tree.get("method", {})
        node, keys = (method, keys[2:]) if method.get("name") == keys[1] else (None, keys)
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def carried(setting: Mapping[str, Any], main: Mapping[str, Any], base: Tree) -> dict[str, Any]:
    """Return a paper's setting at the size of another experiment, by `RULE`.

    Args:
        setting: paths and the paper's values, as {"method.K": 512}.
        main: the same of the paper's main experiments.
        base: the other experiment's main cell.

    >>> base = {"method": {"name": "viscoin", "K": 24}, "problem": {"generator": {"w_dim": 64}}}
    >>> carried({"method.K": 512}, {"method.K": 256}, base)
    {'method.K': 48}
    >>> carried({"method.omega": False, "method.K": 512}, {"method.K": 256}, base)
    {'method.omega': False, 'method.K': 64}
    """
    found = {path: _scaled(path, value, main, base) for path, value in setting.items()}
    if found.get("method.omega") is False:
        generator = setting_of(base, "problem.generator") or {}
        found["method.K"] = next((generator[name] for name in _LATENT if name in generator), found.get("method.K"))
    return found


def _scaled(path: str, value: Any, main: Mapping[str, Any], base: Tree) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    named = path.replace("method.", f"methods.{setting_of(base, 'method.name')}.", 1)
    usual, own = main.get(path, main.get(named)), setting_of(base, path)
    if not usual or own is None:
        return value
    if isinstance(own, int):
        return max(2, round(value * own / usual))
    # Twelve digits: 0.5 * (0.2 / 0.1) is 1.
    return float(f"{value * own / usual:.12g}")


def called(label: str, setting: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Return the label of a setting with what of it is another at the size of an experiment.

    >>> called("K = 512", {"method.K": 512}, {"method.K": 48})
    'K = 512: K = 48'
    """
    moved = [f"{path.rpartition('.')[2]} = {plain(own[path])}" for path in setting if own[path] != setting[path]]
    return f"{label}: {', '.join(moved)}" if moved else label


def plain(value: Any) -> str:
    """Return a setting as labels show it.

    >>> plain(0.5), plain(1.0), plain(False)
    ('0.5', '1', 'false')
    """
    return f"{value:g}" if isinstance(value, float) else str(value).lower()


def obstacle(tree: Tree, conditions: Mapping[str, Any], least: Mapping[str, Any] | None = None) -> str:
    """Return the first setting of a cell that differs from the conditions; empty where none does.

    Conditions on what the cell does not have, as another method's weight, do not count.

    Args:
        tree: the cell.
        conditions: paths and the values that they must have.
        least: paths and numbers that they must reach.

    >>> obstacle({"data": {"size": 64}}, {"data.size": 256})
    'data.size is 64, published with 256'
    >>> obstacle({"evaluation": {"images": 64}}, {}, {"evaluation.images": 100})
    'evaluation.images is 64, published with 100'
    """
    for path, wanted in conditions.items():
        own = setting_of(tree, path)
        if own is None and (wanted is None or path.startswith("method")):
            continue
        if own != wanted:
            return _differs(path, own, wanted)
    for path, wanted in (least or {}).items():
        own = setting_of(tree, path)
        if own is None or own < wanted:
            return _differs(path, own, wanted)
    return ""


def _differs(path: str, own: Any, wanted: Any) -> str:
    return f"{path} is {_shown(own)}, published with {_shown(wanted)}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    return "not set" if value is None else f"{value:g}" if isinstance(value, int | float) else str(value)


def flat(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a cell by their paths.

    >>> flat({"method": {"K": 24, "train": {"steps": 3}}})
    {'method.K': 24, 'method.train.steps': 3}
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        found |= flat(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return found


def changed(tree: Tree, base: Tree) -> set[str]:
    """Return the paths at which two cells of one method differ, what changes no number left out."""
    parts = ("data", "problem", "method", "evaluation")
    one, other = (flat({part: side.get(part, {}) for part in parts}) for side in (tree, base))
    return {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)}


def covers(axis: tuple[str, ...], path: str) -> bool:
    """Tell whether an axis accounts for a difference: another net brings settings of its own.

    >>> covers(("problem.classifier.net",), "problem.classifier.train.steps"), covers(("method.K",), "method.gamma")
    (True, False)
    """
    return any(path == one or (one.endswith(".net") and path.startswith(one.removesuffix("net"))) for one in axis)
