-- summary: keep the best documents by score
-- param: share   share   null   share of all documents of the run, before any filter: 5% or 0.05
-- param: count   int     null   number of documents, instead of a share
-- param: score   column  score  the column to rank by
-- one of: share, count
SELECT *
FROM candidates
WHERE isfinite({score}::DOUBLE)
ORDER BY {score} DESC, doc_id, shard, row
LIMIT (SELECT coalesce($count::BIGINT, greatest(1, round($share::DOUBLE * $total::BIGINT))::BIGINT))
