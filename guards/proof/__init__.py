"""The proof that a shield always leaves something to do, and its answers in words: beside the trusted core."""
