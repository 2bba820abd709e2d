"""The control plane: ships the journal to a store, joins feedback to decisions, and signs that it lives."""
