"""Tables as Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from coinbench.files import write_atomically
from coinbench.reports.layout import Table

if TYPE_CHECKING:
    import pandas as pd

_NOTHING = "Not measured in this run."
_TEX_SPECIAL = (
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
    | {"<": "$<$", ">": "$>$", "|": "$|$", '"': "''"}
)
_MATH = (
    {"±": r"\pm", "×": r"\times", "·": r"\cdot", "−": "-", "≥": r"\geq", "≤": r"\leq"}
    | {"≠": r"\neq", "≈": r"\approx", "∈": r"\in", "→": r"\to", "↑": r"\uparrow", "↓": r"\downarrow"}
    | {"∞": r"\infty", "‖": r"\|", "∘": r"\circ", "√": r"\surd", "′": "'", "∂": r"\partial"}
    | {"⁺": "^{+}", "⁻": "^{-}", "²": "^{2}", "³": "^{3}", "₁": "_{1}", "₂": "_{2}", "∑": r"\sum"}
    | {"ᵢ": "_{i}", "ₖ": "_{k}", "⌊": r"\lfloor", "⌋": r"\rfloor", "⟨": r"\langle", "⟩": r"\rangle"}
    | {"α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "ε": r"\varepsilon"}
    | {"η": r"\eta", "θ": r"\theta", "κ": r"\kappa", "λ": r"\lambda", "μ": r"\mu", "π": r"\pi"}
    | {"ρ": r"\rho", "σ": r"\sigma", "τ": r"\tau", "φ": r"\phi", "χ": r"\chi", "ψ": r"\psi"}
    | {"ω": r"\omega", "Γ": r"\Gamma", "Δ": r"\Delta", "Θ": r"\Theta", "Λ": r"\Lambda"}
    | {"Σ": r"\Sigma", "Φ": r"\Phi", "Ψ": r"\Psi", "Ω": r"\Omega", "Π": r"\Pi"}
)
_TEXT = {"†": r"\dag{}", "–": "--", "—": "---", "…": r"\ldots{}", "’": "'", "‘": "`", "“": "``", "”": "''", "\xa0": "~"}
_ACCENTS = {"\u0303": "tilde", "\u0302": "hat", "\u0304": "bar"}


def to_markdown(table: Table, terminal: bool = False) -> str:
    """Return the table as aligned Markdown; a terminal shows _second_ instead of an HTML tag."""
    second = ("_", "_") if terminal else ("<ins>", "</ins>")
    wrap = {"best": ("**", "**"), "second": second, "tie": ("", " ="), "": ("", "")}
    if not table.rows:
        return f"**{table.title}**\n\n{_NOTHING}\n"
    headers = [*table.headers, *(column.title for column in table.columns)]
    body, last = [], None
    for row in table.rows:
        marks = table.marks(row)
        cells = [f"{wrap[m][0]}{t}{wrap[m][1]}" for t, m in zip(table.texts(row), marks, strict=True)]
        first = "" if row.dataset == last else row.labels[0]
        body.append([first, *row.labels[1:], *cells])
        last = row.dataset
    text = grid(headers, body, len(table.headers))
    return "\n".join((f"**{table.title}**", "", *text, "", *_said(table), ""))


def grid(headers: list[str], body: list[list[str]], labels: int) -> list[str]:
    """Return the lines of an aligned Markdown table whose first `labels` columns are text."""
    lines = [[_piped(cell) for cell in line] for line in (headers, *body)]
    widths = [max(3, *(_width(line[i]) for line in lines)) for i in range(len(headers))]
    rule = ["-" * w if i < labels else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return [_line(line, widths, labels) for line in (lines[0], rule, *lines[1:])]


def _said(table: Table) -> list[str]:
    """Return the caption with a paragraph for the notes and a list of the protocols."""
    protocols = [f"- {prose(text)}" for text in table.protocols]
    return [prose(" ".join(table.notes)), "", *protocols]


def prose(text: str) -> str:
    """Keep Markdown from reading stars and tags in running text."""
    return text.replace("*", "\\*").replace("<", "&lt;")


def _piped(text: str) -> str:
    return text.replace("|", "\\|")


def _width(text: str) -> int:
    """Return the columns that a terminal uses for `text`.

    >>> _width("x̃")
    1
    """
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) - sum(bool(unicodedata.combining(c)) for c in text) + wide


def _line(cells: list[str], widths: list[int], labels: int) -> str:
    padded = []
    for i, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        space = " " * (width - _width(cell))
        padded.append(cell + space if i < labels else space + cell)
    return f"| {' | '.join(padded)} |"


def escape_tex(text: str) -> str:
    r"""Turn running text into LaTeX that pdflatex reads: specials escaped, symbols as math.

    >>> escape_tex("τ_1 & x̃: 5 %")
    '$\\tau$\\_1 \\& $\\tilde{x}$: 5 \\%'
    """
    decomposed = unicodedata.normalize("NFD", text)
    out: list[str] = []
    for i, c in enumerate(decomposed):
        following = decomposed[i + 1] if i + 1 < len(decomposed) else ""
        if following in _ACCENTS and c.isalpha():
            letter = _MATH.get(c, c) if c.isascii() or c in _MATH else "?"
            out.append(rf"$\{_ACCENTS[following]}{{{letter}}}$")
        elif following and unicodedata.combining(following) and c.isascii():
            composed = unicodedata.normalize("NFC", c + following)
            # inputenc knows the Latin letters; anything else loses its accent.
            out.append(composed if len(composed) == 1 and ord(composed) < 0x180 else c)
        elif c in _TEX_SPECIAL:
            out.append(_TEX_SPECIAL[c])
        elif c in _MATH:
            out.append(f"${_MATH[c]}$")
        elif c in _TEXT:
            out.append(_TEXT[c])
        elif c.isascii() or 0xC0 <= ord(c) < 0x180:
            out.append(c)
        elif not unicodedata.combining(c):
            out.append("?")
    return "".join(out)


def to_latex(table: Table) -> str:
    """Return the table for \\input, with caption and label; needs only booktabs."""
    if not table.rows:
        return f"% {table.title}: {_NOTHING}\n"
    wrap = {"best": r"\textbf{%s}", "second": r"\underline{%s}", "tie": "%s $=$", "": "%s"}
    headers = [*table.headers, *(column.title for column in table.columns)]
    body: list[list[str]] = []
    last, rules = table.rows[0].dataset, set()
    for i, row in enumerate(table.rows):
        if row.dataset != last:
            rules.add(i)
        first = row.labels[0] if i == 0 or row.dataset != last else ""
        last = row.dataset
        texts = (escape_tex(text) for text in table.texts(row))
        cells = [wrap[m] % t for t, m in zip(texts, table.marks(row), strict=True)]
        body.append([*(escape_tex(label) for label in (first, *row.labels[1:])), *cells])
    return floating(table.caption, table.name, tabular(headers, body, len(table.headers), rules))


def tabular(headers: list[str], body: list[list[str]], labels: int, rules: Collection[int]) -> list[str]:
    """Return the lines of a tabular whose first `labels` columns are text, with a rule above each line of `rules`.

    The headers are escaped here, the body already is.
    """
    lines = [
        rf"\begin{{tabular}}{{@{{}}{'l' * labels}{'r' * (len(headers) - labels)}@{{}}}}",
        r"\toprule",
        " & ".join(escape_tex(header) for header in headers) + r" \\",
        r"\midrule",
    ]
    for number, (first, *rest) in enumerate(body):
        lines += [r"\midrule"] if number in rules else []
        # A bracket or star right after \\ would be read as its argument.
        first = f"{{}}{first}" if first[:1] in ("[", "*") else first
        lines.append(" & ".join((first, *rest)) + r" \\")
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def floating(caption: str, name: str, content: list[str]) -> str:
    """Return a LaTeX table with caption and label around lines of content."""
    head = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escape_tex(caption)}}}",
        rf"\label{{tab:{name}}}",
        r"\vspace{3pt}",
        r"\footnotesize",
        r"\setlength{\tabcolsep}{4pt}",
    ]
    return "\n".join((*head, *content, r"\end{table}", ""))


def to_frame(table: Table) -> pd.DataFrame:
    """Return one line a number, in the units of results.csv, with what was printed and how marked."""
    import pandas as pd

    columns = (
        *("table", "dataset", "quantity", "metric", "params", "arm", "column", "method", "variant"),
        *("value", "spread", "spread_over", "low", "high", "seeds", "n", "unit"),
        *("higher_is_better", "printed", "mark"),
    )
    records = []
    for row in table.rows:
        cells = zip(table.columns, row.entries, table.texts(row), table.marks(row), strict=True)
        for column, entry, text, mark in cells:
            if entry is None:
                continue
            records.append(
                {
                    "table": table.name,
                    "dataset": row.dataset,
                    "quantity": row.quantity,
                    "metric": row.metric,
                    "params": row.params,
                    "arm": row.arm if column.series else column.title.lower(),
                    "column": column.title,
                    "method": column.series.method if column.series else "",
                    "variant": column.series.variant if column.series else "",
                    "value": entry.value,
                    "spread": entry.spread,
                    "spread_over": "" if pd.isna(entry.spread) else row.over,
                    "low": entry.low,
                    "high": entry.high,
                    "seeds": " ".join(map(str, entry.seeds)),
                    "n": entry.n,
                    "unit": row.unit,
                    "higher_is_better": row.higher_is_better,
                    "printed": text,
                    "mark": mark,
                }
            )
    return pd.DataFrame(records, columns=list(columns))


def write_table(table: Table, folder: Path) -> list[Path]:
    """Write NAME.md, NAME.tex and NAME.csv, each atomically."""
    paths = [folder / f"{table.name}{suffix}" for suffix in (".md", ".tex", ".csv")]
    texts = (to_markdown(table), to_latex(table), to_frame(table).to_csv(index=False))
    for path, text in zip(paths, texts, strict=True):
        with write_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return paths
