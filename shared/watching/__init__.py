"""What both sides tell those who look after them: metrics, health, logs, notices."""
