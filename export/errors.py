"""What can go wrong on the way from a checkpoint to an artefact.

ExportError
├── OptionInvalid          an option of the command does not fit
├── DeclarationInvalid     the declaration of a network does not say what it has to
├── CheckpointRefused      the checkpoint cannot be read safely, or is of a kind that is not known
│   ├── AdoptionRefused    the ONNX file cannot be adopted as a policy
│   ├── NeedsUnpickling    it holds objects, which are no data: only unpickling could make them
│   └── TensorsUnaccounted its tensors are not exactly those that the network needs
├── HeadImplausible        what comes out is hardly what the head was said to be
├── SampleInvalid          the recorded observations do not fit the policy
├── ConversionFailed       the network cannot be written as an ONNX graph
├── ParityFailed           the graph does not answer as the source does
└── VerificationFailed     the finished file does not behave as it says
"""


class ExportError(Exception):
    """No artefact was written."""


class OptionInvalid(ExportError):
    """An option of the command does not fit."""


class DeclarationInvalid(ExportError):
    """The declaration of a network does not say what it has to."""


class CheckpointRefused(ExportError):
    """The checkpoint cannot be read safely, or is of a kind that is not known."""


class AdoptionRefused(CheckpointRefused):
    """The ONNX file cannot be adopted as a policy."""


class NeedsUnpickling(CheckpointRefused):
    """The checkpoint holds objects, which are no data: only unpickling could make them."""


class TensorsUnaccounted(CheckpointRefused):
    """The checkpoint's tensors are not exactly those that the network needs."""


class HeadImplausible(ExportError):
    """What comes out of the network is hardly what people said its head is."""


class SampleInvalid(ExportError):
    """The recorded observations do not fit the policy."""


class ConversionFailed(ExportError):
    """The network cannot be written as an ONNX graph."""


class ParityFailed(ExportError):
    """The graph does not answer as the source does."""


class VerificationFailed(ExportError):
    """The finished file does not behave as it says."""
