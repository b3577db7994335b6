"""Research: whole federations on one machine, baselines, the demo, and the command line over all rooms."""
