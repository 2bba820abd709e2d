"""Tests of TorchScript that is read as text and worked out step by step."""
