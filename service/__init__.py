"""The data plane: observations in, guarded and journalled actions out."""
