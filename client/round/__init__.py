"""What a site does in a round, beside training."""
