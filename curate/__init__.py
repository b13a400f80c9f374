"""Curate language-model training data by its measured influence on a target."""

__version__ = "0.1.0"
