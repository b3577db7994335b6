"""What a server of `collegium serve` bears: answers a second and how long each takes, and its memory."""
