-- summary: drop documents of many tokens
-- param: tokens  int  required  greatest number of scored tokens to keep
SELECT * FROM candidates WHERE n_tokens <= $tokens::BIGINT
