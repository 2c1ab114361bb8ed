"""A published table with the numbers of a run as Markdown, LaTeX, CSV and HTML."""

from __future__ import annotations

import csv
import io
import math
from functools import cache
from importlib.resources import files

import jinja2

from coinbench.published import label_of
from coinbench.reports.layout import MISSING, rounded
from coinbench.reports.paper_tables import UNAVAILABLE, Cell, Printed, SideBySide
from coinbench.reports.render import escape_tex, floating, grid, prose, tabular

FORMATS = ("md", "tex", "csv", "html")


def render(found: SideBySide, format_: str) -> str:
    """Return a table in one of `FORMATS`."""
    return {"md": to_markdown, "tex": to_latex, "csv": to_csv, "html": to_html}[format_](found)


def title_of(found: SideBySide) -> str:
    """Return the heading of a table."""
    label = label_of(found.table.id).replace("table", "Table ").replace("figure", "Figure ")
    return f"{label}, {found.table.title}"


def body(found: SideBySide) -> tuple[list[str], list[list[str]], set[int]]:
    """Return headers, lines, and the lines before which a group ends."""
    by_dataset = len(found.lines[0].labels) > 1 or found.lines[0].labels == (found.lines[0].dataset,)
    headers = [*found.table.headers, "numbers", *found.columns]
    lines: list[list[str]] = []
    rules: set[int] = set()
    head: tuple[str, ...] = ()
    for number, line in enumerate(found.lines):
        before = found.lines[number - 1] if number else None
        fresh = before is None or (line.dataset != before.dataset if by_dataset else not line.variant)
        if before and fresh:
            rules.add(number)
        head = line.labels if fresh else head
        alike = before is not None and line.labels == (before.labels if by_dataset else head)
        labels = ["" if alike and not fresh else label for label in line.labels]
        if by_dataset and not fresh:
            labels[0] = ""
        # The label of a setting says all that its variant's name does.
        source = _source(line, named=not any(row.setting for row in found.table.rows))
        source = source if by_dataset else f"{source}, {line.dataset}"
        lines.append([*labels, source, *(_text(line, cell) for cell in line.cells)])
    return headers, lines, rules


def _source(line: Printed, named: bool) -> str:
    if not line.variant:
        return "published"
    return f"measured [{line.variant}]" if named and line.variant not in ("default", "none") else "measured"


def _text(line: Printed, cell: Cell | None) -> str:
    """Print a number: the paper's as it stands there, a measured one with its spread or interval."""
    if cell is None:
        return "" if line.variant else MISSING
    if not line.variant:
        return cell.published.text if cell.published else MISSING
    if cell.measured:
        return cell.measured.entry.text(cell.scale, cell.decimals)
    return UNAVAILABLE if cell.verdict == UNAVAILABLE else MISSING


def verdicts(found: SideBySide) -> tuple[list[str], list[list[str]]]:
    """Return headers and a line for each number that was held against the paper's."""
    headers = [*found.table.headers, "column", "published", "measured", "difference", "verdict"]
    return headers, [[*line.labels, *_verdict(cell)] for line, cell in found.judged]


def _verdict(cell: Cell) -> list[str]:
    assert cell.published is not None
    assert cell.measured is not None
    assert cell.difference is not None
    # A digit more than printed, so that a difference within the rounding is seen.
    value, low, high = (f"{number:+.{cell.decimals + 1}f}".replace("-", "−") for number in cell.difference)
    known = not any(math.isnan(number) for number in cell.difference)
    measured = rounded(cell.measured.entry.value * cell.scale, cell.decimals + 1)
    return [cell.title, cell.published.text, measured, f"{value} [{low}, {high}]" if known else value, cell.verdict]


def to_markdown(found: SideBySide) -> str:
    """Return the table, what there is to say of it, and the verdicts, as Markdown."""
    headers, lines, _ = body(found)
    said = [f"- {prose(note)}" for note in found.notes]
    text = [f"**{title_of(found)}**", "", *grid(headers, lines, len(found.table.headers) + 1), ""]
    if found.judged:
        heads, judged = verdicts(found)
        text += [*grid(heads, judged, len(found.table.headers) + 1), ""]
    return "\n".join((*text, *said, ""))


def to_latex(found: SideBySide) -> str:
    """Return the table for \\input, the verdicts below it; needs only booktabs."""
    headers, lines, rules = body(found)
    labels = len(found.table.headers) + 1
    content = tabular(headers, [[escape_tex(text) for text in line] for line in lines], labels, rules)
    if found.judged:
        heads, judged = verdicts(found)
        escaped = [[escape_tex(text) for text in line] for line in judged]
        content += ["", r"\vspace{6pt}", "", *tabular(heads, escaped, labels, ())]
    name = f"{found.paper.key}-{label_of(found.table.id)}"
    return floating(" ".join((f"{title_of(found)}.", *found.notes)), name, content)


def to_html(found: SideBySide) -> str:
    """Return the table as a page of its own, nothing loaded from outside."""
    headers, lines, rules = body(found)
    return _template().render(
        title=title_of(found),
        headers=headers,
        lines=lines,
        rules=rules,
        labels=len(found.table.headers) + 1,
        judged=verdicts(found) if found.judged else None,
        notes=found.notes,
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = files("coinbench.reports").joinpath("templates", "published.html.j2")
    return environment.from_string(source.read_text(encoding="utf-8"))


_COLUMNS = (
    *("paper", "table", "line", "dataset", "variant", "column", "method", "metric", "params", "arm", "unit"),
    *("published", "published_spread", "published_text", "measured", "spread", "low", "high", "seeds", "n"),
    *("difference", "difference_low", "difference_high", "verdict", "reason"),
)


def to_csv(found: SideBySide) -> str:
    """Return a line for each number, published or measured, in the unit of the paper; nothing is rounded."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(_COLUMNS)
    for line in found.lines:
        for cell in (cell for cell in line.cells if cell):
            address, value, measured = cell.address, cell.published, cell.measured
            of = (line.dataset, line.variant or "published", cell.title)
            name = (found.paper.key, found.table.id, " ".join(line.labels))
            what = (address.method, address.metric, address.params, address.arm, "%" if address.percent else "")
            printed = (value.value, value.spread, value.text) if value else (None,) * 3
            entry = measured.entry if measured else None
            own: tuple[object, ...] = (None,) * 6
            if measured and entry:
                numbers = (entry.value, entry.spread, measured.low, measured.high)
                own = tuple(None if math.isnan(number) else number * cell.scale for number in numbers)
                own += (" ".join(map(str, entry.seeds)), entry.n)
            apart = [None if math.isnan(end) else end for end in cell.difference] if cell.difference else (None,) * 3
            table.writerow((*name, *of, *what, *printed, *own, *apart, cell.verdict, cell.reason))
    return out.getvalue()
