"""What an institution tells those who look after it."""
