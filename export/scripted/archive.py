"""The code of a TorchScript archive: read as text, and refused where it calls anything but arithmetic on tensors."""

import ast
import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from export.errors import CheckpointRefused
from export.scripted.operators import ALLOWED, INSTEAD

CODE_CAP = 8 * 1024 * 1024
TOTAL_CAP = 1024 * 1024 * 1024
MEMBERS_CAP = 8192
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, RuntimeError, ValueError, EOFError, OSError, NotImplementedError)
_BUILTINS = {"annotate", "unchecked_cast", "uninitialized", "getattr", "range", "int", "float", "bool", "str"}
_NODES = (
    ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg, ast.Assign, ast.AnnAssign, ast.Expr, ast.If,
    ast.For, ast.Return, ast.Pass, ast.Call, ast.keyword, ast.Attribute, ast.Name, ast.Constant, ast.Tuple, ast.List,
    ast.Subscript, ast.UnaryOp, ast.USub, ast.Load, ast.Store, ast.Dict,
)  # fmt: skip
# Loading runs these.
_RUN_BY_LOADING = ("__setstate__", "__getstate__")


@dataclass(frozen=True, slots=True)
class Code:
    """The functions of an archive by their qualified names, and what its classes hold by theirs.

    A method is ``__torch__.package.Class.method``. ``tuples`` are the fields of its named tuples by their names;
    ``members`` are the archive's files without its own directory.
    """

    functions: Mapping[str, ast.FunctionDef]
    attributes: Mapping[str, tuple[str, ...]]
    tuples: Mapping[str, tuple[str, ...]]
    members: Mapping[str, bytes]


def is_torchscript(data: bytes) -> bool:
    """Tell a TorchScript archive from what torch.save writes: it has code and constants among its members."""
    if not data.startswith(b"PK\x03\x04"):
        return False
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except _ZIP_ERRORS:
        return False
    return any(name.endswith("/constants.pkl") or "/code/" in name for name in names)


def read_code(data: bytes, name: str) -> Code:
    """Read the code of a TorchScript archive; raises CheckpointRefused where it is not arithmetic alone.

    Loading and running TorchScript needs no unpickling in Python, but it is a language of its own that can write files
    and never end. What is left after this check cannot: every call, anywhere in the archive, is on a list of operators
    that read and give tensors and numbers, there is no ``while``, and nothing is run by loading it.
    """
    members = _members(data, name)
    functions: dict[str, ast.FunctionDef] = {}
    attributes: dict[str, tuple[str, ...]] = {}
    tuples: dict[str, tuple[str, ...]] = {}
    for path, content in members.items():
        if path.startswith("code/") and path.endswith(".py"):
            module = path.removeprefix("code/").removesuffix(".py").replace("/", ".")
            tree = _tree(content, path, name)
            functions.update(_functions(tree.body, module))
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    functions.update(_functions(node.body, f"{module}.{node.name}"))
                    kinds = tuples if _is_tuple(node) else attributes
                    kinds[f"{module}.{node.name}"] = tuple(_held(node.body))
    if not functions:
        msg = f"{name} has no code, expected TorchScript"
        raise CheckpointRefused(msg)
    return Code(functions, attributes, tuples, members)


