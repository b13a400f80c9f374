"""Trust reports: a run's figures, judged in plain words, on one page that opens anywhere. Never imports torch."""
