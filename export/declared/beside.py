"""What lies beside a declared network in its checkpoint: named, and refused where a normaliser would vanish with it."""

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from export.declaration import Declaration, Heads, Normalise
from export.declared.leaves import below, shown
from export.declared.likeness import DEVIATION, MEAN, VARIANCE, statistics_among, stem, words
from export.errors import CheckpointRefused, DeclarationInvalid

_MOST_NAMED = 12
# What is kept of what only a critic sees, or of its own values: never the first guess at the policy's normaliser.
_CRITICS = frozenset("critic value values privileged target".split())
_KINDS: Mapping[str, Set[str]] = {"mean": MEAN, "var": VARIANCE, "std": DEVIATION}


@dataclass(frozen=True, slots=True)
class Layout:
    """The names that a library's normaliser keeps its numbers under, and how it normalises where nothing was said."""

    library: str
    names: frozenset[str]
    width: str
    epsilon: float
    epsilon_with: str
    clip: float | None


# rsl_rl: EmpiricalNormalization. skrl: RunningStandardScaler. rl_games: RunningMeanStd. Each with its own defaults.
LAYOUTS = (
    Layout("rsl_rl", frozenset(("_mean", "_var", "_std", "count")), "std", 0.01, "std", None),
    Layout("skrl", frozenset(("running_mean", "running_variance", "current_count")), "var", 1e-8, "std", 5.0),
    Layout("rl_games", frozenset(("running_mean", "running_var", "count")), "var", 1e-5, "var", 5.0),
)


@dataclass(frozen=True, slots=True)
class Named:
    """The numbers that a declaration names in its file, by their whole dotted names."""

    names: frozenset[str]

    @classmethod
    def of(cls, declaration: Declaration, key: str) -> "Named":
        """Gather the names; those without a place of their own lie below the network's ``key``."""
        return cls(frozenset(name for said in _normalisers(declaration) for name in names_in(said, key)))

    def has(self, name: str) -> bool:
        """Say whether a number is used, or belongs to a normaliser of which others are (its count, or its variance)."""
        return name in self.names or stem(name) in {stem(used) for used in self.names}


def _normalisers(declaration: Declaration) -> Iterator[Normalise]:
    for part in declaration.parts:
        if part.normalise is not None:
            yield part.normalise


def names_in(said: Normalise, key: str) -> tuple[str, ...]:
    """Give the whole dotted names of the numbers that one normaliser names in the file."""
    at = key if said.key is None else str(said.key)
    return tuple(_joined(at, name) for name in (said.mean, said.var, said.std) if isinstance(name, str))


