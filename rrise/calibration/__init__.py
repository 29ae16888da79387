"""Calibration: from noisy counts and an engine's outputs to a curve with a guarantee; pure functions of arrays.

- :mod:`rrise.calibration.bounds`: binomial confidence bounds, rounded down.
- :mod:`rrise.calibration.curves`: families of curves, nested in one number t.
- :mod:`rrise.calibration.guarantees`: which calibration score to take, and the sentence that follows from it.
- :mod:`rrise.calibration.conformal`: :func:`~rrise.calibration.conformal.calibrate`, which joins the three.

Importing any of them loads numpy only; scipy is loaded when a bound is computed.
"""
