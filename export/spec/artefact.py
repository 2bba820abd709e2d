"""The file: how a manifest and a digest live inside an ONNX model, and how both are checked on its raw bytes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from pydantic import ValidationError

from export.spec.contents import check_spelling
from export.spec.errors import DigestMismatch, ManifestInvalid, NotAnArtefact, StructureRefused
from export.spec.manifest import Manifest, Tensor
from export.spec.spaces import Port
from export.spec.statistics import SCORE_PROBABILITIES
from export.spec.structure import LOOPS, check_structure

SIZE_CAP = 64 * 1024 * 1024
_MANIFEST_CAP = 16 * 1024 * 1024
_MOST_ROWS = 1024
_DIGEST_KEY = "policy.digest"
_ZEROS = b"0" * 64
# How protobuf writes the metadata entry: field 1 (key) with its length, field 2 (value) with its length of 64.
_DIGEST_MARK = b"\x0a" + bytes([len(_DIGEST_KEY)]) + _DIGEST_KEY.encode() + b"\x12\x40"


@dataclass(frozen=True, slots=True)
class Artefact:
    """A policy whose digest, manifest and structure were checked; ``data`` are the very bytes that were."""

    manifest: Manifest
    digest: str
    data: bytes
    operators: frozenset[str]

    @property
    def loops(self) -> bool:
        """Whether the graph can run for an unbounded time."""
        return bool(self.operators & LOOPS)

    def __repr__(self) -> str:
        kib = len(self.data) / 1024
        return f"<Artefact {self.manifest.name}-{self.manifest.version} {self.digest[:12]} {kib:.0f} KiB>"


def seal(model: onnx.ModelProto, manifest: Manifest) -> bytes:
    """Put the manifest into the model and seal the file with its digest.

    The digest is the sha256 of the file in which the digest's own 64 characters are zeros.
    Raises StructureRefused for a graph that may not be served, and ManifestInvalid.
    """
    del model.metadata_props[:]
    values = {
        "policy.name": manifest.name,
        "policy.version": manifest.version,
        "policy.kind": manifest.family,
        "policy.schema": str(manifest.format),
        "author": manifest.author,
        "license": manifest.license,
        "description": manifest.description,
        "date": manifest.date,
        "policy.manifest": manifest.text(),
        _DIGEST_KEY: _ZEROS.decode(),
    }
    for key, value in values.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    _check_arrays(manifest)
    check_structure(model, manifest)
    zeroed = model.SerializeToString(deterministic=True)
    at = _place_of_digest(zeroed)
    digest = hashlib.sha256(zeroed).hexdigest().encode()
    return zeroed[:at] + digest + zeroed[at + 64 :]


def open_artefact(data: bytes) -> Artefact:
    """Check an artefact's digest, manifest and structure on its raw bytes.

    Raises NotAnArtefact, DigestMismatch, ManifestInvalid or StructureRefused.
    """
    if len(data) > SIZE_CAP:
        msg = f"the file has {len(data)} bytes, expected at most {SIZE_CAP}"
        raise StructureRefused(msg)
    at = _place_of_digest(data)
    told = data[at : at + 64].decode("ascii", "replace")
    found = hashlib.sha256(data[:at] + _ZEROS + data[at + 64 :]).hexdigest()
    if told != found:
        msg = f"policy.digest is {told}, the bytes of the file give {found}: it was altered after it was sealed"
        raise DigestMismatch(msg)
    model = model_of(data)
    check_spelling(model, data)
    manifest = _manifest_of(model)
    _check_arrays(manifest)
    operators = check_structure(model, manifest)
    return Artefact(manifest=manifest, digest=found, data=data, operators=operators)


def model_of(data: bytes) -> onnx.ModelProto:
    """Parse the bytes as an ONNX model; raises NotAnArtefact."""
    try:
        return onnx.load_model_from_string(data)
    except DecodeError as error:
        msg = "the file is not an ONNX model"
        raise NotAnArtefact(msg) from error


def _place_of_digest(data: bytes) -> int:
    count = data.count(_DIGEST_MARK)
    if count != 1:
        msg = f"the file has {count} policy.digest entries, expected one: only actd-export writes artefacts"
        raise NotAnArtefact(msg)
    return data.index(_DIGEST_MARK) + len(_DIGEST_MARK)


def _manifest_of(model: onnx.ModelProto) -> Manifest:
    texts = [entry.value for entry in model.metadata_props if entry.key == "policy.manifest"]
    if len(texts) != 1:
        msg = f"the file has {len(texts)} policy.manifest entries, expected one"
        raise ManifestInvalid(msg)
    if len(texts[0]) > _MANIFEST_CAP:
        msg = f"policy.manifest has {len(texts[0])} characters, expected at most {_MANIFEST_CAP}"
        raise ManifestInvalid(msg)
    try:
        return Manifest.model_validate_json(texts[0])
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        msg = f"policy.manifest: {path}: {first['msg']}"
        raise ManifestInvalid(msg) from error


def _check_arrays(manifest: Manifest) -> None:
    """Refuse golden rows and statistics that do not fit the spaces: whoever reads them later need not look."""
    golden = manifest.golden
    rows = next((tensor.shape[0] for tensor in golden.inputs.values() if tensor.shape), 0)
    if rows > _MOST_ROWS:
        msg = f"policy.manifest: golden.inputs has {rows} rows, expected at most {_MOST_ROWS}"
        raise ManifestInvalid(msg)
    _check_tensors("golden.inputs", golden.inputs, manifest.inputs, rows)
    outputs = {name: tensor for name, tensor in golden.outputs.items() if name != "action"}
    _check_tensors("golden.outputs", outputs, manifest.outputs, rows)
    if "action" in golden.outputs:
        _check_tensors("golden.outputs", {"action": golden.outputs["action"]}, (manifest.action.port,), rows)
    taken, size = manifest.statistics, manifest.observation.size
    if taken is not None and {len(taken.mean), len(taken.std), len(taken.quantiles)} != {size}:
        msg = f"policy.manifest: statistics are not of {size} numbers each, the size of an observation"
        raise ManifestInvalid(msg)
    if taken is not None and any(len(row) != len(taken.probabilities) for row in taken.quantiles):
        msg = f"policy.manifest: statistics.quantiles are not {len(taken.probabilities)} each, one per probability"
        raise ManifestInvalid(msg)
    wanted = len(SCORE_PROBABILITIES)
    if taken is not None and (len(taken.scores) not in (0, wanted) or list(taken.scores) != sorted(taken.scores)):
        msg = f"policy.manifest: statistics.scores are not {wanted} in ascending order, or none"
        raise ManifestInvalid(msg)


def _check_tensors(what: str, tensors: Mapping[str, Tensor], ports: tuple[Port, ...], rows: int) -> None:
    unknown = sorted(set(tensors) - {port.name for port in ports})
    if unknown:
        msg = f"policy.manifest: {what} has {unknown}, expected {', '.join(port.name for port in ports)} alone"
        raise ManifestInvalid(msg)
    for port in ports:
        tensor, wanted = tensors.get(port.name), (rows, *port.shape)
        if tensor is None or (tensor.dtype, tensor.shape) != (port.dtype, wanted) or 0 in wanted:
            found = "missing" if tensor is None else f"{tensor.dtype}{list(tensor.shape)}"
            msg = f"policy.manifest: {what}.{port.name} is {found}, expected {port.dtype}{list(wanted)} with rows in it"
            raise ManifestInvalid(msg)
        try:
            finite = np.isfinite(tensor.array().astype(np.float64)).all()
        except ValueError as error:
            msg = f"policy.manifest: {what}.{port.name} cannot be decoded to its shape: {error}"
            raise ManifestInvalid(msg) from error
        if not finite:
            msg = f"policy.manifest: {what}.{port.name} holds NaN or infinity, expected numbers"
            raise ManifestInvalid(msg)
