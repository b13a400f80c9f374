-- summary: let every target group choose in turn: a document's turn is its best rank in any group
-- param: share   share    --top    share of all documents of the run, before any filter
-- param: count   int      --top    number of documents, instead of a share
-- param: tokens  int      --budget tokens to keep at most, instead of a number of documents
-- param: groups  columns  score_*  the groups' score columns: names or patterns, separated by commas
-- one of: share, count, tokens
WITH long AS (
  UNPIVOT (SELECT doc_id, shard, row, n_tokens, {groups} FROM candidates)
  ON {groups} INTO NAME group_column VALUE group_score
),
ranked AS (
  SELECT
    doc_id, shard, row, n_tokens, group_column,
    row_number() OVER (PARTITION BY group_column ORDER BY group_score DESC, doc_id, shard, row) AS turn
  FROM long
  WHERE isfinite(group_score::DOUBLE)
),
first AS (
  SELECT doc_id, shard, row, n_tokens, turn, group_column
  FROM ranked
  QUALIFY row_number() OVER (PARTITION BY shard, row ORDER BY turn, group_column) = 1
),
chosen AS (
  SELECT shard, row
  FROM first
  QUALIFY if(
    $tokens::BIGINT IS NULL,
    row_number() OVER (ORDER BY turn, group_column, doc_id, shard, row)
      <= coalesce($count::BIGINT, greatest(1, round($share::DOUBLE * $total::BIGINT))::BIGINT),
    sum(n_tokens) OVER (ORDER BY turn, group_column, doc_id, shard, row ROWS UNBOUNDED PRECEDING)
      <= $tokens::BIGINT
  )
)
SELECT candidates.* FROM candidates SEMI JOIN chosen USING (shard, row)
