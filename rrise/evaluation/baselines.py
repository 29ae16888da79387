"""Monte Carlo certifiers as functions of class counts: the noise is drawn elsewhere, here is only the statistics.

The class is picked on one set of draws and its probability is bounded on another. Picking and bounding on the same
draws would double the failure probability, so :func:`check_streams` refuses counts that came from the same noise.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betainc

from rrise import _C
from rrise.calibration.bounds import clopper_pearson, largest_p, smallest_draws
from rrise.runtime.certificates import ABSTAIN, Certificates

_MUST_AGREE = ("sigma", "sampler", "num_classes", "classifier_sha256")


class NoiseOrigin(Protocol):
    """What the manifest of a counts store says about its draws, as far as two stores must match or differ."""

    @property
    def sigma(self) -> float: ...  # noqa: D102
    @property
    def sampler(self) -> str: ...  # noqa: D102
    @property
    def num_classes(self) -> int: ...  # noqa: D102
    @property
    def classifier_sha256(self) -> str: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def stream(self) -> int: ...  # noqa: D102


def check_streams(
    selection: NoiseOrigin,
    estimation: NoiseOrigin,
    reference: NoiseOrigin | None = None,
    extra: NoiseOrigin | None = None,
) -> None:
    """Return only if the counts are of one smoothed classifier and no two of them of the same noise.

    Parameters
    ----------
    selection, estimation, reference, extra : NoiseOrigin
        Manifests of the counts that pick the class, that bound its probability, that check the bound, and that are
        added to a surrogate's answer.

    Raises
    ------
    ValueError
        If two share seed and stream, or differ in sigma, sampler, classes or classifier.
    """
    origins = {"selection": selection, "estimation": estimation}
    if reference is not None:
        origins["reference"] = reference
    if extra is not None:
        origins["extra"] = extra
    seen: dict[tuple[int, int], str] = {}
    for name, origin in origins.items():
        for field in _MUST_AGREE:
            wanted, found = getattr(selection, field), getattr(origin, field)
            if wanted != found:
                raise ValueError(
                    f"{name} counts: expected {field}={wanted} as in the selection counts, got {found}. "
                    "Sample both from the same smoothed classifier."
                )
        noise = (origin.seed, origin.stream)
        if noise in seen:
            raise ValueError(
                f"{name} counts: expected noise of their own, got seed={noise[0]} stream={noise[1]} as in the "
                f"{seen[noise]} counts. Sample them from another stream."
            )
        seen[noise] = name


def cohen_select(selection: ArrayLike) -> NDArray[np.int64]:
    """Return the class with the most selection draws, the first one on ties: the guess that B1 then certifies.

    Parameters
    ----------
    selection : int[B, K]
        Class counts of the selection draws.

    Returns
    -------
    int64[B]
    """
    guess: NDArray[np.int64] = np.argmax(checked_counts("selection", selection), axis=1).astype(np.int64)
    return guess


def cohen_certify(selection: ArrayLike, estimation: ArrayLike, *, alpha: float, sigma: float) -> Certificates:
    """Return certificates that each hold with probability at least ``1 - alpha`` over the noise (B1, fixed budget).

    The selection counts pick the class and are thrown away; the estimation counts bound its probability from below
    by Clopper-Pearson. An input whose bound is not above one half abstains, with ``p_lower`` still reported.

    Parameters
    ----------
    selection, estimation : int[B, K]
        Class counts of the same inputs from different noise streams (see :func:`check_streams`).
    alpha : float
        Failure probability of one certificate, in (0, 1).
    sigma : float
        Noise level, in units of [0, 1] pixels; radii are ℓ2 in the same units.

    Returns
    -------
    Certificates
        ``q`` is the plain share of the class among the estimation draws; ``evaluations`` counts both sets of draws.

    Raises
    ------
    ValueError
        If the shapes differ, ``alpha`` or ``sigma`` is out of range, or so few draws were made that even a unanimous
        vote could not certify any radius.

    References
    ----------
    Cohen, Rosenfeld, Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019, CERTIFY.
    """
    checked_alpha(alpha)
    checked_sigma(sigma)
    picked, estimated = checked_counts("selection", selection), checked_counts("estimation", estimation)
    if picked.shape != estimated.shape:
        raise ValueError(
            f"estimation counts: expected shape {picked.shape} as the selection counts, got {estimated.shape}. "
            "Give both for the same inputs and classes."
        )
    n = estimated.sum(axis=1)
    if n.size:
        _check_draws(int(n.min()), alpha)
    guess = np.argmax(picked, axis=1).astype(np.int64)
    k = np.take_along_axis(estimated, guess[:, None], axis=1)[:, 0]
    p_lower = np.asarray(clopper_pearson(k, n, alpha), dtype=np.float64).reshape(n.shape)
    return bounded(guess, p_lower, k / n, picked.sum(axis=1) + n, sigma)


def cohen_predict(counts: ArrayLike, *, alpha: float) -> NDArray[np.int64]:
    """Return the smoothed classifier's class, wrong with probability at most ``alpha``, or -1 where it is too close.

    An input abstains unless the two-sided binomial test of its two largest counts has a p-value of at most ``alpha``.

    Parameters
    ----------
    counts : int[B, K]
        Class counts of noisy draws.
    alpha : float
        Probability of a wrong answer, in (0, 1).

    Returns
    -------
    int64[B]

    References
    ----------
    Cohen, Rosenfeld, Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019, PREDICT.
    """
    checked_alpha(alpha)
    checked = checked_counts("prediction", counts)
    top_two = np.partition(checked, -2, axis=1)[:, -2:]
    second, first = top_two[:, 0], top_two[:, 1]
    # P[X >= first] for X ~ Binomial(first + second, 1/2); the law is symmetric, so both tails are twice one tail.
    tail = betainc(first, second + 1.0, 0.5)
    p_value = np.where(first == second, 1.0, 2.0 * tail)
    return np.where(p_value <= alpha, np.argmax(checked, axis=1), ABSTAIN).astype(np.int64)


def bounded(
    guess: NDArray[np.int64],
    p_lower: NDArray[np.float64],
    q: NDArray[np.float64],
    evaluations: NDArray[np.int64],
    sigma: float,
) -> Certificates:
    """Return the certificates that lower bounds of the guessed classes' probabilities give; all arrays [B]."""
    radius = _C.radius(np.ascontiguousarray(p_lower), sigma)
    label = np.where(radius > 0, guess, ABSTAIN).astype(np.int64)
    return Certificates(label=label, radius=radius, p_lower=p_lower, q=q, evaluations=evaluations)


