"""A run held against a baseline, number by number: what regressed, what is missing. Never imports torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from coinbench.files import write_atomically
from coinbench.reports.baseline import Baseline, Gated, Name, Number, fingerprints, numbers_of
from coinbench.reports.folder import RunFolder
from coinbench.reports.layout import Entry, rounded, significant
from coinbench.reports.render import grid

_FAILING = ("worse", "changed", "missing", "not comparable")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of one number."""

    name: Name
    verdict: str
    """same, better, worse, changed, missing, not comparable or new."""
    why: str = ""
    expected: Number | None = None
    value: float | None = None
    """In the run, mean over the seeds of the baseline."""

    @property
    def failed(self) -> bool:
        """Tell whether it fails the gate."""
        return self.verdict in _FAILING

    @property
    def change(self) -> float | None:
        """Return run − baseline."""
        return None if self.value is None or self.expected is None else self.value - self.expected.value


@dataclass(frozen=True, slots=True)
class Gate:
    """All numbers of a baseline and of a run."""

    outcomes: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        """Tell whether no number fails."""
        return not any(one.failed for one in self.outcomes)

    @property
    def summary(self) -> str:
        """Return the answer in one line."""
        verdicts = [one.verdict for one in self.outcomes]
        told = [f"{verdicts.count(v)} {v}" for v in (*_FAILING, "better", "new") if v in verdicts]
        text = f"gate {'passed' if self.passed else 'failed'}: {verdicts.count('same')} of "
        text += f"{len(verdicts) - verdicts.count('new')} numbers within tolerance"
        return ", ".join([text, *told])


def hold(run: RunFolder, baseline: Baseline) -> Gate:
    """Hold a run against a baseline."""
    found, data = numbers_of(run.records), fingerprints(run)
    outcomes = []
    for expected in baseline.numbers:
        known, seen = baseline.data.get(expected.name.dataset), data.get(expected.name.dataset)
        obstacle = "images or labels differ" if known and seen and known != seen else ""
        outcomes.append(_outcome(expected, found.get(expected.name), baseline, obstacle))
    known_names = {expected.name for expected in baseline.numbers}
    outcomes += [Outcome(name=name, verdict="new") for name in found if name not in known_names]
    return Gate(tuple(outcomes))


def _outcome(expected: Number, found: Gated | None, baseline: Baseline, obstacle: str) -> Outcome:
    name = expected.name
    if found is None:
        return Outcome(name=name, verdict="missing", why="the run has no such number", expected=expected)
    values = found.values
    if lacking := sorted(set(expected.values) - set(values)):
        why = f"seed {', '.join(map(str, lacking))} missing"
        return Outcome(name=name, verdict="missing", why=why, expected=expected)
    if obstacle := obstacle or _obstacle(expected, found, baseline):
        return Outcome(name=name, verdict="not comparable", why=obstacle, expected=expected)
    value = sum(values[seed] for seed in expected.values) / len(expected.values)
    verdict = _verdict(value - expected.value, expected, baseline.two_sided)
    return Outcome(name=name, verdict=verdict, expected=expected, value=value)


def _verdict(change: float, expected: Number, two_sided: bool) -> str:
    if abs(change) <= expected.tolerance:
        return "same"
    # A control has no direction: where it moves, the metric does.
    if expected.higher_is_better is None or expected.name.arm != "method":
        return "changed"
    better = (change > 0) == expected.higher_is_better
    return ("changed" if two_sided else "better") if better else "worse"


def _obstacle(expected: Number, found: Gated, baseline: Baseline) -> str:
    row = found.rows[0]
    told = baseline.protocols.get(expected.protocol, "")
    facts = (("version", expected.version, row.version), ("unit", expected.unit, row.unit), ("n", expected.n, row.n))
    for what, old, new in facts:
        if old != new:
            return f"{what} is {new}, was {old}"
    if told != row.protocol:
        old, new = told.split("; "), row.protocol.split("; ")
        added = [part for part in new if part not in old]
        return f"protocol now says: {'; '.join(added) or 'less'}"
    return ""


def as_text(gate: Gate, everything: bool = False) -> str:
    """Return the summary and, as Markdown, the numbers that are not as they were (or all)."""
    lines = [gate.summary]
    absent: dict[tuple[str, str, str], list[str]] = {}
    shown = []
    for one in gate.outcomes:
        if one.why:
            absent.setdefault((one.verdict, one.name.cell, one.why), []).append(one.name.number)
        elif everything or one.verdict not in ("same", "new"):
            shown.append(one)
    if shown:
        headers = ["cell", "number", "baseline", "run", "run − baseline", "tolerance", "from", "verdict"]
        lines += ["", *grid(headers, [_line(one) for one in shown], labels=2)]
    lines += [""] if absent else []
    for (verdict, cell, why), names in absent.items():
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        lines.append(f"- {verdict}: {cell}: {', '.join(names[:4])}{more}: {why}")
    added = sum(one.verdict == "new" for one in gate.outcomes)
    lines += ["", f"{added} numbers are not in the baseline: --update adds them."] if added else []
    return "\n".join(lines)


def _line(one: Outcome) -> list[str]:
    arrow = ""
    if one.expected is None or one.value is None:
        return [one.name.cell, one.name.number, *[""] * 5, one.verdict]
    if one.name.arm == "method":
        arrow = {True: " ↑", False: " ↓", None: ""}[one.expected.higher_is_better]
    entries = [Entry(value=value, seeds=(), n=0) for value in (one.expected.value, one.value)]
    decimals = significant(entries, digits=5)
    change = one.value - one.expected.value
    return [
        one.name.cell,
        f"{one.name.number}{arrow}",
        *(rounded(entry.value, decimals) for entry in entries),
        f"{change:+.2g}".replace("-", "−"),
        f"{one.expected.tolerance:.2g}",
        one.expected.origin,
        f"**{one.verdict}**" if one.failed else one.verdict,
    ]


def as_json(gate: Gate) -> str:
    """Return all outcomes as JSON."""
    rows = [
        {
            **one.name._asdict(),
            "verdict": one.verdict,
            "why": one.why,
            "baseline": one.expected.value if one.expected else None,
            "run": one.value,
            "tolerance": one.expected.tolerance if one.expected else None,
        }
        for one in gate.outcomes
    ]
    return json.dumps({"passed": gate.passed, "summary": gate.summary, "numbers": rows}, indent=2, ensure_ascii=False)


def write_junit(gate: Gate, path: Path) -> None:
    """Write the outcomes as JUnit XML, a suite for each cell and a test for each number, atomically."""
    root = ElementTree.Element("testsuites", {"name": "coinbench gate", **_counts(gate.outcomes)})
    cells: dict[str, list[Outcome]] = {}
    for one in gate.outcomes:
        cells.setdefault(one.name.cell, []).append(one)
    for cell, outcomes in cells.items():
        suite = ElementTree.SubElement(root, "testsuite", {"name": cell, **_counts(outcomes)})
        for one in outcomes:
            case = ElementTree.SubElement(suite, "testcase", classname=cell, name=one.name.number)
            if one.failed:
                text = one.why or " ".join(_line(one)[2:-1])
                ElementTree.SubElement(case, "failure", message=f"{one.verdict}: {text}", type=one.verdict)
    ElementTree.indent(root)
    with write_atomically(path) as temporary:
        ElementTree.ElementTree(root).write(temporary, encoding="utf-8", xml_declaration=True)


def _counts(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {"tests": str(len(outcomes)), "failures": str(sum(one.failed for one in outcomes)), "errors": "0"}
