"""Configuration: --set, --config, presets, digests, seeds, cells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from coinbench import registry
from coinbench.errors import UsageError
from coinbench.overrides import flatten, parse
from coinbench.plan import (
    Request,
    RunConfig,
    dataset_config,
    names,
    resolve,
    seeds,
)
from coinbench.presets import PRESETS, preset

BOTH = "viscoin,flint"


def resolved(*sets: str, datasets: str = "birds", methods: str = BOTH, **given: Any) -> RunConfig:
    return resolve(Request(methods=methods, datasets=datasets, sets=sets, **given))


def experiment(*sets: str, **given: Any) -> Any:
    return resolved(*sets, **given).experiments["birds"]["default"]


def complaint(*sets: str, **given: Any) -> str:
    with pytest.raises(UsageError) as caught:
        resolved(*sets, **given)
    message = str(caught.value)
    assert "\n" not in message
    return message


def write(path: Path, tree: Any) -> Path:
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree), encoding="utf-8")
    return path


# --set


def test_set_changes_what_it_names_and_nothing_else() -> None:
    plain = experiment().model_dump(mode="json")
    changed = experiment("data.size=64", "problem.classifier.train.steps=7", "evaluation.taus=[0.3]").model_dump(
        mode="json"
    )
    assert changed["data"].pop("size") == 64
    assert changed["problem"]["classifier"]["train"].pop("steps") == 7
    assert changed["evaluation"].pop("taus") == [0.3]
    del plain["data"]["size"], plain["problem"]["classifier"]["train"]["steps"], plain["evaluation"]["taus"]
    assert changed == plain


def test_method_keys_change_every_method_that_has_them_and_methods_keys_one() -> None:
    both = experiment("method.K=9", "method.alpha=0.9", "methods.flint.channels=12").methods
    assert both["viscoin"].K == both["flint"].K == 9
    assert both["viscoin"].alpha == 0.9
    assert "alpha" not in type(both["flint"]).model_fields
    assert both["flint"].channels == 12
    assert both["viscoin"].channels == experiment().methods["viscoin"].channels != 12
    assert {config.train.steps for config in experiment("method.train.steps=5").methods.values()} == {5}


def test_later_settings_win() -> None:
    assert experiment("data.size=64", "data.size=48").data.size == 48


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("method.gama=0.2", ["gama", "'gamma'"]),
        ("data.sise=64", ["data.", "sise", "'size'"]),
        ("problem.clasifier.width=8", ["clasifier", "'classifier'"]),
        ("evaluaton.batch=8", ["evaluaton", "'evaluation'"]),
        ("methods.viscion.K=8", ["viscion", "'viscoin'"]),
        ("method.train.step=8", ["step", "'steps'"]),
        ("method.K=many", ["K", "integer", "'many'"]),
        ("method.K=1", ["K", "greater than or equal to 2", "1"]),
        ("method.K=2.5", ["K", "2.5"]),
        ("data.size=100000", ["data.size", "1024"]),
        ("data.train_size=16", ["data.train_size", "at least size = 32"]),
        ("evaluation.taus=[]", ["evaluation.taus", "one or more"]),
        ("evaluation.taus=[0.1, 0.1]", ["evaluation.taus", "different"]),
        ("evaluation.bootstrap=.nan", ["evaluation.bootstrap"]),
        ("methods.viscoin.gamma=.inf", ["gamma", "finite"]),
        ("method.gamma=0.2", ["means something else", "methods.viscoin.gamma or methods.flint.gamma"]),
        ("problem.generator.net=stylegan9", ["stylegan9", "beta_vae"]),
        ("problem.classifier.net=alexnet", ["classifier 'alexnet'", "resnet50"]),
        ("method.train.optimiser=lion", ["optimiser", "adam"]),
        ("data=5", ["data", "keys of its own"]),
        ("method=5", ["name a field"]),
        ("data.size.x=5", ["data.size is a value"]),
        ("data.size", ["expected path=value"]),
        ("=5", ["expected path=value"]),
        ("data..size=5", ["expected path=value"]),
        ("data.size=[1", ["not readable"]),
        ("data.name=digits", []),
        ("method.name=nosuch", ["method.name", "--methods"]),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line_that_names_it(text: str, parts: list[str]) -> None:
    message = complaint(text)
    for part in parts:
        assert part in message


def test_a_value_out_of_range_names_the_method_it_belongs_to() -> None:
    assert complaint("methods.flint.gamma=-1").startswith("methods.flint.gamma: ")


def test_a_key_that_no_method_has_lists_the_near_ones() -> None:
    assert "did you mean 'delta'" in complaint("method.detla=1")
    assert complaint("method.alpha=1", methods="flint").startswith("unknown key method. 'alpha'")


def test_flatten_and_parse_are_inverse_to_nesting() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [1, 2]}}}) == [(["a", "b"], 1), (["a", "c", "d"], [1, 2])]
    assert parse("a.b=[1, 2]") == (["a", "b"], [1, 2])
    assert parse("a=b=c") == (["a"], "b=c")


def test_imagefolder_asks_for_its_root_by_name(tmp_path: Path) -> None:
    message = complaint(datasets="imagefolder")
    assert "data.root" in message
    assert "--set data.root=" in message
    config = resolved(f"data.root={tmp_path}", datasets="imagefolder")
    assert config.experiments["imagefolder"]["default"].data.model_dump()["root"] == tmp_path
    assert dataset_config("imagefolder", (f"data.root={tmp_path}",)).size == 64


# --config


def test_the_file_beats_the_preset_and_flags_beat_the_file(tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.yaml",
        {
            "dataset": "birds",
            "methods": ["viscoin", "flint"],
            "seeds": "0:2",
            "metrics": ["mse"],
            "method": {"K": 10, "train": {"steps": 20}},
            "data": {"size": 64},
            "set": ["data.val_fraction=0.3", "method.K=11"],
        },
    )
    config = resolve(Request(config=file))
    only = config.experiments["birds"]["default"]
    assert list(only.methods) == ["viscoin", "flint"]
    assert (config.seeds, config.metrics) == ((0, 1), ("mse",))
    assert (only.data.size, only.data.val_fraction) == (64, 0.3)
    assert {(m.model_dump()["K"], m.train.steps) for m in only.methods.values()} == {(11, 20)}
    assert only.methods["viscoin"].train.lr == preset("birds", ("viscoin",)).methods["viscoin"].train.lr
    config = resolve(
        Request(config=file, methods="flint", seeds="5", metrics="accuracy", sets=("method.K=12", "data.size=48"))
    )
    only = config.experiments["birds"]["default"]
    assert list(only.methods) == ["flint"]
    assert (config.seeds, config.metrics) == ((5,), ("accuracy",))
    assert (only.data.size, only.data.val_fraction, only.methods["flint"].train.steps) == (48, 0.3, 20)
    assert only.methods["flint"].model_dump()["K"] == 12


@pytest.mark.parametrize("text", ["0:2", "1:3", "'1:3'", "[1, 2]", "7"])
def test_seeds_in_a_file_mean_what_they_mean_on_the_command_line(tmp_path: Path, text: str) -> None:
    file = write(tmp_path / "c.yaml", f"dataset: birds\nmethods: flint\nseeds: {text}\n")
    expected = {"0:2": (0, 1), "1:3": (1, 2), "'1:3'": (1, 2), "[1, 2]": (1, 2), "7": (7,)}
    assert resolve(Request(config=file)).seeds == expected[text]


def test_numbers_with_exponents_are_numbers(tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.yaml", "dataset: birds\nmethods: flint\nmethod: {train: {lr: 1e-3, weight_decay: 1e-5}}\n"
    )
    train = resolve(Request(config=file)).experiments["birds"]["default"].methods["flint"].train
    assert (train.lr, train.weight_decay) == (1e-3, 1e-5)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("a: [1", ["not readable as YAML"]),
        ("- 1\n- 2\n", ["expected a mapping", "list"]),
        ("", ["expected a mapping"]),
        ("dataset: birds\nmethds: flint\n", ["methds", "'methods'"]),
        ("dataset: birds\nmethods: flint\nmethod: {gama: 1}\n", ["gama", "'gamma'"]),
        ("dataset: birds\nmethods: flint\ndata: 5\n", ["data"]),
        ("dataset: birds\nmethods: flint\nset: data.size=64\n", ["set", "list"]),
        ("dataset: birds\nmethods: flint\nset: 5\n", ["set", "list"]),
        ("dataset: birds\nmethods: flint\nvariants: {a: 1}\n", ["variants", "list"]),
        ("experiments: {}\n", ["experiments"]),
        ("experiments: 5\nmetrics: [mse]\nseeds: [0]\n", ["experiments"]),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, content: str, parts: list[str]) -> None:
    file = write(tmp_path / "c.yaml", content)
    with pytest.raises(UsageError) as caught:
        resolve(Request(config=file))
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        resolve(Request(config=tmp_path / "none.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    for path in (tmp_path / "binary.yaml", tmp_path):
        with pytest.raises(UsageError, match="not readable"):
            resolve(Request(config=path))


@pytest.mark.parametrize("dataset", registry.PROBLEMS.names())
def test_the_resolved_configuration_of_every_preset_round_trips(dataset: str, tmp_path: Path) -> None:
    root = (f"data.root={tmp_path}",) if dataset == "imagefolder" else ()
    config = resolved(*root, datasets=dataset, seeds="0:2", variants=("a:method.K=8", "b:method.K=9;data.flip=true"))
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config.model_dump(mode="json")), encoding="utf-8")
    again = resolve(Request(config=path))
    assert again == config
    assert again.model_dump(mode="json") == config.model_dump(mode="json")
    assert resolve(Request(config=path, seeds="4", metrics="mse")).seeds == (4,)
    with pytest.raises(UsageError, match="only --seeds and --metrics"):
        resolve(Request(config=path, sets=("method.K=4",)))
    with pytest.raises(UsageError, match="known:"):
        resolve(Request(config=path, metrics="nosuch"))


# names, seeds, variants


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", (0,)), ("0:3", (0, 1, 2)), ("5,1", (5, 1)), ("0:2, 7", (0, 1, 7)), (" 3 ", (3,))],
)
def test_seeds_are_numbers_lists_and_ranges_without_their_end(text: str, expected: tuple[int, ...]) -> None:
    assert seeds(text) == expected


@pytest.mark.parametrize(
    "text", ["", "a", "-1", "1.5", "3:1", "2:2", "0,0", "0:3,1", "1:", ":3", "0:1:2", "0:99999999", "1,,2"]
)
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--seeds"):
        seeds(text)


def test_unknown_names_are_refused_with_near_ones() -> None:
    assert "did you mean 'viscoin'" in complaint(methods="viscion")
    assert "did you mean 'birds'" in complaint(datasets="brids")
    assert "did you mean 'faithfulness'" in complaint(metrics="faithfulnes")
    assert "no method given" in complaint(methods="")
    assert "no data set given" in complaint(datasets="")
    assert "given twice" in complaint(methods="flint,flint")
    assert names(" a ,b,") == ("a", "b")


def test_variants_are_experiments_of_their_own() -> None:
    config = resolved("method.K=8", variants=("small:method.K=4", "flat:methods.viscoin.side=1;data.size=64"))
    small, flat = config.experiments["birds"]["small"], config.experiments["birds"]["flat"]
    assert set(config.experiments["birds"]) == {"small", "flat"}
    assert (small.methods["viscoin"].model_dump()["K"], small.data.size) == (4, 32)
    assert (flat.methods["viscoin"].model_dump()["K"], flat.data.size) == (8, 64)
    for wrong in ("small", ":method.K=4"):
        assert "--variant" in complaint(variants=(wrong,))
    assert "each name once" in complaint(variants=("a:method.K=4", "a:method.K=5"))
    assert "'gamma'" in complaint(variants=("a:method.gama=4",))


@pytest.mark.parametrize("dataset", sorted(PRESETS))
def test_random_concepts_have_the_losses_of_viscoin(dataset: str) -> None:
    of_psi = {"delta", "orthogonality", "standardised"}
    methods = preset(dataset, ("viscoin", "random")).methods
    viscoin, random = (methods[name].model_dump(exclude={"name", "train", *of_psi}) for name in ("viscoin", "random"))
    assert random == viscoin
