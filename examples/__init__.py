"""Worked examples: each folder trains a policy and drives the service with it."""
