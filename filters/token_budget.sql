-- summary: keep the best documents by score until their tokens fill a budget, which is never exceeded
-- param: tokens  int     required  tokens to keep at most: 20M, 1.5B or 20000000
-- param: score   column  score     the column to rank by
SELECT *
FROM candidates
WHERE isfinite({score}::DOUBLE)
QUALIFY sum(n_tokens) OVER (ORDER BY {score} DESC, doc_id, shard, row ROWS UNBOUNDED PRECEDING) <= $tokens::BIGINT
