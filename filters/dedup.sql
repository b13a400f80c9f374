-- summary: keep one document of each content: the best by score
-- param: by      column  content_hash  documents with the same value here are the same; null is never the same
-- param: score   column  score         which of them is the best
SELECT *
FROM candidates
QUALIFY {by} IS NULL OR row_number() OVER (
  PARTITION BY {by} ORDER BY isfinite({score}::DOUBLE) DESC NULLS LAST, {score} DESC, doc_id, shard, row
) = 1
