"""Runs on disk: parts written whole or not at all, read lazily, and seen through SQL. Never imports torch."""
