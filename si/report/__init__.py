"""What a reader sees of runs: summaries, findings, tables, plots, and the pages made of them."""
