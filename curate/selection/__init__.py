"""From scores to a dataset: SQL filters composed in DuckDB, and the dump of what they leave."""
