"""From scores to a dataset: SQL filters composed in DuckDB, and the dataset of the documents that are left."""
