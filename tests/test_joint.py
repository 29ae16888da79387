"""Several sigma with one guarantee: repeated calibrations on exact truth, what breaks it, and the choice among them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from reference_population import FALSE_ALARM
from scipy.stats import binom, norm

from rrise import _C
from rrise.calibration.bounds import clopper_pearson, largest_p
from rrise.calibration.conformal import calibrate
from rrise.calibration.curves import offset_family, scaled_family
from rrise.calibration.guarantees import conformal_rank
from rrise.calibration.joint import JointCalibration, calibrate_jointly, joint_scores
from rrise.calibration.scored import Scored
from rrise.promise import promise
from rrise.runtime.certificates import ABSTAIN, Certificates
from rrise.runtime.multi_sigma import choose

SIGMAS = (0.25, 0.5, 1.0)
DRAWS = 10**6  # bounds of single inputs nearly exact, so that nothing but the rank stands between curve and guarantee
BETA, ETA = 0.001, 0.1


class Pool:
    """Inputs of a linear classifier: exact probabilities at each sigma, and a surrogate that errs at each by itself."""

    def __init__(self, seed: int, size: int = 4_000, *, alike: bool = False) -> None:
        rng = np.random.default_rng(seed)
        margin = np.abs(rng.normal(0, 0.6, size))
        off = rng.normal(0, 0.25, (1 if alike else len(SIGMAS), size))
        self.p = np.stack([norm.cdf(margin / sigma) for sigma in SIGMAS])
        self.q = norm.cdf(np.abs(margin + off) * 1.3 / np.array(SIGMAS)[:, None])

    def points(self, rows: np.ndarray, rng: np.random.Generator, draws: int = DRAWS) -> list[Scored]:
        n = np.full(rows.size, draws)
        return [Scored(q[rows], rng.binomial(draws, p[rows]), n) for p, q in zip(self.p, self.q, strict=True)]

    def profile(self, draws: int = DRAWS) -> list[Scored]:
        rng = np.random.default_rng(99)
        return self.points(rng.integers(self.p.shape[1], size=800), rng, draws)

    def misses(self, curves) -> float:
        """The share of the pool with a bound above its probability at one sigma or more; exact."""
        wrong = [np.interp(q, *knots) > p for p, q, knots in zip(self.p, self.q, curves, strict=True)]
        return float(np.mean(np.any(wrong, axis=0)))


def repeated(
    pool: Pool, guarantee: str, gamma: float, *, M: int, repetitions: int, shift: int = 0, alone: bool = False
):
    """The share of the pool with a wrong bound, exact, for each of many calibrations.

    ``shift`` moves the rank; ``alone`` calibrates each curve as if it were the only one. Both are mistakes.
    """
    rng = np.random.default_rng(5)
    cap, rank = largest_p(DRAWS, BETA), conformal_rank(guarantee, M, gamma, ETA) + shift
    families = [scaled_family(p.q, clopper_pearson(p.k, p.n, BETA)) for p in pool.profile()]
    points = pool.points(rng.integers(pool.p.shape[1], size=repetitions * M), rng)
    parts = [[s] for s in range(len(SIGMAS))] if alone else [list(range(len(SIGMAS)))]
    missed = np.zeros((repetitions, pool.p.shape[1]), dtype=bool)
    for part in parts:
        own = [families[s] for s in part]
        scores = joint_scores(own, [points[s] for s in part], BETA, cap).reshape(repetitions, M)
        stars = np.max([families[s].scores(pool.q[s], pool.p[s], cap) for s in part], axis=0)  # right from there on
        missed |= stars > np.sort(scores, axis=1)[:, [rank - 1]]
    return missed.mean(axis=1)


def check_marginal(misses: np.ndarray, error: float) -> None:
    """A new input for each calibration, within binomial slack."""
    wrong = np.random.default_rng(12345).random(misses.size) < misses
    assert wrong.sum() <= binom.isf(FALSE_ALARM, misses.size, error)


def check_training_conditional(misses: np.ndarray, error: float) -> None:
    assert np.sum(misses > error) <= binom.isf(FALSE_ALARM, misses.size, ETA)


TIGHT_MARGINAL = {"guarantee": "marginal", "gamma": 0.05, "M": 19, "repetitions": 3_000}
TIGHT_CONDITIONAL = {"guarantee": "training-conditional", "gamma": 0.1, "M": 22, "repetitions": 1_500}
"""The sizes at which one rank less matters most."""


def test_bounds_at_all_sigma_hold_together() -> None:
    misses = repeated(Pool(1), **TIGHT_MARGINAL)
    check_marginal(misses, float(promise(BETA, 0.05)))
    assert misses.mean() > 0.04  # tight indeed
    misses = repeated(Pool(1), **TIGHT_CONDITIONAL)
    check_training_conditional(misses, float(promise(BETA, 0.1)))
    assert np.mean(misses > 0.1) > 0.06


@pytest.mark.slow
@pytest.mark.parametrize("mistake", [{"shift": -1}, {"alone": True}], ids=["a rank too low", "each for itself"])
def test_what_breaks_that_is_detected(mistake: dict) -> None:
    marginal, conditional = (repeated(Pool(1), **tight, **mistake) for tight in (TIGHT_MARGINAL, TIGHT_CONDITIONAL))
    with pytest.raises(AssertionError):
        check_marginal(marginal, float(promise(BETA, 0.05)))
    with pytest.raises(AssertionError):
        check_training_conditional(conditional, float(promise(BETA, 0.1)))


def hard_somewhere(share: float, beta: float, gamma: float) -> tuple[np.ndarray, float]:
    """What curves miss of a pool with a share of hard inputs, a third of them at each sigma; exact, and the promise."""
    size, M, n = 20_000, 2_000, 10**5
    at = np.where(np.arange(size) < share * size, np.arange(size) % len(SIGMAS), -1)
    q = np.stack([np.where(at == s, 0.95, 0.6) for s in range(len(SIGMAS))])
    p = np.stack([np.where(at == s, 0.9, 0.999) for s in range(len(SIGMAS))])
    rng, cap, missed = np.random.default_rng(3), largest_p(n, beta), []
    stars = np.max([offset_family().scores(a, b, cap) for a, b in zip(q, p, strict=True)], axis=0)
    settings = {"beta": beta, "gamma": gamma, "curve": "offset", "guarantee": "training-conditional", "eta": ETA}
    for _ in range(25):
        rows = rng.integers(size, size=M)
        points = [Scored(a[rows], rng.binomial(n, b[rows]), np.full(M, n)) for a, b in zip(q, p, strict=True)]
        found = calibrate_jointly(SIGMAS, points, [], **settings)
        missed.append(float(np.mean(stars > found.t)))
    return np.array(missed), found.error


@pytest.mark.parametrize(
    "beta", [pytest.param(0.3, marks=pytest.mark.slow), 0.5, pytest.param(0.8, marks=pytest.mark.slow)]
)
def test_no_level_pays_for_the_others_with_its_beta(beta: float) -> None:
    """Hard inputs are all missed or none: few more than the promise allows must mostly not be, few less mostly are."""
    gamma = round(0.1 * (1 - beta), 12)
    many, error = hard_somewhere(0.103, beta, gamma)
    assert error == 0.1
    check_training_conditional(many, error)
    few, _ = hard_somewhere(0.07, beta, gamma)
    with pytest.raises(AssertionError):
        check_training_conditional(few, gamma)  # gamma alone is too small a promise


def calibrated(points: list[Scored], profile: list[Scored], **changes) -> JointCalibration:
    settings = {"beta": 0.01, "gamma": 0.09, "curve": "scaled", "guarantee": "training-conditional", "eta": 0.05}
    return calibrate_jointly(SIGMAS, points, profile, **(settings | changes))


def test_levels_that_are_one_and_the_same_give_its_own_curve() -> None:
    """Nothing pays for the number of levels: neither beta nor gamma is divided among them."""
    pool, rng = Pool(3), np.random.default_rng(1)
    (own, *_), (profile, *_) = pool.points(rng.integers(4_000, size=400), rng, 1000), pool.profile(1000)
    found = calibrated([own] * 3, [profile] * 3, beta=0.03, gamma=0.1)
    shape = (profile.q, profile.k, profile.n)
    settings = {"gamma": 0.1, "curve": "scaled", "eta": 0.05}
    single = calibrate(own.q, own.k, own.n, beta=0.03, profile=shape, **settings)
    assert (found.rank, found.t, found.certified) == (single.rank, single.t, single.certified)
    for knots_q, knots_p in found.curves:
        np.testing.assert_array_equal(knots_q, single.knots_q)
        np.testing.assert_array_equal(knots_p, single.knots_p)


def test_one_rank_for_all_certifies_more_than_a_split_of_gamma_where_errors_go_together() -> None:
    pool, rng = Pool(4, alike=True), np.random.default_rng(2)
    profiles, points = pool.profile(1000), pool.points(rng.integers(4_000, size=600), rng, 1000)
    one = calibrated(points, profiles, gamma=0.09).curves
    split = []
    for own, profile in zip(points, profiles, strict=True):
        settings = {"beta": 0.01, "gamma": 0.03, "curve": "scaled", "eta": 0.05 / 3}
        found = calibrate(own.q, own.k, own.n, profile=(profile.q, profile.k, profile.n), **settings)
        split.append((found.knots_q, found.knots_p))
    ours, theirs = (largest_radii(pool, curves).mean() for curves in (one, split))
    assert ours > 1.03 * theirs > 0
    assert pool.misses(one) < 0.1


def largest_radii(pool: Pool, curves) -> np.ndarray:
    heights = [np.interp(q, *knots) for q, knots in zip(pool.q, curves, strict=True)]
    return np.max([s * norm.ppf(np.maximum(h, 0.5)) for s, h in zip(SIGMAS, heights, strict=True)], axis=0)


def test_an_engine_that_abstains_at_one_sigma_makes_no_claim_there() -> None:
    pool, rng = Pool(5), np.random.default_rng(3)
    points = pool.points(rng.integers(4_000, size=400), rng, 1000)
    q = points[0].q.copy()
    q[:200] = np.nan
    profile = pool.profile(1000)
    found = calibrated([replace(points[0], q=q), *points[1:]], profile)
    assert found.t <= calibrated(points, profile).t
    silent = [replace(level, q=np.full(400, np.nan)) for level in points]
    assert calibrated(silent, profile).certified == 0


def test_the_statement_says_the_numbers() -> None:
    pool, rng = Pool(6), np.random.default_rng(4)
    found = calibrated(pool.points(rng.integers(4_000, size=400), rng, 1000), pool.profile(1000))
    said = found.statement()
    assert "\n" not in said
    for part in (
        "With confidence 0.95 over the draw of the 400 calibration inputs, at most 9.091% of new inputs",
        "at one or more of sigma = 0.25, 0.5, 1 the noise-smoothed classifier g of that sigma",
        "beta = 0.01 (of each of the 3 bounds of an input), gamma = 0.09, eta = 0.05 and the promise "
        "gamma / (1 - beta), from n = 1000 noisy draws",
        f"scaled curves at rank {found.rank} of 400, t = {found.t:.6g}",
    ):
        assert part in said
    marginal = calibrated(pool.points(np.arange(400), rng, 1000), pool.profile(1000), guarantee="marginal").statement()
    assert "On average over calibration sets" in marginal
    assert ", eta = " not in marginal


def test_known_class_frequencies_weigh_the_inputs() -> None:
    pool, rng = Pool(7), np.random.default_rng(5)
    points, labels = pool.points(rng.integers(4_000, size=600), rng, 1000), np.arange(600) % 2
    found = calibrated(points, pool.profile(1000), guarantee="marginal", labels=labels, priors=(0.7, 0.3))
    assert found.priors == (0.7, 0.3)
    assert 0 < found.effective < 600
    assert found.facts()["priors"] == [0.7, 0.3]
    with pytest.raises(ValueError, match="labels: expected the true class"):
        calibrated(points, pool.profile(1000), guarantee="marginal", priors=(0.7, 0.3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"curve": "binned"}, "curve: expected one of offset, scaled, got 'binned'"),
        ({"guarantee": "certified"}, "guarantee: expected one of marginal, training-conditional, got 'certified'"),
        ({"beta": 0.5, "gamma": 0.5}, r"gamma / \(1 - beta\): expected less than 1"),
        ({"beta": 1e-40}, "n: expected at least 133 draws at beta 1e-40 to certify anything, got 100"),
        ({"gamma": 0.001}, "calibration: expected at least"),
    ],
)
def test_what_does_not_carry_over_is_refused(changes: dict, message: str) -> None:
    pool, rng = Pool(8), np.random.default_rng(6)
    points = pool.points(rng.integers(4_000, size=100), rng, 100)
    with pytest.raises(ValueError, match=message):
        calibrated(points, pool.profile(100), **changes)


def test_inputs_must_be_the_same_at_every_sigma() -> None:
    pool, rng = Pool(8), np.random.default_rng(6)
    points, profile = pool.points(rng.integers(4_000, size=100), rng, 100), pool.profile(100)
    shorter = Scored(*(array[:90] for array in (points[2].q, points[2].k, points[2].n)))
    with pytest.raises(ValueError, match=r"points: expected the same inputs .*, got \[90, 100\] inputs and \[100\]"):
        calibrated([*points[:2], shorter], profile)
    with pytest.raises(ValueError, match=r"got \[100\] inputs and \[100, 200\] draws"):
        calibrated([*points[:2], replace(points[2], n=2 * points[2].n)], profile)
    with pytest.raises(ValueError, match="profile: expected counts at each of 3 sigma for the scaled curve, got 1"):
        calibrated(points, profile[:1])
    for sigmas in ((0.5, 0.25, 1.0), (0.5,), (0.25, 0.25, 0.5), (0.25, 0.5, np.inf), (0.0, 0.5, 1.0)):
        with pytest.raises(ValueError, match="sigmas: expected two or more rising noise levels"):
            calibrate_jointly(
                sigmas, points[: len(sigmas)], profile, beta=0.01, gamma=0.1, curve="offset", guarantee="marginal"
            )


# --- The choice ------------------------------------------------------------------------------------------------------


def row(label: int, radius: float, p_lower: float, q: float) -> tuple[int, float, float, float]:
    return label, radius, p_lower, q


def level(*rows: tuple[int, float, float, float]) -> Certificates:
    label, radius, p_lower, q = zip(*rows, strict=True)
    floats = (np.array(values, float) for values in (radius, p_lower, q))
    return Certificates(np.array(label, np.int64), *floats, np.zeros(len(rows), np.int64))


def test_the_largest_radius_is_chosen_unless_certified_labels_differ() -> None:
    none = row(ABSTAIN, 0.0, 0.3, 0.4)
    low = level(
        row(1, 0.2, 0.79, 0.8), row(1, 0.2, 0.79, 0.8), none, none, row(2, 0.1, 0.66, 0.7), row(0, 0.0, 0.51, 1)
    )
    high = level(row(1, 0.3, 0.73, 0.8), none, row(0, 0.1, 0.58, 0.6), none, row(1, 0.4, 0.79, 0.9), none)
    chosen = choose((low, high), (0.25, 0.5))
    certificates = chosen.certificates
    assert certificates.label.tolist() == [1, 1, 0, ABSTAIN, ABSTAIN, 0]
    assert certificates.radius.tolist() == [0.3, 0.2, 0.1, 0.0, 0.0, 0.0]
    np.testing.assert_array_equal(chosen.sigma, [0.5, 0.25, 0.5, np.nan, np.nan, 0.25])
    assert certificates.p_lower.tolist() == [0.73, 0.79, 0.58, 0.3, 0.79, 0.51]
    Certificates(*(getattr(certificates, name) for name in ("label", "radius", "p_lower", "q", "evaluations")))
    assert chosen.to_rows()[3]["sigma"] is None
    assert chosen.to_rows()[0] == {"label": 1, "radius": 0.3, "p_lower": 0.73, "q": 0.8, "evaluations": 0, "sigma": 0.5}
    assert len(chosen) == 6


def test_chosen_certificates_are_right_as_often_as_promised() -> None:
    pool, rng = Pool(9), np.random.default_rng(7)
    wrong = []
    for _ in range(40):
        found = calibrated(pool.points(rng.integers(4_000, size=300), rng, 1000), pool.profile(1000), gamma=0.09)
        served = []
        for q, (knots_q, knots_p), sigma in zip(pool.q, found.curves, SIGMAS, strict=True):
            logits = np.stack([np.log(q / np.maximum(1 - q, 1e-17)), np.zeros(q.size)], axis=1)
            label, top, p_lower, radius = _C.certify(logits, knots_q, knots_p, sigma)
            served.append(Certificates(label, radius, p_lower, top, np.zeros_like(label)))
        chosen = choose(tuple(served), SIGMAS)
        truth = np.abs(norm.ppf(pool.p[0])) * SIGMAS[0]  # the distance to the plane, the same at every sigma
        wrong.append(np.mean(chosen.certificates.radius > truth + 1e-9))
        assert np.mean(~np.isnan(chosen.sigma)) > 0.5
        assert len(np.unique(chosen.sigma[~np.isnan(chosen.sigma)])) == 3  # each sigma is the best of some input
    assert np.sum(np.array(wrong) > 0.1) <= binom.isf(FALSE_ALARM, len(wrong), 0.05)
