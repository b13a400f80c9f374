-- summary: drop documents that contain a target row, or much of one
-- param: overlap  float  0.5  drop from this share of one target row's 13-grams on; exact matches always go
SELECT *
FROM candidates
WHERE NOT target_exact
  AND (isnan(target_overlap) OR target_overlap < $overlap::DOUBLE)
