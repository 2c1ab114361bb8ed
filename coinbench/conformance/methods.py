"""The laws of a method: configuration, build, fit, encode, predict, decode, edits, storage, devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from coinbench import contract, weights
from coinbench.coin import CoIN, relevance
from coinbench.concepts import Concepts
from coinbench.config import MethodConfig, TrainConfig
from coinbench.conformance.report import Broken, Law, Report, Skipped, Steps, alike, demand, examine
from coinbench.conformance.tiny import make_problem, moved
from coinbench.digests import source_file
from coinbench.errors import Interrupted
from coinbench.log import Log
from coinbench.problem import Problem
from coinbench.rng import Rng
from coinbench.specs import MethodSpec

SMALL = {"K": 5, "channels": 4, "decoder": 8, "synthetic": 2}
"""Settings that make a method tiny; each method takes those it has."""
_IMAGES = 7
_RNG = Rng(3).child("fit")


def small_config(spec: MethodSpec, **changes: Any) -> MethodConfig:
    """Return settings of a tiny network of a method, trained for three steps of four images."""
    given: dict[str, Any] = {"train": TrainConfig(steps=3, batch=4, lr=1e-2, log_every=1)}
    for name, value in SMALL.items():
        if name in spec.config.model_fields:
            try:
                given |= spec.config.model_validate({**given, name: value}).model_dump(include={name})
            except ValidationError:
                # Too small for this method: its default stays.
                continue
    return spec.config.model_validate({**given, **changes})


class MethodBench:
    """A method on tiny problems; what several laws need is made once."""

    def __init__(self, spec: MethodSpec, name: str | None, folder: Path) -> None:
        """Hold the method; nothing is built yet."""
        self.spec, self.name, self.folder = spec, name, folder
        self.problem = make_problem()
        self.images = self.problem.test.take(np.arange(_IMAGES)).images
        self.steps = Steps()

    @property
    def config(self) -> MethodConfig:
        """Its tiny settings."""
        return self.steps.once("making the settings", lambda: small_config(self.spec))

    def build(self, rng: Rng = _RNG, problem: Problem | None = None) -> CoIN:
        """Return its network at initialisation."""
        config = self.config
        with contract.raising("build", self.spec.build):
            coin = self.spec.build(config, problem or self.problem, rng)
        return contract.check_coin(coin, "build")

    def fit(self, log: Log, problem: Problem | None = None, rng: Rng = _RNG) -> CoIN:
        """Return its network after a short training, in eval mode."""
        config = self.config
        with torch.enable_grad(), contract.raising("fit", self.spec.fit):
            coin = self.spec.fit(config, problem or self.problem, rng, log)
        return contract.check_coin(coin, "fit").eval()

    @property
    def built(self) -> CoIN:
        """The network at initialisation."""
        return self.steps.once("build", lambda: self.build().eval())

    @property
    def fitted(self) -> CoIN:
        """The trained network."""
        return self.steps.once("fit", lambda: self.fit(Log(self.folder / "first")))

    @property
    def concepts(self) -> Concepts:
        """Concepts of the images."""
        coin = self.fitted
        return self.steps.once("encode", lambda: contract.encode(coin, self.images))

    @property
    def logits(self) -> Tensor:
        """Prediction of the images."""
        coin, concepts = self.fitted, self.concepts
        return self.steps.once("predict", lambda: contract.predict(coin, concepts, self.problem.n_classes))

    @property
    def decoded(self) -> Tensor:
        """Reconstructions of the images."""
        coin, concepts = self.fitted, self.concepts
        return self.steps.once("decode", lambda: contract.decode(coin, concepts, self.images))

    def own(self, coin: CoIN) -> dict[str, Tensor]:
        """Copies of the weights that are the method's own."""
        return {k: v.detach().clone() for k, v in weights.own_state(coin, self.problem.networks).items()}


def check_method(spec: MethodSpec, name: str | None = None) -> Report:
    """Try every law on a method; under a minute on a CPU.

    Args:
        spec: the method.
        name: what it is registered as, where it is.
    """
    with TemporaryDirectory(prefix="coinbench-check-") as folder, torch.random.fork_rng(devices=[]), torch.no_grad():
        bench = MethodBench(spec, name, Path(folder))
        own = [file for file in {source_file(spec.build), source_file(spec.fit)} if file]
        return examine(f"method {name or spec.title}", LAWS, bench, own)


