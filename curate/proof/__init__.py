"""Proof by retraining: do scores predict what leaving documents out does, and does training on a selection help?"""
