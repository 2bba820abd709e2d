"""Golden files: what others read of us or rely on, as it was; it changes only where somebody means it."""
