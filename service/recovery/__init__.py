"""What a data plane takes over, from the logs of those before it, of where each session stands."""
