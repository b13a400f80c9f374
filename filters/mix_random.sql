-- summary: fill a part of the selection by chance: the best documents, and a random draw of the others
-- param: random  share   10%       share of the selection that is drawn at random from what the best leave
-- param: share   share   --top     size of the selection: share of all documents of the run, before any filter
-- param: count   int     --top     number of documents, instead of a share
-- param: tokens  int     --budget  tokens to keep at most, instead of a number of documents
-- param: seed    int     0         another seed draws other documents
-- param: score   column  score     which documents are the best
-- one of: share, count, tokens
WITH size AS (
  SELECT
    $tokens::BIGINT IS NOT NULL AS by_tokens,
    coalesce($tokens::BIGINT, $count::BIGINT, greatest(1, round($share::DOUBLE * $total::BIGINT))::BIGINT) AS whole,
    round((1 - $random::DOUBLE) * whole)::BIGINT AS best
),
costed AS (
  SELECT *, if(by_tokens, n_tokens, 1)::BIGINT AS cost, whole, best
  FROM candidates, size
),
ranked AS (
  SELECT
    *,
    coalesce(isfinite({score}::DOUBLE), false) AND sum(cost) OVER (
      ORDER BY isfinite({score}::DOUBLE) DESC NULLS LAST, {score} DESC, doc_id, shard, row ROWS UNBOUNDED PRECEDING
    ) <= best AS is_best
  FROM costed
),
drawn AS (
  SELECT
    *,
    sum(cost) FILTER (is_best) OVER () AS used,
    sum(if(is_best, 0, cost)) OVER (
      ORDER BY md5_number_lower(concat_ws(chr(31), $seed::BIGINT, doc_id, shard, row)), doc_id, shard, row
      ROWS UNBOUNDED PRECEDING
    ) AS so_far
  FROM ranked
)
SELECT * EXCLUDE (cost, whole, best, is_best, used, so_far)
FROM drawn
WHERE is_best OR so_far <= whole - coalesce(used, 0)
