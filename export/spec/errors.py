"""What can be wrong with an artefact.

ArtefactError
├── NotAnArtefact      it is no ONNX file that actd-export wrote
├── DigestMismatch     its bytes are not those that were sealed
├── ManifestInvalid    its manifest does not follow the format
└── StructureRefused   its graph is not one that may be served
"""


class ArtefactError(Exception):
    """The artefact cannot be used."""


class NotAnArtefact(ArtefactError):
    """It is no ONNX file that actd-export wrote."""


class DigestMismatch(ArtefactError):
    """Its bytes are not those that were sealed."""


class ManifestInvalid(ArtefactError):
    """Its manifest does not follow the format."""


class StructureRefused(ArtefactError):
    """Its graph is not one that may be served."""
