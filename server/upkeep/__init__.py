"""The coordinator's folder over the years: copies of it, and what is thrown away."""
