"""The tests mirror the source: one file a module, under the same names."""
