"""Trust reports: what a run's figures say, in plain words and on one page that opens anywhere. Never imports torch."""
