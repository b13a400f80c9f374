-- summary: give every value of a column its share of the selection, filled with its best documents
-- param: by      column  required      the column whose values have quotas; null is a value like others
-- param: shares  str     proportional  proportional (as the candidates are), equal, or given: wiki:0.5,code:0.5
-- param: share   share   --top         size of the selection: share of all documents of the run, before any filter
-- param: count   int     --top         number of documents, instead of a share
-- param: tokens  int     --budget      tokens to keep at most, instead of a number of documents
-- param: score   column  score         which documents are the best
-- Without a size: the largest selection that has the shares (with proportional shares, every candidate). With a size, what
-- a value cannot fill goes to the others in proportion to their shares. Values that are not given get nothing.
WITH given AS (
  SELECT trim(regexp_extract(item, '^(.*):[^:]*$', 1)) AS value, regexp_extract(item, '([^:]*)$', 1)::DOUBLE AS weight
  FROM (SELECT unnest(string_split($shares::VARCHAR, ',')) AS item)
  WHERE $shares::VARCHAR NOT IN ('proportional', 'equal')
),
costed AS (
  SELECT
    *,
    coalesce({by}::VARCHAR, '') AS quota_value,
    if($tokens::BIGINT IS NULL, 1, n_tokens)::BIGINT AS cost
  FROM candidates
  WHERE isfinite({score}::DOUBLE)
),
sizes AS (
  SELECT
    quota_value,
    sum(cost)::DOUBLE AS capacity,
    CASE $shares::VARCHAR
      WHEN 'proportional' THEN sum(cost)::DOUBLE
      WHEN 'equal' THEN 1.0
      ELSE (SELECT any_value(weight) FROM given WHERE given.value = quota_value)
    END AS weight
  FROM costed
  GROUP BY quota_value
  HAVING weight > 0 AND capacity > 0
),
wanted AS (
  SELECT
    coalesce(
      $tokens::BIGINT, $count::BIGINT, if($share::DOUBLE IS NULL, NULL, greatest(1, round($share::DOUBLE * $total::BIGINT))),
      (SELECT min(capacity / weight) * sum(weight) FROM sizes)
    )::DOUBLE AS whole
),
-- From the value that runs out first: the level is what each unit of weight gets while those before are exhausted.
levels AS (
  SELECT
    *,
    (whole - coalesce(sum(capacity) OVER (fill ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0))
      / sum(weight) OVER (fill ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS level
  FROM sizes, wanted
  WINDOW fill AS (ORDER BY capacity / weight, quota_value)
),
quotas AS (
  SELECT
    quota_value,
    least(capacity, weight * coalesce((SELECT max(level) FROM levels WHERE capacity / weight > level), 'inf')) AS quota,
    whole
  FROM levels
),
-- Whole documents: the largest fractions are rounded up until the sum is right.
rounded AS (
  SELECT
    quota_value,
    floor(quota + 1e-9) + if(
      row_number() OVER (ORDER BY quota + 1e-9 - floor(quota + 1e-9) DESC, quota_value)
        <= round(sum(quota) OVER ()) - sum(floor(quota + 1e-9)) OVER (),
      1, 0
    ) AS quota
  FROM quotas
),
filled AS (
  SELECT
    shard, row, quota_value,
    sum(cost) OVER (
      PARTITION BY quota_value ORDER BY {score} DESC, doc_id, shard, row ROWS UNBOUNDED PRECEDING
    ) AS so_far
  FROM costed
),
chosen AS (SELECT shard, row FROM filled JOIN rounded USING (quota_value) WHERE so_far <= quota)
SELECT candidates.* FROM candidates SEMI JOIN chosen USING (shard, row)
