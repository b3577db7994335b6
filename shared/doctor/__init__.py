"""What `collegium client doctor` and `collegium server doctor` have in common."""
