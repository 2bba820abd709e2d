"""Turns a trained policy's checkpoint into one verified, self-describing ONNX file."""
