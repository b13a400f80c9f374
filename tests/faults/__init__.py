"""Faults, injected into the real commands: `python -m tests.faults --help`."""
