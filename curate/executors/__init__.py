"""Where parts run. A part is a stretch of one shard's rows: it is read, scored and written by itself."""
