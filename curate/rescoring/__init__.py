"""Rescoring a shortlist by differentiating through a training run on it."""
