"""PCA as a concept-based network: principal components of f's embedding are the concepts, no training loop needed."""

import torch

from coinbench import CoIN, Concepts, MethodConfig, MethodSpec, TrainConfig, seeded


class PCAConfig(MethodConfig):
    name: str = "pca"
    train: TrainConfig = TrainConfig(steps=1)
    K: int = 16


class PCA(CoIN):
    mean: torch.Tensor
    axes: torch.Tensor

    def __init__(self, config, problem):
        super().__init__()
        self.classifier, self.n_concepts = problem.classifier, config.K
        width = problem.classifier(next(problem.train.batches(1)).images).embedding.shape[1]
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("axes", torch.zeros(width, config.K))
        self.theta = torch.nn.Linear(config.K, problem.n_classes)
        self.pixels = torch.nn.Linear(config.K, problem.channels * problem.size**2)
        self.shape = (problem.channels, problem.size, problem.size)

    def encode(self, images):
        phi = ((self.classifier(images).embedding - self.mean) @ self.axes).relu()
        return Concepts(phi.unsqueeze(2), phi)

    def predict(self, concepts):
        return self.theta(concepts.pooled)

    def decode(self, concepts):
        return self.pixels(concepts.pooled).unflatten(1, self.shape).clamp(-1, 1)


def build(config, problem, rng):
    with seeded(rng.child("init")):
        return PCA(config, problem).to(problem.device)


@torch.no_grad()
def fit(config, problem, rng, log):
    coin = build(config, problem, rng)
    batches = list(problem.train.batches(256))
    features = [problem.classifier(batch.images) for batch in batches]
    embedding = torch.cat([f.embedding for f in features])
    coin.mean.copy_(embedding.mean(0))
    axes = torch.linalg.svd(embedding - coin.mean, full_matrices=False).Vh.T
    # Both ends of an axis are a concept: φ is never negative. Axes beyond the rank of the data stay 0.
    both = torch.stack([axes, -axes], 2).flatten(1)[:, : config.K]
    coin.axes[:, : both.shape[1]] = both
    phi = ((embedding - coin.mean) @ coin.axes).relu()
    design = torch.cat([phi, torch.ones_like(phi[:, :1])], 1).double()
    gram = design.T @ design + 1e-3 * torch.eye(config.K + 1, device=phi.device)
    for layer, target in (
        (coin.theta, torch.cat([f.logits for f in features])),
        (coin.pixels, torch.cat([batch.images for batch in batches]).flatten(1)),
    ):
        solution = torch.cholesky_solve(design.T @ target.double(), torch.linalg.cholesky(gram))
        layer.weight.copy_(solution[:-1].T)
        layer.bias.copy_(solution[-1])
    return coin


METHOD = MethodSpec(
    config=PCAConfig, build=build, fit=fit, title="PCA", source="Pearson 1901", notes="ours: ridge regressions on f"
)
COINBENCH = {"methods": {"pca": METHOD}}
