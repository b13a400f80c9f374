"""Runs on disk: write parts whole or not at all, read them lazily, query them by SQL. Never imports torch."""