def _joined(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def said_beside(
    leaves: Mapping[str, object], declaration: Declaration, key: str, ignored: Sequence[str], what: str
) -> tuple[str, ...]:
    """Name what lies beside ``key`` in a line for people; ``leaves`` are all of the file that is not the network's.

    ``ignored`` are the beginnings of dotted names that the declaration sets aside, ``what`` names the file in messages.
    Raises CheckpointRefused where something looks like statistics of observations that nobody uses or sets aside, and
    DeclarationInvalid where a name that is to be ignored is not there.
    """
    used = Named.of(declaration, key)
    for name in ignored:
        if not any(_within(leaf, name) for leaf in leaves):
            msg = f"network.ignore_beside has {name!r}, but nothing of that name lies beside the network in the file"
            raise DeclarationInvalid(msg)
    sizes = {part.space.size for part in declaration.parts}
    lost = [
        name
        for name in statistics_among(leaves, sizes)
        if not used.has(name) and not any(_within(name, begin) for begin in ignored)
    ]
    if lost:
        raise CheckpointRefused(_refusal(lost, leaves, declaration, key, what))
    if not leaves:
        return ()
    named: dict[str, str] = {}
    for name in leaves:
        top = _apart(name, key)
        use = " (used by normalise)" if used.has(name) else ""
        use = use or (" (ignored)" if any(_within(name, begin) for begin in ignored) else "")
        named[top] = named.get(top, "") or use
    listed = [f"{shown(name)}{use}" for name, use in named.items()]
    more = f", and {len(listed) - _MOST_NAMED} more" if len(listed) > _MOST_NAMED else ""
    return (f"beside {_place(key)}: {', '.join(listed[:_MOST_NAMED])}{more}",)


def said_ignored(
    tensors: Mapping[str, object], set_aside: Sequence[str], declaration: Declaration, key: str
) -> tuple[str, ...]:
    """Warn in a line where ``network.ignore`` set aside what looks like statistics of observations."""
    used = Named.of(declaration, key)
    sizes = {part.space.size for part in declaration.parts}
    found = statistics_among({name: tensors[name] for name in set_aside}, sizes)
    lost = [shown(name) for name in found if not used.has(_joined(key, name))]
    if not lost:
        return ()
    listed = ", ".join(lost[:4]) + (", ..." if len(lost) > 4 else "")
    line = f"warning: network.ignore sets aside what looks like statistics of observations ({listed}): "
    return (f"{line}nothing but recorded actions proves that the policy needs none",)


def said_otherwise(declaration: Declaration, key: str, leaves: Mapping[str, object]) -> tuple[str, ...]:
    """Warn in a line for each normaliser, and a std, that is said to be otherwise than the names it uses let expect."""
    std = declaration.network.std if isinstance(declaration.network, Heads) else None
    found = []
    if std is not None and std.of == "std" and "log" in (std.parameter + std.layer).lower():
        found.append(f"warning: network.std is {shown(std.parameter + std.layer)}, which by its name is a logarithm")
    for said in _normalisers(declaration):
        for what, name, others in (("var", said.var, DEVIATION), ("std", said.std, VARIANCE)):
            if isinstance(name, str) and not words(name) & _KINDS[what] and words(name.rpartition(".")[2]) & others:
                found.append(f"warning: normalise.{what} is {shown(name)}, which by its name is something else")
        names = names_in(said, key)
        layout = _layout(names[0], leaves) if names else None
        if layout is None:
            continue
        default = _way(layout.epsilon_with, layout.epsilon, layout.clip)
        declared = _way(said.epsilon_place, said.epsilon, said.clip)
        if default != declared:
            found.append(
                f"warning: {', '.join(shown(name) for name in names)} are names of {layout.library}'s normaliser, "
                f"which by default {default}; the declaration {declared}"
            )
    return tuple(found)


def _way(epsilon_with: str, epsilon: float, clip: float | None) -> str:
    divisor = f"sqrt(var + {epsilon:g})" if epsilon_with == "var" else f"std + {epsilon:g}"
    return f"divides by {divisor} and {'does not clip' if clip is None else f'clips at {clip:g}'}"


def _layout(name: str, leaves: Mapping[str, object]) -> Layout | None:
    """Find the library whose names stand beside a number."""
    parent = name.rpartition(".")[0]
    here = {leaf.rpartition(".")[2] for leaf in leaves if leaf.rpartition(".")[0] == parent}
    return next((layout for layout in LAYOUTS if layout.names <= here), None)


def _within(name: str, begin: str) -> bool:
    return name == begin or below(name, begin)


def _apart(name: str, key: str) -> str:
    """Cut a dotted name off where it leaves the path of the network's key."""
    parts, path = name.split("."), key.split(".")
    same = 0
    while same < min(len(parts) - 1, len(path)) and parts[same] == path[same]:
        same += 1
    return ".".join(parts[: same + 1])


def _place(key: str) -> str:
    return f"key = {_toml(key)}" if key else "the tensors"


def said_inside(tensors: Mapping[str, object], declaration: Declaration, key: str) -> str:
    """Say how tensors that are left over normalise, where they look like statistics; nothing where none do."""
    leaves = {_joined(key, name): tensor for name, tensor in tensors.items()}
    begins = [_joined(key, begin) for begin in getattr(declaration.network, "ignore", ())]
    sizes = {part.space.size for part in declaration.parts}
    found = [name for name in statistics_among(leaves, sizes) if not any(name.startswith(begin) for begin in begins)]
    groups = list(dict.fromkeys(_group(name, found, leaves) for name in found))
    lines = [line for group in _likely_first(groups) if (line := _normalise(group, found, leaves))]
    return f"; where observations were normalised with them, say {lines[0]}" if lines else ""


def _refusal(lost: Sequence[str], leaves: Mapping[str, object], declaration: Declaration, key: str, what: str) -> str:
    """Say what would vanish, and the line of the declaration that uses it or sets it aside."""
    groups = list(dict.fromkeys(_group(name, lost, leaves) for name in lost))
    listed = "; ".join(_with_names(group, lost) for group in groups[:4])
    ignore = f"ignore_beside = [{', '.join(_toml(group) for group in groups)}]"
    line = next((line for group in _likely_first(groups) if (line := _normalise(group, lost, leaves))), "")
    where = "the entry that has them" if declaration.observation.kind == "dict" else "the declaration"
    use = f"say {line} in {where}" if line else f"declare [normalise] with these numbers in {where}"
    return (
        f"{what} has, beside {_place(key)}, what looks like statistics that observations were normalised with: {listed}"
        f". A policy that was trained with them answers wrongly without: {use}, or, for those that are not of the "
        f"policy's observations, {ignore} under [network]"
    )


def _group(name: str, lost: Sequence[str], leaves: Mapping[str, object]) -> str:
    """Give the container that a number is ignored with: the smallest one, where all in it belongs together."""
    parent = name.rpartition(".")[0]
    alone = parent and all(leaf in lost or stem(leaf) == stem(name) for leaf in leaves if below(leaf, parent))
    return parent if alone else name


def _with_names(group: str, lost: Sequence[str]) -> str:
    inner = [shown(name[len(group) + 1 :]) for name in lost if below(name, group)]
    return f"{shown(group)} ({', '.join(inner[:4])})" if inner else shown(group)


def _likely_first(groups: Sequence[str]) -> list[str]:
    return sorted(groups, key=lambda group: bool(words(group) & _CRITICS))


def _normalise(group: str, lost: Sequence[str], leaves: Mapping[str, object]) -> str:
    """Write the line that normalises with the numbers of a group; nothing where no mean or no deviation is there."""
    first = next(name for name in lost if _within(name, group))
    alike = [name for name in leaves if stem(name) == stem(first)]
    layout = _layout(first, leaves)
    parts: dict[str, str] = {}
    for name in alike:
        last = name.rpartition(".")[2]
        kinds = [what for what, wanted in _KINDS.items() if words(last) & wanted]
        if len(kinds) == 1:
            parts.setdefault(kinds[0], last)
    width = layout.width if layout is not None else "var" if "var" in parts else "std"
    if "mean" not in parts or width not in parts:
        return ""
    said = [f"key = {_toml(first.rpartition('.')[0])}", f"mean = {_toml_text(parts['mean'])}"]
    said.append(f"{width} = {_toml_text(parts[width])}")
    if layout is not None:
        said.append(f"epsilon = {layout.epsilon:g}")
        said += ['epsilon_with = "std"'] if width == "var" and layout.epsilon_with == "std" else []
        said += [f"clip = {layout.clip:g}"] if layout.clip is not None else []
    return f"normalise = {{ {', '.join(said)} }}"


def _toml(name: str) -> str:
    return name if name.isdigit() and name.isascii() else _toml_text(name)


def _toml_text(name: str) -> str:
    return json.dumps(name)