def _settings(bench: MethodBench) -> None:
    config = bench.spec.config
    demand(isinstance(config, type) and issubclass(config, MethodConfig), "config is no subclass of MethodConfig")
    default = config.model_fields["name"].default
    demand(isinstance(default, str), "the field `name` has no default; write name: str = ...")
    demand(bench.name in (None, default), f"registered as {bench.name!r}, but the default of `name` is {default!r}")
    lacking = [name for name, field in config.model_fields.items() if field.is_required() and name != "train"]
    demand(
        not lacking, f"field {lacking[0] if lacking else ''!r} has no default, so that no preset can make the settings"
    )
    made = bench.config
    demand(config.model_validate(made.model_dump(mode="json")) == made, "settings read back from JSON are other ones")


def _words(bench: MethodBench) -> None:
    for field in ("title", "source", "notes"):
        value = getattr(bench.spec, field)
        demand(isinstance(value, str) and value.strip(), f"MethodSpec.{field} is empty")


def _build(bench: MethodBench) -> None:
    coin = bench.built
    places = {str(value.device) for value in coin.state_dict().values()}
    demand(
        places <= {str(bench.problem.device)}, f"build leaves tensors on {sorted(places)}; end with .to(problem.device)"
    )


def _drawn(bench: MethodBench) -> str | None:
    first = bench.own(bench.built)
    torch.manual_seed(99)
    demand(
        _same(bench.own(bench.build()), first), "build gives other weights for the same rng; wrap it in `seeded(rng)`"
    )
    other = bench.own(bench.build(Rng(4).child("fit")))
    return "the rng changes nothing" if _same(other, first) else None


def _fit(bench: MethodBench) -> None:
    networks = bench.problem.networks
    before = [value.clone() for network in networks for value in network.state_dict().values()]
    coin = bench.fitted
    after = [value for network in networks for value in network.state_dict().values()]
    demand(
        all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "fit changed f, G or p; keep them frozen"
    )
    thawed = any(parameter.requires_grad for network in networks for parameter in network.parameters())
    demand(not thawed, "fit let f, G or p require gradients")
    wrong = [k for k, v in bench.own(coin).items() if v.is_floating_point() and not v.isfinite().all()]
    demand(not wrong, f"after fit {wrong[0] if wrong else ''!r} holds NaN or infinite values")


def _repeats(bench: MethodBench) -> str | None:
    first = bench.own(bench.fitted)
    torch.manual_seed(99)
    again = bench.own(bench.fit(Log(bench.folder / "again")))
    demand(_same(again, first), "fit gives other weights for the same seed; draw from `rng` alone, by step")
    other = bench.own(bench.fit(Log(bench.folder / "other"), rng=Rng(4).child("fit")))
    return "the seed changes nothing" if _same(other, first) else None


def _resumes(bench: MethodBench) -> None:
    first, folder = bench.own(bench.fitted), bench.folder / "cut"
    log = Log(folder)
    log.emit = lambda event: log.stop.set()
    try:
        bench.fit(log)
    except Interrupted:
        resumed = bench.own(bench.fit(Log(folder)))
        demand(_same(resumed, first), "a fit that was stopped after its first step continues to other weights")
        return
    raise Skipped("fit cannot be stopped; a long one should call coinbench.train, or log.check() between steps")


def _stored(bench: MethodBench) -> None:
    coin, path = bench.fitted, bench.folder / "weights.safetensors"
    weights.save(coin, path, bench.problem.networks)
    again = bench.build(Rng(77)).eval()
    weights.load(again, path, bench.problem.networks)
    words = "differs after saving and loading: keep what fit learns in parameters and buffers"
    _agree(bench, again, bench.problem, words)


def _shapes(bench: MethodBench) -> None:
    concepts = bench.concepts
    same = concepts.phi.dtype == concepts.pooled.dtype == torch.float32
    demand(same, f"phi is {concepts.phi.dtype}, pooled {concepts.pooled.dtype}; expected torch.float32")


