"""The path of a decision: a batch of requests, decided, recorded, committed to the log and answered."""
