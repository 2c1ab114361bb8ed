"""Which numbers a number must be read with: each can be had by a method that shows nothing, and another tells.

`coinbench audit` holds this table against entrants that game the numbers (docs/audit.md); captions print it. A plug-in
says it in its own `MetricSpec.read_with`. Never imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_UNTRAINED, _FLAGS, _PLACE = "consistency (untrained)", "concept_flags", "part_locality (even)"
_CONCEPTS = (_UNTRAINED, _FLAGS, _PLACE)
"""What any number needs: that concepts show something which an untrained decoder does not, each something of its own,
and in one place."""
_PICTURE = ("leakage (concepts)", "leakage_share", *_CONCEPTS)
"""Φ′ alone may have drawn the picture."""
_CLASS = ("faithfulness (random)", *_CONCEPTS)
"""The class may be in the concepts and in nothing that they show."""
_FAITHFUL = ("leakage_share", *_CONCEPTS)
"""A change of φ_k may move g and show nothing."""

READ_WITH: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("accuracy", "agreement", "topn_accuracy"), _CLASS),
    **dict.fromkeys(("accuracy_reconstruction", "probability_reconstruction"), _PICTURE),
    **dict.fromkeys(("mse", "pd_p", "fd_p", "fd_f", "lpips_vgg", "lpips_alex", "lpips_squeeze"), _PICTURE),
    **dict.fromkeys(("fid", "kid", "visualisation_fid", "visualisation_fd_f"), _PICTURE),
    # The same with other weights than the published ones.
    **dict.fromkeys(("pd_vgg_file", "pd_alex_file", "pd_squeeze_file"), _PICTURE),
    **dict.fromkeys(("fd_inception_file", "kd_inception_file", "visualisation_fd_inception_file"), _PICTURE),
    **dict.fromkeys(("faithfulness", "faithfulness_mean", "auc_ff", "auc_ff_curve"), _FAITHFUL),
    **dict.fromkeys(("leakage", "leakage_class", "leakage_share", "dead_concepts"), _CONCEPTS),
    # Of f, or of f_part, alone.
    **dict.fromkeys(("accuracy_f", "accuracy_own_f", "agreement_own_f", "part_consistency_judge"), ()),
    "consistency": (_UNTRAINED, _FLAGS, _PLACE),
    # One flag with the others.
    **dict.fromkeys(("concept_flags", "concept_flags_count"), ("leakage_share", *_CONCEPTS)),
    "part_locality": (_UNTRAINED, _FLAGS),
    **dict.fromkeys(("part_information", "part_disentanglement", "part_completeness"), _CONCEPTS),
    **dict.fromkeys(("part_informativeness", "parts_followed", "part_use"), _CONCEPTS),
    **dict.fromkeys(("part_consistency", "part_consistency_half", "concept_stability"), _CONCEPTS),
}
"""Name of a number -> numbers to read it with, none where it says nothing of a method; in brackets the control that a
method must be better than."""
_COMPANION = re.compile(r"([^()\s]+)(?: \(([^()]+)\))?")


def parse(text: str) -> tuple[str, str]:
    """Return name and control of a companion; the control is empty where none is named.

    >>> parse("leakage (concepts)"), parse("concept_flags")
    (('leakage', 'concepts'), ('concept_flags', ''))

    Raises:
        ValueError: it is neither NAME nor NAME (CONTROL).
    """
    found = _COMPANION.fullmatch(text)
    if not found:
        raise ValueError(f"read_with: {text!r}; expected NAME or NAME (CONTROL), as in 'consistency (untrained)'")
    return found[1], found[2] or ""
