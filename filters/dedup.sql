-- summary: keep one document of each content: the best by score
-- param: by      column  content_hash  documents with the same value here are the same; null is never the same
-- param: score   column  score         which of them is the best
-- param: near    float   null          gradients of this cosine (0.97, say) are the same, too; needs a gradient store
-- needs: neighbours when near
-- What is near to something near is the same: groups are connected components.
WITH RECURSIVE contents AS (
  SELECT shard, row, coalesce({by}::VARCHAR, concat_ws(chr(31), shard, row)) AS content FROM candidates
),
edges AS (
  SELECT DISTINCT a.content AS one, b.content AS other
  FROM neighbours
  JOIN contents a ON a.shard = neighbours.shard AND a.row = neighbours.row
  JOIN contents b ON b.shard = near_shard AND b.row = near_row
  WHERE similarity >= $near::DOUBLE AND a.content <> b.content
),
labels(content, label) USING KEY (content) AS (
  SELECT DISTINCT one, one FROM edges
  UNION
  SELECT one, min(near.label) FROM edges JOIN labels near ON near.content = other
  JOIN recurring.labels own ON own.content = one
  WHERE near.label < own.label
  GROUP BY one
)
SELECT candidates.*
FROM candidates
LEFT JOIN labels ON labels.content = coalesce(candidates.{by}::VARCHAR, concat_ws(chr(31), shard, row))
QUALIFY row_number() OVER (
  PARTITION BY coalesce(labels.label, candidates.{by}::VARCHAR, concat_ws(chr(31), shard, row))
  ORDER BY
    isfinite(candidates.{score}::DOUBLE) DESC NULLS LAST, candidates.{score} DESC, doc_id, shard, row
) = 1
