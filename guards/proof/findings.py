"""Findings about rules: those that never speak, those that always do, and those that say the same as another."""

from collections.abc import Iterator
from itertools import chain, permutations

from guards.constraints import Constraint
from guards.proof.solving import Formula, Model, Solving
from guards.proof.symbols import z3
from guards.proof.verdict import Finding

# All questions about rules together may take as long as so many questions of the proof.
_SHARE = 5


class _Claims:
    """Claims that something holds in every state, and the states seen so far: most false claims fail in one of them."""

    def __init__(self, solving: Solving) -> None:
        self._solving = solving
        self._seen: list[Model] = []
        self._enough = solving.until(_SHARE)
        self.unanswered = 0

    def hold(self, claim: Formula) -> bool:
        """Whether a claim is known to hold everywhere."""
        if any(z3.is_false(model.eval(claim, model_completion=True)) for model in self._seen):
            return False
        reply = self._solving.ask(z3.Not(claim), min(self._enough, self._solving.until()))
        if reply.model is not None:
            self._seen.append(reply.model)
        self.unanswered += bool(reply.why)
        return reply.impossible


def findings(solving: Solving) -> Iterator[Finding]:
    """What is to be said of the rules, of whatever mode."""
    claims = _Claims(solving)
    left: list[tuple[Constraint, Formula]] = []
    for rule, true, forbids in solving.conditions():
        if claims.hold(z3.Not(true)):
            yield Finding("never", (rule.name,), f"the condition of {rule.name!r} is never true")
            continue
        if claims.hold(forbids):
            yield Finding("always", (rule.name,), f"{rule.name!r} forbids every action, whatever is observed")
            continue
        left.append((rule, forbids))
        if always := _always(solving, forbids, claims):
            named = ", ".join(map(repr, always))
            yield Finding("always", (rule.name,), f"{rule.name!r} forbids {named} whatever is observed")
    yield from _implications(left, claims)
    if claims.unanswered:
        text = f"{claims.unanswered} questions about single rules and pairs of rules had no answer in their time"
        yield Finding("undecided", (), text)


def _always(solving: Solving, forbids: Formula, claims: _Claims) -> list[str]:
    """The choices that a rule forbids in every state; of those that no constraint tells apart one is asked about."""
    symbols, names = solving.symbols, solving.schema.choices
    closed = [group for group in symbols.alike() if claims.hold(z3.Implies(symbols.chosen(group[0]), forbids))]
    return [names[choice] for choice in sorted(chain(*closed))]


def _implications(rules: list[tuple[Constraint, Formula]], claims: _Claims) -> Iterator[Finding]:
    """Which rules forbid only what another one forbids too."""
    implied = {
        (a.name, b.name) for (a, forbids), (b, too) in permutations(rules, 2) if claims.hold(z3.Implies(forbids, too))
    }
    names = [rule.name for rule, _ in rules]
    for a, b in permutations(names, 2):
        if (a, b) not in implied:
            continue
        if (b, a) not in implied:
            yield Finding("implies", (a, b), f"whatever {a!r} forbids, {b!r} forbids too")
        elif names.index(a) < names.index(b):
            yield Finding("same", (a, b), f"{a!r} and {b!r} forbid the same")
