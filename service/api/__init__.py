"""What is on the wire: bodies in, checked requests; outcomes out, as the answers that callers read."""
