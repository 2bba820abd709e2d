"""What was decided, counted once from the records, and the readings of it."""
