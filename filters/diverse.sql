-- summary: keep the best documents by score, less what better ones like them say already
-- param: share     share   --top     share of all documents of the run, before any filter
-- param: count     int     --top     number of documents, instead of a share
-- param: tokens    int     --budget  tokens to keep at most, instead of a number of documents
-- param: strength  float   1         what a cosine of 1 to a better document costs, in units of the scores' spread
-- param: score     column  score     the column to rank by
-- needs: neighbours
-- one of: share, count, tokens
-- The spread is the interquartile range (1.349 standard deviations of a normal distribution). A document is discounted by
-- its nearest better candidate (maximal marginal relevance, for all documents at once).
WITH spread AS (
  SELECT (quantile_cont({score}::DOUBLE, 0.75) - quantile_cont({score}::DOUBLE, 0.25)) / 1.349 AS iqr
  FROM candidates
  WHERE isfinite({score}::DOUBLE)
),
ordered AS (
  SELECT shard, row, row_number() OVER (ORDER BY {score} DESC, doc_id, shard, row) AS place
  FROM candidates
  WHERE isfinite({score}::DOUBLE)
),
likeness AS (
  SELECT a.shard, a.row, max(similarity)::DOUBLE AS nearest
  FROM neighbours
  JOIN ordered a ON a.shard = neighbours.shard AND a.row = neighbours.row
  JOIN ordered b ON b.shard = near_shard AND b.row = near_row
  WHERE b.place < a.place
  GROUP BY a.shard, a.row
),
discounted AS (
  SELECT
    candidates.*,
    candidates.{score}::DOUBLE
      - $strength::DOUBLE * if(spread.iqr > 0, spread.iqr, 1) * coalesce(likeness.nearest, 0) AS _worth
  FROM candidates CROSS JOIN spread LEFT JOIN likeness USING (shard, row)
  WHERE isfinite(candidates.{score}::DOUBLE)
)
SELECT * EXCLUDE (_worth)
FROM discounted
QUALIFY if(
  $tokens::BIGINT IS NULL,
  row_number() OVER (ORDER BY _worth DESC, doc_id, shard, row)
    <= coalesce($count::BIGINT, greatest(1, round($share::DOUBLE * $total::BIGINT))::BIGINT),
  sum(n_tokens) OVER (ORDER BY _worth DESC, doc_id, shard, row ROWS UNBOUNDED PRECEDING) <= $tokens::BIGINT
)
