"""Research: whole federations on one machine, baselines, benchmarks, the demo, and the command line that joins the rooms."""
