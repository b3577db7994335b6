"""Joining and leaving: what an invitation says, what both sides tell each other, and what they sign."""
