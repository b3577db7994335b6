"""Studies of what is learnt: each trains on public text, prints a table of scores and is run by hand."""
