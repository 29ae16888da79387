"""A promise in two parts: what the surrogate may spend of it, what is left for Monte Carlo, and what both say together.

A new input is certified wrongly by the surrogate with probability at most alpha_1, over inputs. It goes on to Monte
Carlo by its certificate, before any noise is drawn for it; so, whatever the input, Monte Carlo certifies it wrongly
with probability at most alpha_2, over that noise. What is returned is one of the two certificates, hence

    P(wrong)  <=  alpha_1 + alpha_2 P(goes on)  <=  alpha_1 + alpha_2.

The first is a probability under the conditions of the surrogate's calibration (on average over calibration sets, or
for all but an unlucky one; of inputs drawn as the calibration inputs were), and so is the sum. It is none given that a
certificate was issued: an input that Monte Carlo rarely certifies may be wrong whenever it does.
"""

from __future__ import annotations

from rrise.calibration.guarantees import exact
from rrise.calibration.statements import Facts, one_input, weighted
from rrise.promise import percent, rounded_down


def part(name: str, value: float, share: float) -> float:
    """Return a share of an error probability, both read as the decimals they print as, rounded down.

    >>> part("gamma", 0.05, 0.7)
    0.035
    """
    return rounded_down(exact(name, value) * exact("cascade", share))


def left_over(alpha: float, spent: float) -> float:
    """Return what is left of ``alpha`` after ``spent``: Monte Carlo's failure probability, rounded down.

    >>> left_over(0.05, 0.035)
    0.015

    Raises
    ------
    ValueError
        If nothing is left.
    """
    left = exact("alpha", alpha) - exact("spent", spent)
    if left <= 0:
        raise ValueError(
            f"cascade: expected a first stage that promises less than {alpha:g} in all, got {spent:g}. "
            "Give it a smaller share."
        )
    return rounded_down(left)


def describe_first_stage(alpha: float, monte_carlo: float) -> str:
    """Return what the statement of a bundle adds that was calibrated as the first stage of a cascade."""
    return (
        f" It is calibrated as the first stage of a cascade: if inputs that it leaves undecided go to Monte Carlo at "
        f"alpha = {monte_carlo!r}, what is returned is wrong with at most {percent(exact('alpha', alpha))} in all, "
        "under the same conditions."
    )


def describe_cascade(calibration: Facts, alpha: float, chosen: int, inputs: int) -> str:
    """Return what surrogate and Monte Carlo guarantee together, under the conditions of the surrogate's calibration.

    Parameters
    ----------
    calibration : Facts
        The surrogate's, such as the record in its bundle.
    alpha : float
        Failure probability of each Monte Carlo certificate.
    chosen, inputs : int
        How many of how many inputs went on to Monte Carlo.
    """
    error, own = exact("error", calibration.error), exact("alpha", alpha)
    share = f"{100 * chosen / inputs:.3g}% of {inputs:,}" if inputs else "none yet"
    return (
        f"{one_input(calibration)} gets a wrong certificate with probability at most {percent(error + own)}: "
        f"{percent(error)} from the surrogate, a {calibration.guarantee} guarantee over inputs{weighted(calibration)}, "
        f"and {percent(own)} from Monte Carlo times the share of inputs that go to it ({share}); whatever an input, "
        f"Monte Carlo certifies it wrongly with probability at most {percent(own)} over its noise. What the bundle's "
        "own statement asks for is asked for here too."
    )
