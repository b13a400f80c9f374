"""The quickstart on text that every Python carries: a pool, a target held out of it, and a selection's gain."""

from curate.quickstart.enrichment import Enrichment, measure_enrichment
from curate.quickstart.pool import LibraryPool, LibrarySettings, build_library_pool

__all__ = ["Enrichment", "LibraryPool", "LibrarySettings", "build_library_pool", "measure_enrichment"]
