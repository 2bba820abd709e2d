"""The log: its records, the journal that they are written to, and the data folder that it is in."""
