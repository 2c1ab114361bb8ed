"""Behind each number: a doctest, an independent implementation or closed form, and a planted truth; all are there."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

from coinbench.registry import METRICS

HERE = Path(__file__).parent
EVIDENCE = {
    "accuracy": (
        *("metrics.accuracy", "test_accuracy.py::test_accuracy_agrees_with_scikit_learn"),
        "test_accuracy.py::test_the_planted_model_scores_what_it_must",
    ),
    "mse": (
        *("metrics.mse", "test_mse.py::test_it_agrees_with_scikit_learn"),
        "test_mse.py::test_the_planted_model_scores_what_it_must",
    ),
    "perceptual": (
        *("metrics.perceptual", "test_perceptual.py::test_it_agrees_with_cosines"),
        "test_perceptual.py::test_the_planted_model_scores_what_it_must",
    ),
    "frechet": (
        *("metrics.frechet", "test_frechet.py::test_it_agrees_with_the_matrix_root_of_scipy"),
        "test_frechet.py::test_the_planted_model_scores_what_it_must",
    ),
    "faithfulness": (
        *("metrics.faithfulness", "test_faithfulness.py::test_the_planted_model_scores_what_it_must"),
        "test_faithfulness.py::test_a_constant_decoder_loses_nothing",
    ),
    "consistency": (
        *("metrics.pair_svm", "test_consistency.py::test_the_svm_agrees_with_a_grid_search"),
        "test_consistency.py::test_the_planted_model_scores_what_it_must",
    ),
    "sparsity": (
        *("metrics.sparsity", "test_sparsity.py::test_the_null_counts_what_is_relevant_whatever_the_class"),
        "test_sparsity.py::test_the_planted_model_scores_what_it_must",
    ),
    **{
        f"lpips_{net}": (
            *("networks.lpips", "test_published.py::test_lpips_is_the_packages"),
            "test_published.py::test_lpips_is_the_packages",
        )
        for net in ("vgg", "alex", "squeeze")
    },
    "inception": (
        *("metrics.inception", "test_published.py::test_fid_and_kid_are_torch_fidelitys"),
        "test_published.py::test_few_images_in_the_basis_of_their_span",
    ),
    "topn_accuracy": (
        *("metrics.topn", "test_topn_auc.py::test_the_most_active_are_those_that_scikit_learn_counts"),
        "test_topn_auc.py::test_top_n_accuracy_is_that_of_the_planted_model",
    ),
    "auc_ff": (
        *("metrics.auc_ff", "test_topn_auc.py::test_the_area_is_that_of_scikit_learn"),
        "test_topn_auc.py::test_auc_ff_is_that_of_the_planted_model",
    ),
    "leakage": (
        *("metrics.leakage", "test_leakage.py::test_total_variation_is_that_of_the_probabilities"),
        "test_leakage.py::test_a_support_that_g_cannot_read_moves_the_picture_alone",
    ),
    "concept_flags": (
        *("metrics.stability", "test_concept_flags.py::test_the_matching_is_the_best_of_all"),
        "test_concept_flags.py::test_concepts_in_another_order_are_stable_and_those_of_chance_are_not",
    ),
    "part_alignment": (
        *("metrics.part_alignment", "test_parts.py::test_information_is_that_of_scikit_learn"),
        "test_parts.py::test_an_oracle_scores_one_and_no_meaning_scores_chance",
    ),
    "part_locality": (
        *("metrics.part_locality", "test_parts.py::test_a_part_changes_nothing_outside_its_region"),
        "test_parts.py::test_an_oracle_scores_one_and_no_meaning_scores_chance",
    ),
    "part_use": (
        *("metrics.part_use", "test_parts.py::test_log_odds_and_correlation_are_those_of_their_definitions"),
        "test_parts.py::test_an_oracle_scores_one_and_no_meaning_scores_chance",
    ),
    "part_consistency": (
        *("metrics.part_consistency", "test_part_consistency.py::test_the_area_is_that_of_scikit_learn"),
        "test_part_consistency.py::test_each_planted_concept_adds_its_own_part",
    ),
    "visualisation": (
        *("metrics.visualisation", "test_visualisation.py::test_the_planted_model_is_shown_as_it_decodes"),
        "test_visualisation.py::test_the_planted_model_is_shown_as_it_decodes",
    ),
    "visualisation_fid": (
        *("metrics.visualisation", "test_published.py::test_fid_and_kid_are_torch_fidelitys"),
        "test_visualisation.py::test_the_planted_model_is_shown_as_it_decodes",
    ),
}
"""Metric -> module with its doctests, the comparison, the planted truth."""


@pytest.mark.parametrize("name", EVIDENCE)
def test_each_number_has_its_evidence(name: str) -> None:
    module, *tests = EVIDENCE[name]
    assert name in METRICS.built_in
    found = doctest.DocTestFinder().find(importlib.import_module(f"coinbench.{module}"))
    assert any(one.examples for one in found)
    for test in tests:
        file, _, function = test.partition("::")
        assert re.search(rf"^def {function}\(", (HERE / file).read_text(encoding="utf-8"), re.MULTILINE), test
