"""The corpus: decisions of one tree beside those of another, over every kind, space, explorer, path and history."""
