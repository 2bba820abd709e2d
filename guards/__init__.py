"""Everything that may overrule a policy: pure functions over batches of decisions, no I/O."""
