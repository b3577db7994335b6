"""What the coordinator tells those who look after it."""