def _members(data: bytes, name: str) -> dict[str, bytes]:
    """Unpack everything but debugging text, by name without the archive's own directory."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _refuse_oversized(archive.infolist(), name)
            infos = [info for info in archive.infolist() if not info.filename.endswith(".debug_pkl")]
            return {info.filename.partition("/")[2]: _unpacked(archive, info) for info in infos}
    except _ZIP_ERRORS as error:
        msg = f"{name} cannot be unpacked as a TorchScript archive: {error}"
        raise CheckpointRefused(msg) from error


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    with archive.open(info) as member:
        content = member.read(info.file_size + 1)
    if len(content) != info.file_size:
        msg = f"{info.filename!r} does not have the size that the archive says"
        raise ValueError(msg)
    return content


def _refuse_oversized(infos: list[zipfile.ZipInfo], name: str) -> None:
    names = [info.filename for info in infos]
    roots = {text.partition("/")[0] for text in names}
    code = sum(info.file_size for info in infos if "/code/" in info.filename)
    total = sum(info.file_size for info in infos)
    if len(names) > MEMBERS_CAP or len(set(names)) < len(names) or len(roots) != 1:
        msg = f"{name} has {len(names)} members in {len(roots)} directories, expected distinct ones in one"
        raise CheckpointRefused(msg)
    if code > CODE_CAP or total > TOTAL_CAP:
        msg = f"{name} unpacks to {total} bytes, {code} of them code, expected at most {TOTAL_CAP} and {CODE_CAP}"
        raise CheckpointRefused(msg)
    if any(info.compress_type not in _PLAIN for info in infos):
        msg = f"{name} is compressed in an unusual way, expected stored or deflated members"
        raise CheckpointRefused(msg)


def _tree(content: bytes, path: str, name: str) -> ast.Module:
    try:
        text = content.decode()
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if (reason := _objection(node)) is not None:
                msg = f"{name}: its code {reason} ({_place(node, text, path)}): {INSTEAD}"
                raise CheckpointRefused(msg)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        msg = f"{name}: the code of {path} cannot be read ({type(error).__name__})"
        raise CheckpointRefused(msg) from error
    return tree


def _place(node: ast.AST, text: str, path: str) -> str:
    """Say where in an archive's code something stands, and what the line is."""
    at = getattr(node, "lineno", 0)
    if not at:
        return path
    # Lines as the parser counts them, which breaks them at less than splitlines does.
    line = text.split("\n")[at - 1].strip()
    return f"line {at} of {path}: {line[:120]}"


def _is_tuple(node: ast.ClassDef) -> bool:
    return any(isinstance(base, ast.Name) and base.id == "NamedTuple" for base in node.bases)


def _functions(body: list[ast.stmt], owner: str) -> dict[str, ast.FunctionDef]:
    return {f"{owner}.{node.name}": node for node in body if isinstance(node, ast.FunctionDef)}


def _held(body: list[ast.stmt]) -> Iterator[str]:
    """Name what a class holds: ``weight : Tensor``, and ``__annotations__["0"] = ...`` for names that are none."""
    for node in body:
        match node:
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign(targets=[ast.Subscript(slice=ast.Constant(value=str(name)))]):
                yield name


def _objection(node: ast.AST) -> str | None:
    """Say what is wrong with a part of the code; None where it is arithmetic."""
    if not isinstance(node, _NODES):
        way = " (so does a for with a break or continue)" if isinstance(node, ast.While) else ""
        return f"has a {type(node).__name__.lower()}{way}, expected arithmetic on tensors alone"
    if isinstance(node, ast.FunctionDef) and node.name in _RUN_BY_LOADING:
        return f"has {node.name}, which runs as it is loaded (quantised layers have it)"
    if isinstance(node, ast.Attribute) and (path := dotted(node)) is not None:
        return _objection_to(path)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        known = _BUILTINS | {"NamedTuple"}
        if node.func.id not in known and not node.func.id.startswith("_"):
            return f"calls {node.func.id}, expected arithmetic on tensors alone"
    return None


def _objection_to(path: str) -> str | None:
    """Object to an operator that is not on the list; calls of the archive's own functions begin with ``__torch__``."""
    first, _, rest = path.partition(".")
    if path.startswith("__torch__.torch.classes"):
        return f"uses {path}, a class that comes from outside of it"
    operator = rest.removeprefix("prim.").removeprefix("aten.")
    if first not in ("torch", "ops") or operator in ("prim", "aten") or operator in ALLOWED:
        return None
    return f"calls {path}, which is not on the list of operators that only work out numbers"


def dotted(node: ast.expr) -> str | None:
    """Spell ``a.b.c``; None where it is not names alone, or begins with a local one."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in ("torch", "ops", "__torch__"):
        return None
    return ".".join((node.id, *reversed(parts)))