def checked_counts(name: str, counts: ArrayLike, least: int = 1) -> NDArray[np.int64]:
    """Return class counts as int64[B, K], or raise TypeError or ValueError, naming them, if they are none.

    Each row has at least ``least`` draws.
    """
    array = np.asarray(counts)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} counts: expected integers, got {array.dtype}. Give class counts, not shares.")
    if array.ndim != 2 or array.shape[1] < 2:
        raise ValueError(f"{name} counts: expected shape (inputs, classes >= 2), got {array.shape}. Give class counts.")
    if array.size and array.min() < 0:
        raise ValueError(f"{name} counts: expected counts >= 0, got {array.min()}. Sample them again.")
    if array.shape[0] and array.sum(axis=1).min() < least:
        raise ValueError(f"{name} counts: expected at least one draw an input, got 0. Sample the missing inputs.")
    return array.astype(np.int64)


def checked_alpha(alpha: float) -> None:
    """Raise ValueError unless alpha is a failure probability."""
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: expected a failure probability in (0, 1), got {alpha}. Try 0.001.")


def checked_sigma(sigma: float) -> None:
    """Raise ValueError unless sigma is a noise level."""
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"sigma: expected a positive noise level, got {sigma}. Use the sigma of the counts.")


def _check_draws(n: int, alpha: float) -> None:
    if not largest_p(n, alpha) > 0.5:
        raise ValueError(
            f"estimation counts: expected at least {smallest_draws(alpha)} draws at alpha={alpha}, got {n}, with which "
            "the largest reachable radius is 0. Take more draws or a larger alpha."
        )
