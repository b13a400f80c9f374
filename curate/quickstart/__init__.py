"""The whole road on text that every Python carries: a pool, a target held out of it, and what a selection gained."""

from curate.quickstart.enrichment import Enrichment, measure_enrichment
from curate.quickstart.pool import LibraryPool, LibrarySettings, build_library_pool

__all__ = ["Enrichment", "LibraryPool", "LibrarySettings", "build_library_pool", "measure_enrichment"]
