"""What the two web pages have in common, the coordinator's and an institution's: who may see what, and how it looks."""
