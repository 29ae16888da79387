"""Recipes that come with rrise, by name: ``rrise run digits``."""
