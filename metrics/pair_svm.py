"""The linear SVM of consistency on pairs of embeddings: folds, choice of C, score and controls (docs/metrics.md 3).

One Gram matrix serves all folds and costs: the same scores as a grid search on the embeddings, in a part of its time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

from coinbench.rng import Rng

_FOLDS = 5


def folds(pairs: int, kind: str, rng: Rng) -> Int[np.ndarray, "m"]:
    """Return the fold of each training image, x⁺ of all pairs first, then x⁻.

    Args:
        pairs: number of pairs.
        kind: "pairs" keeps a pair in one fold; "paper" draws plain stratified folds.
        rng: source of the permutation.

    >>> fold = folds(10, "pairs", Rng(0))
    >>> bool((fold[:10] == fold[10:]).all()), np.bincount(fold).tolist()
    (True, [4, 4, 4, 4, 4])
    """
    if kind == "pairs":
        return np.tile(rng.numpy().permutation(pairs) % _FOLDS, 2)
    fold = np.empty(2 * pairs, dtype=np.int64)
    # Shuffled: in order, plain folds would keep the pairs together by accident of the layout.
    splitter = StratifiedKFold(_FOLDS, shuffle=True, random_state=rng.key % 2**32)
    for number, (_, held) in enumerate(splitter.split(fold, true_labels(pairs))):
        fold[held] = number
    return fold


def true_labels(pairs: int) -> Int[np.ndarray, "m"]:
    """Return 1 for x⁺ of all pairs, then 0 for x⁻."""
    return np.repeat([1, 0], pairs)


def permuted_labels(pairs: int, rng: Rng) -> Int[np.ndarray, "m"]:
    """Return the training labels in random order.

    Two tight clusters turn a small accidental correlation with the truth into a score near 0 or 1, so one draw says
    little: the control is the mean over many.

    >>> int(permuted_labels(4, Rng(0)).sum())
    4
    """
    return rng.numpy().permutation(true_labels(pairs))


def choose_cost(
    gram: Float[np.ndarray, "m m"],
    labels: Int[np.ndarray, "m"],
    fold: Int[np.ndarray, "m"],
    costs: Sequence[float],
) -> float:
    """Return the first C with the best mean accuracy over the folds.

    >>> x = np.array([[3.0], [4.0], [1.0], [0.0]])
    >>> choose_cost(x @ x.T, true_labels(2), np.array([0, 1, 0, 1]), (1.0, 5.0))
    1.0
    """
    best, chosen = -1.0, costs[0]
    for cost in costs:
        scores = []
        for number in np.unique(fold):
            held, rest = fold == number, fold != number
            svm = SVC(kernel="precomputed", C=cost).fit(gram[np.ix_(rest, rest)], labels[rest])
            scores.append((svm.predict(gram[np.ix_(held, rest)]) == labels[held]).mean())
        if np.mean(scores) > best:
            best, chosen = float(np.mean(scores)), cost
        if best == 1.0:
            break
    return chosen


def probe(
    train: Float[np.ndarray, "m m"],
    test: Float[np.ndarray, "q m"],
    labels: Int[np.ndarray, "m"],
    cost: float,
) -> float:
    """Return the accuracy on the test pairs of a linear SVM with C = `cost`.

    Args:
        train: Gram matrix of the training embeddings.
        test: inner products of test embeddings, x⁺ first, then x⁻, with the training embeddings.
        labels: of the training images.
        cost: C.

    >>> x, y = np.array([[3.0], [4.0], [1.0], [0.0]]), np.array([[5.0], [2.1], [2.2], [0.0]])
    >>> probe(x @ x.T, y @ x.T, true_labels(2), 1.0)  # the threshold is 2, between 1 and 3
    0.75
    """
    svm = SVC(kernel="precomputed", C=cost).fit(train, labels)
    return float((svm.predict(test) == true_labels(len(test) // 2)).mean())


def relative_shift(plus: Float[np.ndarray, "n d"], minus: Float[np.ndarray, "n d"]) -> float:
    """Return ‖mean x⁺ − mean x⁻‖ / ‖mean of both‖.

    >>> relative_shift(np.array([[3.0, 0.0], [5.0, 0.0]]), np.array([[2.0, 0.0], [2.0, 0.0]]))
    0.6666666666666666
    """
    difference = np.linalg.norm(plus.mean(0) - minus.mean(0))
    size = np.linalg.norm((plus.mean(0) + minus.mean(0)) / 2)
    return float(difference / size) if size > 0 else 0.0