def _predicts(bench: MethodBench) -> None:
    demand(bench.logits.dtype == torch.float32, f"logits are {bench.logits.dtype}; expected torch.float32")


def _decodes(bench: MethodBench) -> None:
    demand(bench.decoded.dtype == torch.float32, f"images are {bench.decoded.dtype}; expected torch.float32")


def _pooling(bench: MethodBench) -> None:
    silent = (bench.concepts.phi == 0).all(2)
    wrong = (bench.concepts.pooled != 0) & silent
    demand(not wrong.any(), f"pooled is not 0 for {int(wrong.sum())} concepts whose phi is: it is no pooling of phi")


def _batches(bench: MethodBench) -> None:
    coin, together = bench.fitted, bench.concepts
    logits, decoded = bench.logits, bench.decoded
    for rows in (slice(0, 1), slice(2, 3), slice(3, 7)):
        how = f"for images {rows.start} to {rows.stop - 1} alone and in a batch of {_IMAGES}"
        part = coin.encode(bench.images[rows])
        alike(part.phi, together.phi[rows], f"phi is not the same {how}", atol=1e-5)
        alike(part.pooled, together.pooled[rows], f"pooled is not the same {how}", atol=1e-5)
        alike(coin.predict(part), logits[rows], f"the logits are not the same {how}")
        alike(coin.decode(part), decoded[rows], f"the decoded image is not the same {how}")


def _repeatable(bench: MethodBench) -> None:
    coin, concepts, logits, decoded = bench.fitted, bench.concepts, bench.logits, bench.decoded
    # Another image in between, and other random numbers: neither may show.
    torch.manual_seed(99)
    other = coin.encode(bench.images.flip(0).neg())
    coin.predict(other)
    coin.decode(other)
    alike(coin.encode(bench.images).phi, concepts.phi, "encode gives another phi for the same images", 0.0, 0.0)
    alike(coin.predict(concepts), logits, "predict gives other logits for the same concepts", 0.0, 0.0)
    alike(coin.decode(concepts), decoded, "decode gives another image for the same concepts", 0.0, 0.0)
    alike(coin(bench.images), logits, "the network called on images does not give predict(encode(images))", 0.0, 0.0)


def _inputs(bench: MethodBench) -> None:
    coin, images = bench.fitted, bench.images.clone()
    concepts = coin.encode(images)
    demand(torch.equal(images, bench.images), "encode changes the images it is given")
    parts = {"phi": concepts.phi, "pooled": concepts.pooled, "support": concepts.support}
    before = {name: value.clone() for name, value in parts.items() if value is not None}
    for method in (coin.predict, coin.decode):
        method(concepts)
        for name, value in before.items():
            changed = not torch.equal(parts[name], value)
            demand(not changed, f"{method.__name__} changes the {name} it is given")


def _edits(bench: MethodBench) -> None:
    coin, concepts = bench.fitted, bench.concepts
    mask = torch.arange(coin.n_concepts)[None] % 2 == 0
    edits = {
        "scaling by 1": concepts.scale(1.0),
        "swapping with itself": concepts.swap(mask, concepts),
        "removing concepts that are 0": concepts.scale((concepts.pooled > 0).float()),
    }
    for name, edited in edits.items():
        alike(coin.predict(edited), bench.logits, f"{name} changes the prediction", 1e-6, 1e-6)
        alike(coin.decode(edited), bench.decoded, f"{name} changes the image", 1e-6, 1e-6)
    doubled = concepts.scale(2.0)
    contract.predict(coin, doubled, bench.problem.n_classes)
    contract.decode(coin, doubled, bench.images)
    donor = concepts.swap(mask, concepts.constant(3.0))
    contract.predict(coin, donor, bench.problem.n_classes)
    contract.decode(coin, donor, bench.images)


def _matter(bench: MethodBench) -> None:
    coin, gone = bench.fitted, bench.concepts.scale(0.0)
    if not bench.concepts.pooled.any():
        raise Skipped("after three steps of training every concept is 0 on every image")
    demand(not torch.allclose(coin.predict(gone), bench.logits), "the prediction is the same without any concept")
    demand(not torch.allclose(coin.decode(gone), bench.decoded), "the decoded image is the same without any concept")


