"""More tables: what few concepts are enough for, what becomes of concepts, and what they have to do with true parts.

The paper has numbers of the first two in its tables 9 to 12.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from coinbench.reports.folder import Series
from coinbench.reports.layout import Column, Numbers, Row, Table, setting, significant

NAMES = {
    "topn_accuracy": "top-N accuracy",
    "auc_ff": "AUC-FF",
    "auc_ff_curve": "accuracy of g on x_N",
    "leakage": "g moved by Φ′",
    "leakage_class": "class read from Φ′",
    "leakage_image": "picture changed by Φ′",
    "leakage_share": "share of Φ′ in the picture",
    "concept_flags": "flagged concepts",
    "concept_flags_count": "number of flagged concepts",
    "concept_stability": "stability across seeds",
    "part_consistency": "part consistency",
    "part_consistency_half": "concepts with a part",
    "part_consistency_covered": "concepts covered",
    "part_consistency_judge": "ROC area of f_part",
    "visualisation_fd_f": "visualisation FD-f",
    "visualisation_fid": "visualisation FID",
    "visualisation_fd_inception_file": "visualisation FD (file)",
    "part_information": "information on one part",
    "parts_followed": "parts followed",
    "part_disentanglement": "disentanglement",
    "part_completeness": "completeness",
    "part_informativeness": "informativeness",
    "part_locality": "change inside its part",
    "part_use": "agreement with f's use of parts",
}
"""How tables and figures call these numbers."""
_PERCENT = ("fraction", "probability")
_FEW = ("topn_accuracy", "auc_ff", "auc_ff_curve")
_ARMS = {
    "random": "random concepts",
    "concepts": "Φ swapped",
    "unswapped": "nothing swapped",
    "permuted": "permuted",
    "swapped": "x⁺, x⁻ swapped",
    "reconstruction": "λ = 1",
    "train images": "train images",
    "same distribution": "same distribution",
    "decoded": "decoded, λ = 4",
    "any part": "any part",
    "even": "even change",
}
"""What stands in the column of controls; the method's own number has nothing there."""
_CONCEPTS = (
    *("leakage", "leakage_class", "leakage_share", "concept_flags", "concept_stability"),
    *("part_consistency", "part_consistency_half", "part_consistency_covered"),
    *("visualisation_fid", "visualisation_fd_inception_file", "visualisation_fd_f"),
)
_PARTS = (
    *("part_information", "parts_followed", "part_disentanglement", "part_completeness", "part_informativeness"),
    *("part_locality", "part_use"),
)
_WITHOUT = frozenset({"concept_flags", "part_consistency_half"})
"""Of these the control is in the results alone: it would fill the table."""
_SAYS = {
    "topn_accuracy": "Top-N: only the N most active concepts kept.",
    "auc_ff": "x_N: decoded from the N most active concepts; AUC over N/K.",
    "leakage": "Φ′ of another image in the place of x's own: how far g's probabilities move, how often g reads that "
    "image's class, and how much of the change of the picture when both are swapped in turn is that of Φ′.",
    "concept_stability": "Stability: mean correlation of concepts matched one to one between seeds; permuted: what "
    "matching reaches by chance.",
    "part_consistency": "Part consistency: share of images in which one part rises by more than τ with the concept.",
    "visualisation_fd_f": "Visualisation: pictures of amplified concepts against the images that they start "
    "from; same distribution: what two samples of n from one distribution show. Intervals are of the distance at that "
    "n.",
    "part_information": "Mutual information of a concept with the part that it tells most of, 1: all of it; parts "
    "followed: share of the parts that some concept tells most of.",
    "part_informativeness": "Disentanglement: each concept tells of one part; completeness: each part is told by one "
    "concept; informativeness: the parts can be told from all concepts.",
    "part_locality": "Change inside its part: of the picture, when a concept is raised, in that part's true mask.",
    "part_use": "Agreement: of a method's relevance of the concepts of a part with what that part is worth to f, by "
    "drawing the image anew.",
}
"""What a caption adds where a metric was measured."""


def concept_tables(
    numbers: Numbers, series: Sequence[Series], put: Callable[..., Table], columns: Sequence[Column]
) -> list[Table]:
    """Return the tables that something was measured for.

    Args:
        numbers: rows of results.
        series: methods.
        put: puts a table together.
        columns: one for each method.
    """
    measured, found = set(numbers.metrics("")), []
    for name, title, metrics in (
        ("few", "Few concepts (%)", _FEW),
        ("concepts", "Leakage, flags, stability, parts and pictures of concepts", _CONCEPTS),
        ("parts", "Concepts and true parts", _PARTS),
    ):
        shown = [metric for metric in metrics if metric in measured]
        if shown:
            rows = [row for d in numbers.datasets() for m in shown for row in _rows(numbers, series, d, m)]
            notes = [says for metric, says in _SAYS.items() if metric in shown]
            headers = ("data set", "quantity", "setting", "control")
            found.append(put(name, title, headers, columns, rows, numbers, shown, notes))
    return found


def _rows(numbers: Numbers, series: Sequence[Series], dataset: str, metric: str) -> Iterator[Row]:
    arms = {record.arm for record in numbers.of(metric)}
    unit, better = numbers.unit(metric), numbers.direction(metric)
    percent = unit in _PERCENT
    for arm in ("method", *(arm for arm in _ARMS if arm in arms and metric not in _WITHOUT)):
        for params in numbers.params(metric):
            entries = tuple(numbers.entry(dataset, one, metric, params, arm) for one in series)
            control = "" if arm == "method" else _ARMS[arm]
            name = NAMES[metric] + (" (%)" if percent and metric not in _FEW else "")
            yield Row(
                labels=(dataset, name, setting(params), control),
                quantity=name,
                dataset=dataset,
                metric=metric,
                params=params,
                arm=arm,
                entries=entries,
                unit=unit,
                scale=100.0 if percent else 1.0,
                decimals=1 if percent else significant(entries),
                higher_is_better=better if arm == "method" else None,
                # A method shown by its decoder has no other picture; another may have no relevant pair.
                optional=metric.startswith("visualisation"),
            )
