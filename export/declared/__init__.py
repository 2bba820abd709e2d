"""Networks that a declaration describes: built from plain tensors, each taken once by its name."""

from export.declared.files import cleanrl, of_loaded, state_dict
from export.declared.networks import NETWORKS, of_declaration

__all__ = ["NETWORKS", "cleanrl", "of_declaration", "of_loaded", "state_dict"]
