"""Attacks: gradient ascent inside a certified ball, to 8-bit images; `rrise.evaluation.attacks` judges them."""
