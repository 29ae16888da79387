"""Evaluation: Monte Carlo certifiers, metrics, the comparison of certifiers on one test set, and the report."""