def _relevance(bench: MethodBench) -> None:
    coin, target = bench.fitted, bench.logits.argmax(1)
    try:
        alpha = relevance(coin, bench.concepts, target)
    except RuntimeError as error:
        raise Broken(f"predict has no gradient in the concepts ({error}); keep it differentiable") from error
    contract.check_tensor(alpha, tuple(bench.concepts.pooled.shape), "d logit / d λ", "relevance [B, K]")
    gone = relevance(coin, bench.concepts.scale(0.0), target)
    demand(
        bool((gone == 0).all()), "concepts that were removed are still relevant: predict reads more than it is given"
    )


def _on(size: int, channels: int, classes: int) -> Callable[[MethodBench], None]:
    def law(bench: MethodBench) -> None:
        # Asked for first, so that what fails everywhere is told once.
        _predicts(bench)
        _decodes(bench)
        problem = make_problem(size, channels, classes=classes)
        images = problem.test.take(np.arange(4)).images
        coin = bench.fit(Log(bench.folder / f"{size}-{channels}-{classes}"), problem)
        concepts = contract.encode(coin, images)
        contract.predict(coin, concepts, classes)
        contract.decode(coin, concepts, images)

    return law


def _cuda(bench: MethodBench) -> None:
    coin = bench.fitted
    if not torch.cuda.is_available():
        raise Skipped("no CUDA device here")
    problem, path = moved(bench.problem, torch.device("cuda")), bench.folder / "cuda.safetensors"
    weights.save(coin, path, bench.problem.networks)
    there = bench.build(problem=problem).eval()
    weights.load(there, path, problem.networks)
    _agree(bench, there, problem, "differs between CUDA and the CPU", 1e-2, 1e-2)
    bench.fit(Log(bench.folder / "cuda"), problem)


def _agree(
    bench: MethodBench, coin: nn.Module, problem: Problem, words: str, rtol: float = 1e-4, atol: float = 1e-4
) -> None:
    """Break the law unless another copy of the trained network gives the same for the same."""
    assert isinstance(coin, CoIN)
    concepts, images = bench.concepts, bench.images.to(problem.device)
    alike(coin.encode(images).phi, concepts.phi, f"phi {words}", rtol, atol)
    concepts = concepts.to(problem.device)
    alike(coin.predict(concepts), bench.logits, f"the prediction {words}", rtol, atol)
    alike(coin.decode(concepts), bench.decoded, f"the decoded image {words}", rtol, atol)


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


LAWS = (
    Law("settings have a name and defaults, and are the same again from JSON", _settings),
    Law("title, source and notes are given", _words),
    Law("build makes a CoIN with a classifier and K concepts, on the device of the problem", _build),
    Law("build draws its weights from the rng it is given", _drawn),
    Law("fit trains in a few steps and leaves f, G and p as they were", _fit),
    Law("fit gives the same weights for the same seed", _repeats),
    Law("a fit that is stopped continues to the same weights", _resumes),
    Law("encode gives phi [B, K, b] >= 0, pooled [B, K] >= 0, support [B, s] or None", _shapes),
    Law("pooled is 0 where phi is", _pooling),
    Law("predict gives logits [B, Y]", _predicts),
    Law("decode gives images in [-1, 1] of the shape of the input", _decodes),
    Law("an image is seen alike in every batch", _batches),
    Law("encode, predict and decode are deterministic and remember nothing", _repeatable),
    Law("encode, predict and decode leave their inputs alone", _inputs),
    Law("edits that change nothing change nothing, others keep ranges", _edits),
    Law("removing all concepts changes prediction and image", _matter),
    Law("relevance is a gradient, and 0 for removed concepts", _relevance),
    Law("weights saved and loaded give the same network", _stored),
    Law("grey images of 16 px, 2 classes", _on(16, 1, 2)),
    Law("RGB images of 32 px, 10 classes", _on(32, 3, 10)),
    Law("CUDA agrees with the CPU", _cuda),
)
