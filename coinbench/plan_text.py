"""What `coinbench plan` prints: cells and what they would cost, as tables. No torch."""

from __future__ import annotations

from typing import Any

_SHORT = {"classifier": "f", "generator": "G", "perceptual": "p"}


def as_text(found: dict[str, Any]) -> str:
    """Return the plan as text; the JSON form holds the same and more digits."""
    lines = _cells(found["cells"])
    if found["estimate"] is not None:
        lines += ["", *_estimate(found["estimate"])]
    lines += [f"missing: {line}" for line in found["missing"]] + found["unmeasured"]
    return "\n".join(lines)


def _cells(rows: list[dict[str, Any]]) -> list[str]:
    heads = ("cell", "digest", "data", "f", "G", "p", "fit", "steps", "evaluate")
    keys = ("label", "cell", "data", "classifier", "generator", "perceptual", "fit", "steps", "evaluate")
    left = sum(row["evaluate"] != "done" for row in rows)
    steps = sum(row["steps"] for row in rows)
    table = _table([heads, *(tuple(str(row[key]) for key in keys) for row in rows)])
    return [*table, f"{len(rows)} cells, {left} to run, {steps} steps to train"]


def _table(rows: list[tuple[str, ...]], numbers: tuple[int, ...] = (7,)) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:>{width}}" if number in numbers else f"{cell:<{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _estimate(found: dict[str, Any]) -> list[str]:
    heads = ("to do", "count", "ms each", "quartiles", "time", "memory", "disk", "note")
    table = [heads, *(_line(row) for row in (*found["stages"], *found["cells"]) if row["seconds"] != 0)]
    lines = _table(table, (1, 2, 3, 4, 5, 6)) if len(table) > 1 else []
    for row in found["evaluations"]:
        parts = sorted(row["seconds"].items(), key=lambda part: -part[1])
        lines.append(f"evaluation of {row['of']}: " + ", ".join(f"{name} {shown(s)}" for name, s in parts))
        lines += [f"  {name}: could not be measured, because {why}" for name, why in row["failed"].items()]
    total = found["total"]
    lines += ["", f"with --jobs {total['jobs']}: {shown(total['seconds'])}, memory {_size(total['memory'])}, "
              f"disk {_size(total['disk'])}"]  # fmt: skip
    if total["not included"]:
        lines.append(f"not included, as it could not be measured: {', '.join(total['not included'])}")
    return lines + [f"measured {found['how'][0]}"] + [f"  {line}" for line in found["how"][1:]]


def _line(row: dict[str, Any]) -> tuple[str, ...]:
    dataset, _, kind = row["of"].rpartition(" ")
    name = row["of"] if row["kind"] == "cell" else f"{dataset} {_SHORT.get(kind, kind)}"
    quartiles = f"{row['quartiles'][0]:.4g}-{row['quartiles'][1]:.4g}" if row["quartiles"] else ""
    return (
        name,
        str(row["count"] or ""),
        "" if row["ms"] is None else f"{row['ms']:.4g}",
        quartiles,
        "unknown" if row["seconds"] is None else shown(row["seconds"]),
        _size(row["memory"]) if row["memory"] else "",
        _size(row["disk"]),
        row["note"],
    )


def shown(seconds: float) -> str:
    """Return a duration for reading.

    >>> shown(0.04), shown(61.0), shown(7300.0), shown(200000.0)
    ('0.0 s', '1 min 1 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    for unit, size, below, part in (("min", 60, "s", 1), ("h", 3600, "min", 60), ("d", 86400, "h", 3600)):
        if seconds < {"min": 3600, "h": 86400}.get(unit, float("inf")):
            return f"{int(seconds // size)} {unit} {int(seconds % size // part)} {below}"
    raise AssertionError("every duration is shorter than infinity")


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
