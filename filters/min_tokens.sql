-- summary: drop documents of few tokens
-- param: tokens  int  required  least number of scored tokens to keep
SELECT * FROM candidates WHERE n_tokens >= $tokens::BIGINT
