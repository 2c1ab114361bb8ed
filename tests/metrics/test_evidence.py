"""Behind each number: a doctest, an independent implementation or closed form, and a planted truth; all are there."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

from coinbench.registry import METRICS

HERE = Path(__file__).parent
CONSISTENCY = "test_consistency.py::"
PARTS = "test_parts.py::"
ORACLE = f"{PARTS}test_an_oracle_scores_one_and_no_meaning_scores_chance"
PUBLISHED = "test_published.py::"
TOPN = "test_topn_auc.py::"
PICTURES = "test_visualisation.py::"
MUST = "test_the_planted_model_scores_what_it_must"


def _all(names: tuple[str, ...], module: str, comparison: str, truth: str) -> dict[str, tuple[str, str, str]]:
    return dict.fromkeys(names, (module, comparison, truth))


EVIDENCE = {
    **_all(
        ("accuracy", "accuracy_f", "accuracy_reconstruction", "probability_reconstruction"),
        *("accuracy", "test_accuracy.py::test_accuracy_agrees_with_scikit_learn", f"test_accuracy.py::{MUST}"),
    ),
    "agreement": (
        *("accuracy", "test_accuracy.py::test_chance_agreement_is_the_mean_over_all_pairings"),
        f"test_accuracy.py::{MUST}",
    ),
    **_all(
        ("accuracy_own_f", "agreement_own_f"),
        *("accuracy", "test_accuracy.py::test_accuracy_agrees_with_scikit_learn"),
        "test_accuracy.py::test_a_classifier_of_its_own_has_rows_of_its_own",
    ),
    "mse": ("mse", "test_mse.py::test_it_agrees_with_scikit_learn", f"test_mse.py::{MUST}"),
    "pd_p": ("perceptual", "test_perceptual.py::test_it_agrees_with_cosines", f"test_perceptual.py::{MUST}"),
    **_all(
        ("fd_p", "fd_f"),
        *("frechet", "test_frechet.py::test_it_agrees_with_the_matrix_root_of_scipy", f"test_frechet.py::{MUST}"),
    ),
    **_all(
        ("faithfulness", "faithfulness_mean", "faithfulness_iqr", "removed"),
        # The planted model has a closed form, which the first test writes out.
        *(
            "faithfulness",
            f"test_faithfulness.py::{MUST}",
            "test_faithfulness.py::test_a_constant_decoder_loses_nothing",
        ),
    ),
    "consistency": ("pair_svm", f"{CONSISTENCY}test_the_svm_agrees_with_a_grid_search", f"{CONSISTENCY}{MUST}"),
    "consistency_shift": (
        *("pair_svm", f"{CONSISTENCY}test_the_shift_is_that_of_the_edit"),
        f"{CONSISTENCY}test_a_constant_decoder_is_at_chance",
    ),
    "dead_concepts": (
        *("consistency", f"{CONSISTENCY}test_fewer_than_ten_images_make_a_concept_dead", f"{CONSISTENCY}{MUST}"),
    ),
    "sparsity": (
        *("sparsity", "test_sparsity.py::test_the_null_counts_what_is_relevant_whatever_the_class"),
        f"test_sparsity.py::{MUST}",
    ),
    "topn_accuracy": (
        *("topn", f"{TOPN}test_the_most_active_are_those_that_scikit_learn_counts"),
        f"{TOPN}test_top_n_accuracy_is_that_of_the_planted_model",
    ),
    **_all(
        ("auc_ff", "auc_ff_curve"),
        *("auc_ff", f"{TOPN}test_the_area_is_that_of_scikit_learn"),
        f"{TOPN}test_auc_ff_is_that_of_the_planted_model",
    ),
    **_all(
        ("leakage", "leakage_class", "leakage_image", "leakage_share"),
        *("leakage", "test_leakage.py::test_total_variation_is_that_of_the_probabilities"),
        "test_leakage.py::test_a_support_that_g_cannot_read_moves_the_picture_alone",
    ),
    **_all(
        ("concept_flags", "concept_flags_count"),
        *("concept_flags", "test_concept_flags.py::test_separability_is_the_area_of_scikit_learn"),
        "test_concept_flags.py::test_the_planted_model_has_one_dead_concept",
    ),
    "concept_stability": (
        *("stability", "test_concept_flags.py::test_the_matching_is_the_best_of_all"),
        "test_concept_flags.py::test_concepts_in_another_order_are_stable_and_those_of_chance_are_not",
    ),
    **_all(
        ("part_consistency", "part_consistency_half", "part_consistency_covered"),
        *("part_consistency", "test_part_consistency.py::test_the_rise_is_that_of_the_decoded_images"),
        "test_part_consistency.py::test_each_planted_concept_adds_its_own_part",
    ),
    "part_consistency_judge": (
        *("part_consistency", "test_part_consistency.py::test_the_area_is_that_of_scikit_learn"),
        "test_part_consistency.py::test_heads_on_p_tell_parts",
    ),
    **{
        name: (
            *("visualisation", f"{PICTURES}test_the_distance_is_that_of_the_matrix_root_of_scipy"),
            planted,
        )
        for name, planted in (
            ("visualisation_fd_f", f"{PICTURES}test_the_planted_model_is_shown_as_it_decodes"),
            ("visualisation_fid", f"{PUBLISHED}test_pictures_that_are_their_sources_have_no_distance"),
            ("visualisation_fd_inception_file", f"{PUBLISHED}test_pictures_that_are_their_sources_have_no_distance"),
        )
    },
    "part_information": ("part_alignment", f"{PARTS}test_information_is_that_of_scikit_learn", ORACLE),
    "parts_followed": ("part_alignment", f"{PARTS}test_the_parts_followed_are_those_of_a_loop", ORACLE),
    **_all(
        ("part_disentanglement", "part_completeness", "part_informativeness"),
        *("part_alignment", f"{PARTS}test_dci_is_that_of_its_definition_above_permuted_images", ORACLE),
    ),
    "part_locality": ("part_locality", f"{PARTS}test_locality_is_the_weighted_mean_of_the_masks", ORACLE),
    "part_use": (
        *("part_use", f"{PARTS}test_log_odds_and_correlation_are_those_of_their_definitions"),
        "test_part_use.py::test_it_is_the_correlation_with_the_planted_use",
    ),
    **_all(
        tuple(kind for net in ("vgg", "alex", "squeeze") for kind in (f"lpips_{net}", f"pd_{net}_file")),
        *("networks.lpips", f"{PUBLISHED}test_lpips_is_the_packages"),
        f"{PUBLISHED}test_lpips_of_a_copy_is_nothing_and_of_the_mean_image_its_control",
    ),
    **_all(
        ("fid", "kid", "fd_inception_file", "kd_inception_file"),
        *("inception", f"{PUBLISHED}test_fid_and_kid_are_torch_fidelitys"),
        f"{PUBLISHED}test_fid_and_kid_of_two_planted_points",
    ),
}
"""Number -> module of coinbench.metrics (or with its package) with its doctests, the comparison, the planted truth."""


def test_every_built_in_number_is_listed() -> None:
    assert {*EVIDENCE} == {spec.name for name in METRICS.built_in for spec in METRICS.load(name).specs}


@pytest.mark.parametrize("name", EVIDENCE)
def test_each_number_has_its_evidence(name: str) -> None:
    module, comparison, planted = EVIDENCE[name]
    assert comparison != planted
    path = module if "." in module else f"metrics.{module}"
    found = doctest.DocTestFinder().find(importlib.import_module(f"coinbench.{path}"))
    assert any(one.examples for one in found)
    for test in (comparison, planted):
        file, _, function = test.partition("::")
        assert re.search(rf"^def {function}\(", (HERE / file).read_text(encoding="utf-8"), re.MULTILINE), test
