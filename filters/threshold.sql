-- summary: keep the documents whose score lies within bounds
-- param: min     float   null   least value to keep, itself included
-- param: max     float   null   greatest value to keep, itself included
-- param: score   column  score  the column to compare; null and NaN are dropped
SELECT *
FROM candidates
WHERE NOT isnan({score}::DOUBLE)
  AND {score} >= coalesce($min::DOUBLE, '-inf'::DOUBLE)
  AND {score} <= coalesce($max::DOUBLE, 'inf'::DOUBLE)
