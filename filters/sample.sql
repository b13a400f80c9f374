-- summary: draw documents at random, better ones more often (seeded Gumbel top-k)
-- param: share        share   --top     share of all documents of the run, before any filter
-- param: count        int     --top     number of documents, instead of a share
-- param: tokens       int     --budget  tokens to keep at most, instead of a number of documents
-- param: temperature  float   1         in units of the scores' spread: near 0 the best, large pure chance
-- param: seed         int     0         another seed draws other documents
-- param: score        column  score     the column that decides
-- one of: share, count, tokens
-- The spread is the interquartile range (1.349 standard deviations of a normal distribution): outliers do not move it,
-- and it does not depend on the order of summation. A document's noise depends on the seed and its own key alone.
WITH spread AS (
  SELECT (quantile_cont({score}::DOUBLE, 0.75) - quantile_cont({score}::DOUBLE, 0.25)) / 1.349 AS iqr
  FROM candidates
  WHERE isfinite({score}::DOUBLE)
),
noisy AS (
  SELECT
    *,
    -- 52 bits and a half: never 0, never 1
    ((md5_number_lower(concat_ws(chr(31), $seed::BIGINT, doc_id, shard, row)) >> 12)::DOUBLE + 0.5) / pow(2, 52) AS u
  FROM candidates
  WHERE isfinite({score}::DOUBLE)
),
keyed AS (
  SELECT
    * EXCLUDE (u),
    {score}::DOUBLE / (greatest($temperature::DOUBLE, 1e-12) * if(iqr > 0, iqr, 1)) - ln(-ln(u)) AS gumbel
  FROM noisy, spread
)
SELECT * EXCLUDE (gumbel)
FROM keyed
QUALIFY if(
  $tokens::BIGINT IS NULL,
  row_number() OVER (ORDER BY gumbel DESC, doc_id, shard, row)
    <= coalesce($count::BIGINT, greatest(1, round($share::DOUBLE * $total::BIGINT))::BIGINT),
  sum(n_tokens) OVER (ORDER BY gumbel DESC, doc_id, shard, row ROWS UNBOUNDED PRECEDING) <= $tokens::BIGINT
)
