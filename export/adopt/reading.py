"""A reading of somebody's ONNX file: which tensor is the observation, which the head, and what is carried along."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from export.errors import OptionInvalid
from export.spec import Head, Squash

# How a head is asked for on the command line; a mean alone is a Gaussian without spread.
HEAD_WORDS: Mapping[str, Head] = {
    "logits": "logits",
    "q_values": "q_values",
    "mean": "gaussian",
    "mean_log_std": "gaussian",
    "mean_std": "gaussian",
    "probabilities": "logits",
    "action": "logits",
}
# What the file's own numbers are, where they are not what is served: probabilities, or the choices that were made.
Form = Literal["numbers", "probabilities", "choices"]
# How outputs are called that are a std, and a mean.
_STD = re.compile(r"std|sigma|scale|dev", re.IGNORECASE)
_MEAN = re.compile(r"mu$|mu_|mean|loc", re.IGNORECASE)
FORMS: Mapping[str, Form] = {"probabilities": "probabilities", "action": "choices"}


@dataclass(frozen=True, slots=True)
class Pieces:
    """One tensor of our head: tensors of the file side by side, as ``value * scale + offset``; zeros for no tensors.

    ``scale`` and ``offset`` hold one number for all or one for each. ``half`` takes the first (0) or second (1) half of
    the numbers alone, and ``exp`` their exponential, before they are scaled. Of ``probabilities`` the logarithm is
    served, of ``choices`` (one number for each choice that is made, or a one among zeros) a row with a one for each.
    """

    names: tuple[str, ...] = ()
    scale: tuple[float, ...] = (1.0,)
    offset: tuple[float, ...] = (0.0,)
    half: int | None = None
    exp: bool = False
    form: Form = "numbers"


@dataclass(frozen=True, slots=True)
class Carried:
    """What the file wants back at the next step: our name for it, the input that takes it, the output that gives it."""

    name: str
    source: str
    result: str


@dataclass(frozen=True, slots=True)
class Said:
    """What people said because no file does; None and empty are: not said."""

    head: str | None = None
    squash: Squash | None = None
    observations: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    actions: tuple[str, ...] = ()
    action_names: tuple[str, ...] = ()
    action_low: tuple[float | None, ...] = ()
    action_high: tuple[float | None, ...] = ()
    memory: tuple[tuple[str, str], ...] = ()
    constant: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """What the tensors of a file mean.

    ``heads`` has the tensors of the head by our names. ``sizes`` are the choices of each factor where the file says
    them, ``low`` and ``high`` the bounds of the numbers of a Box. ``echo`` is an output that repeats the greedy action
    in its own way, and ``drawn`` one that is a sample from the head: both are compared with. ``scores`` is false where
    the file gives the action that it chose and nothing about the others.
    """

    dialect: str
    observations: tuple[str, ...]
    head: Head
    heads: Mapping[str, Pieces]
    squash: Squash = "none"
    sizes: tuple[int, ...] = ()
    low: tuple[float | None, ...] = (None,)
    high: tuple[float | None, ...] = (None,)
    mask: str = ""
    memory: tuple[Carried, ...] = ()
    echo: str = ""
    drawn: str = ""
    inside: tuple[str, ...] = field(default=())
    scores: bool = True

    @property
    def said(self) -> str:
        """Say what the head of the file was taken for, in the words of ``--head``."""
        forms = {pieces.form for pieces in self.heads.values()}
        return "action" if not self.scores else "probabilities" if "probabilities" in forms else self.head

    @property
    def wanted(self) -> tuple[str, ...]:
        """The tensors of the file that are needed: the head's, then what is carried along."""
        pieces = [name for tensor in self.heads.values() for name in tensor.names]
        return tuple(dict.fromkeys([*pieces, *(one.result for one in self.memory)]))


def means(*names: str) -> dict[str, Pieces]:
    """Give the head of a network that answers with what is to be done, and no spread."""
    return {"mean": Pieces(names), "std": Pieces()}


def asked_head(said: Said, outputs: tuple[str, ...], why: str) -> tuple[Head, dict[str, Pieces]]:
    """Give the head that ``--head`` names, made of these outputs; raises OptionInvalid where it is not said."""
    if said.head is None:
        choices = ", ".join(HEAD_WORDS)
        names = " and ".join(repr(name) for name in outputs)
        msg = f"{why}: nothing tells what the output {names} is, say --head with one of {choices}"
        raise OptionInvalid(msg)
    head = HEAD_WORDS[said.head]
    if said.head in ("mean_log_std", "mean_std"):
        return head, _with_std(said.head, outputs)
    if head == "q_values" and len(outputs) > 1:
        msg = f"--head is q_values, which is one choice's, expected one output, found {', '.join(outputs)}"
        raise OptionInvalid(msg)
    form = FORMS.get(said.head, "numbers")
    return head, means(*outputs) if head == "gaussian" else {head: Pieces(outputs, form=form)}


def _with_std(word: str, outputs: tuple[str, ...]) -> dict[str, Pieces]:
    """Take mean and std out of one output, half and half, or out of two."""
    if len(outputs) > 2:
        msg = f"--head is {word}, expected one output of both, or two, the mean's first, found {', '.join(outputs)}"
        raise OptionInvalid(msg)
    if len(outputs) == 2 and _STD.search(outputs[0]) and _MEAN.search(outputs[1]) and not _MEAN.search(outputs[0]):
        msg = (
            f"--output-name is {','.join(outputs)}, which by their names are the std and then the mean, expected the "
            f"mean's first: --output-name {outputs[1]},{outputs[0]}"
        )
        raise OptionInvalid(msg)
    log = word == "mean_log_std"
    if len(outputs) == 1:
        return {"mean": Pieces(outputs, half=0), "std": Pieces(outputs, half=1, exp=log)}
    return {"mean": Pieces(outputs[:1]), "std": Pieces(outputs[1:], exp=log)}
