"""Adoption: an ONNX file that somebody else's exporter wrote becomes an artefact, once it is known what it means."""
