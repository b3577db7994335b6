"""How fast the model learns and reads: each beside what others would do it with, on the same records."""
