"""Calibration: from noisy counts and an engine's outputs to a curve with a guarantee; pure functions of arrays.

- :mod:`rrise.calibration.bounds`: binomial confidence bounds, rounded down.
- :mod:`rrise.calibration.curves`: families of curves, nested in one number t.
- :mod:`rrise.calibration.guarantees`: which calibration score to take.
- :mod:`rrise.calibration.bins`: a guarantee inside each bin of q.
- :mod:`rrise.calibration.certified`: a guarantee among issued certificates alone.
- :mod:`rrise.calibration.shift`: weights for other class frequencies in service.
- :mod:`rrise.calibration.levels`: which share of alpha to give to the draws, and which to the curve.
- :mod:`rrise.calibration.statements`: the sentence that follows.
- :mod:`rrise.calibration.conformal`: :func:`~rrise.calibration.conformal.calibrate`, which joins them.

Importing any of them loads numpy only; scipy is loaded when a bound is computed.
"""
