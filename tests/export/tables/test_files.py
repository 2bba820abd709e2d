"""Files with a Q-table, read and exported as people have them: pickles, arrays of NumPy, and dicts in those."""

import collections
import functools
import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from export.__main__ import main
from export.errors import CheckpointRefused, ExportError, NeedsUnpickling, OptionInvalid
from export.meaning import Arrays
from export.sources import Asked, read
from export.spec import Discrete, Field, Fields
from export.spec.artefact import open_artefact
from export.tables import TableAsked
from tests.export.gadgets import Gadget

torch.set_num_threads(1)
VALUES = np.random.default_rng(0).normal(size=(3, 5, 4))
FLAT = VALUES.reshape(15, 4)
STATES = [(row, column) for row in range(3) for column in range(5)]
PLAIN = TableAsked()


class Agent:
    """An agent whose class nobody else has."""

    def __init__(self, table: object) -> None:
        self.epsilon = 0.1
        self.q_table = table


def npy(value: object) -> bytes:
    """What ``numpy.save`` writes of anything."""
    stream = io.BytesIO()
    np.save(stream, value, allow_pickle=True)  # type: ignore[arg-type]  # it takes anything
    return stream.getvalue()


def npz(**arrays: object) -> bytes:
    """What ``numpy.savez`` writes."""
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]  # it takes anything
    return stream.getvalue()


def one_axis() -> Mapping[int, list[float]]:
    """A dict from states to lists, the plainest form."""
    return {state: FLAT[state].tolist() for state in range(15)}


def course() -> Mapping[str, object]:
    """What the Q-learning unit of Hugging Face's deep RL course pickles."""
    return {
        "env_id": "FrozenLake-v1",
        "max_steps": 99,
        "n_training_episodes": 10000,
        "n_eval_episodes": 100,
        "eval_seed": [],
        "learning_rate": 0.7,
        "gamma": 0.95,
        "max_epsilon": 1.0,
        "min_epsilon": 0.05,
        "decay_rate": 0.0005,
        "qtable": FLAT,
    }


# What each file has for the state at place k, whose row is FLAT[k]; several axes where it says so.
ONE: Mapping[str, Callable[[], tuple[str, bytes]]] = {
    "dict to lists": lambda: ("q.pkl", pickle.dumps(one_axis())),
    "dict to arrays, old protocol": lambda: ("q.pkl", pickle.dumps(dict(enumerate(FLAT)), 0)),
    "dict, NumPy keys and numbers": lambda: ("q.pkl", pickle.dumps({np.int64(s): list(r) for s, r in enumerate(FLAT)})),
    "defaultdict": lambda: (
        "q.pickle",
        pickle.dumps(collections.defaultdict(functools.partial(np.zeros, 4), enumerate(FLAT))),
    ),
    "Hugging Face's course": lambda: ("q-learning.pkl", pickle.dumps(course())),
    "array": lambda: ("q.pkl", pickle.dumps(FLAT)),
    "nested lists": lambda: ("q.pkl", pickle.dumps(FLAT.tolist())),
    "values by action": lambda: ("q.pkl", pickle.dumps({s: dict(enumerate(r)) for s, r in enumerate(FLAT)})),
    "values by state and action": lambda: (
        "q.pkl",
        pickle.dumps({(s, a): FLAT[s, a] for a in range(4) for s in range(15)}),
    ),
    "keys as text": lambda: ("q.pkl", pickle.dumps({str(s): r.tolist() for s, r in enumerate(FLAT)})),
    "an agent": lambda: ("agent.pkl", pickle.dumps(Agent(FLAT))),
    "npy": lambda: ("q.npy", npy(FLAT)),
    "dict in a npy": lambda: ("q.npy", npy(one_axis())),
    "npz": lambda: ("q.npz", npz(q_table=FLAT, rewards=np.zeros(3))),
    "dict in a npz": lambda: ("q.npz", npz(Q=one_axis())),
}
SEVERAL: Mapping[str, Callable[[], tuple[str, bytes]]] = {
    "tuple keys": lambda: ("q.pkl", pickle.dumps({state: VALUES[state].tolist() for state in STATES})),
    "tuple keys with the action": lambda: (
        "q.pkl",
        pickle.dumps({(*state, a): VALUES[(*state, a)] for state in STATES[::-1] for a in range(4)}),
    ),
    "dicts in a dict": lambda: ("q.pkl", pickle.dumps({r: {c: VALUES[r, c] for c in range(5)} for r in range(3)})),
    "array of three axes": lambda: ("q.npy", npy(VALUES)),
    "pickled array of three axes": lambda: ("q.pkl", pickle.dumps({"Q": np.asfortranarray(VALUES)})),
    "npz of three axes": lambda: ("q.npz", npz(arr_0=VALUES)),
}


def asked(folder: Path, name: str, data: bytes, table: TableAsked = PLAIN, **more: object) -> Asked:
    """A file in a folder, asked for."""
    (folder / name).write_bytes(data)
    return Asked(folder / name, table=table, **more)  # type: ignore[arg-type]  # as each test says


def numbers(answer: Arrays) -> NDArray[np.float64]:
    """The values that were answered."""
    return answer["q_values"].astype(np.float64)


@pytest.mark.parametrize("name", ONE)
def test_a_table_of_one_axis_answers_its_rows(name: str, tmp_path: Path) -> None:
    """Without --trust, from every form in which people have one; a state that it does not have is NaN."""
    policy = read(asked(tmp_path, *ONE[name]()))

    answer = policy.answer({"obs": np.array([[14], [0], [7], [-1], [15]])})

    np.testing.assert_allclose(numbers(answer)[:3], FLAT[[14, 0, 7]], rtol=1e-6)
    assert np.isnan(numbers(answer)[3:]).all()
    assert answer["action"][:3].tolist() == FLAT[[14, 0, 7]].argmax(axis=1).tolist()
    assert policy.observation == Fields(fields=(Field(name="state", low=0, high=14),), dtype="int64")
    assert policy.remarks[0].startswith("table: 15 states x 4 actions")


@pytest.mark.parametrize("name", SEVERAL)
def test_a_table_of_several_axes_answers_by_their_numbers(name: str, tmp_path: Path) -> None:
    """Each axis is a number of its own, held to its own bounds: (0, 5) is no state, though (1, 0) is the next row."""
    policy = read(asked(tmp_path, *SEVERAL[name]()))

    answer = policy.answer({"obs": np.array([[2, 4], [0, 1], [1, 0], [0, 5], [-1, 0], [3, 0], [0, -1], [2**40, 0]])})

    np.testing.assert_allclose(numbers(answer)[:3], VALUES[[2, 0, 1], [4, 1, 0]], rtol=1e-6)
    assert np.isnan(numbers(answer)[3:]).all()
    assert policy.observation == Fields(
        fields=(Field(name="state_0", low=0, high=2), Field(name="state_1", low=0, high=4)), dtype="int64"
    )
    assert policy.remarks[0] == "table: 3 x 5 states x 4 actions"
    assert policy.native is not None
    inside = {"obs": np.array(STATES)}
    np.testing.assert_allclose(numbers(policy.native(inside)), FLAT, rtol=1e-12)


@pytest.mark.parametrize("name", ["dict to lists", "Hugging Face's course", "npz"])
def test_one_axis_may_be_told_to_be_several(name: str, tmp_path: Path) -> None:
    """``--table-axes`` cuts a state's number into its row and column, row-major."""
    policy = read(asked(tmp_path, *ONE[name](), TableAsked(axes=(3, 5))))

    np.testing.assert_allclose(numbers(policy.answer({"obs": np.array([[2, 3]])}))[0], VALUES[2, 3], rtol=1e-6)


@pytest.mark.parametrize("name", ["tuple keys", "defaultdict", "an agent"])
def test_a_pickled_table_goes_through_the_command(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every state is compared with the file's own values, and how the table was read is said."""
    file, data = {**SEVERAL, **ONE}[name]()
    (tmp_path / file).write_bytes(data)
    out = tmp_path / "lake-1.onnx"

    code = main([str(tmp_path / file), "-o", str(out), "--actions", "left,down,right,up"])

    said = capsys.readouterr().out
    assert code == 0
    assert said.startswith("table: ")
    assert "100 % the same action" in said
    manifest = open_artefact(out.read_bytes()).manifest
    assert manifest.parity.observations == 2015
    assert manifest.action == Discrete(names=("left", "down", "right", "up"))
    assert (manifest.family, manifest.head) == ("tabular", "q_values")


def test_actions_have_the_names_of_the_file(tmp_path: Path) -> None:
    """Also where states have them in other orders; names that cannot stand in an artefact are numbered."""
    table = {0: {"up": 1.0, "down": 2.0}, 1: {"down": 4.0, "up": 3.0}}
    spaced = {0: {"go up": 1.0, "go down": 2.0}, 1: {"go up": 1.0, "go down": 2.0}}

    policy = read(asked(tmp_path, "q.pkl", pickle.dumps(table)))

    assert policy.action == Discrete(names=("up", "down"))
    np.testing.assert_array_equal(numbers(policy.answer({"obs": np.array([[0], [1]])})), [[1, 2], [3, 4]])
    numbered = read(asked(tmp_path, "q.pkl", pickle.dumps(spaced)))
    assert numbered.action == Discrete(names=("action_0", "action_1"))
    assert numbered.remarks[0] == "table: 2 states x 2 actions (go up, go down)"


@pytest.mark.parametrize(("words", "code"), [("down,up", 2), ("up,down", 0), ("rise,fall", 0)])
def test_the_file_s_names_are_not_given_to_other_actions(
    words: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """--actions in another order than the file's own would call each action by another's name."""
    (tmp_path / "q.pkl").write_bytes(pickle.dumps({0: {"up": 1.0, "down": 2.0}, 1: {"up": 3.0, "down": 0.0}}))

    found = main([str(tmp_path / "q.pkl"), "-o", str(tmp_path / "q-1.onnx"), "--actions", words])

    assert found == code
    assert ("names in another order" in capsys.readouterr().err) == (code == 2)


def test_a_number_that_states_do_not_share_is_where_they_begin(tmp_path: Path) -> None:
    """Blackjack's states (sum, dealer's card, usable ace) begin at 4, 1 and False; what was never seen is said."""
    table = {
        (total, card, ace): [total / 10, 2.0 - card / 10 + ace]
        for total in range(4, 22)
        for card in range(1, 11)
        for ace in (True, False)
        if not ace or total > 11
    }

    policy = read(asked(tmp_path, "q.pkl", pickle.dumps(table), TableAsked(missing=0.0)))

    assert isinstance(policy.observation, Fields)
    assert [(field.low, field.high) for field in policy.observation.fields] == [(4, 21), (1, 10), (0, 1)]
    rows = numbers(policy.answer({"obs": np.array([[20, 10, 1], [4, 1, 0], [4, 1, 1], [3, 1, 0], [4, 0, 0]])}))
    np.testing.assert_allclose(rows[:3], [[2.0, 2.0], [0.4, 1.9], [0.0, 0.0]], rtol=1e-6)
    assert np.isnan(rows[3:]).all()
    assert policy.remarks[1].startswith("missing from the file: 80 of 360 states ((4, 1, 1), ")
    assert policy.remarks[1] in policy.inside


REFUSED: Mapping[str, tuple[str, Callable[[], bytes], TableAsked, type[ExportError], str]] = {
    "missing states": (
        *("q.pkl", lambda: pickle.dumps({0: [1.0, 2.0], 2: [3.0, 4.0]}), PLAIN, CheckpointRefused),
        r"q.pkl does not have 1 of 3 states \(1\)",
    ),
    "bins": ("q.pkl", lambda: pickle.dumps({0.5: [1.0, 2.0]}), PLAIN, CheckpointRefused, "number the bins"),
    "ragged rows": (
        *("q.pkl", lambda: pickle.dumps({0: [1.0, 2.0], 1: [1.0]}), PLAIN, CheckpointRefused),
        "q.pkl is ragged",
    ),
    "untrained": (
        "q.pkl",
        lambda: pickle.dumps({"qtable": np.zeros((4, 2))}),
        PLAIN,
        CheckpointRefused,
        "0 everywhere",
    ),
    "NaN": ("q.pkl", lambda: pickle.dumps(np.array([[1.0, np.nan]])), PLAIN, CheckpointRefused, "are NaN, infinite or"),
    "two tables": (
        *("q.pkl", lambda: pickle.dumps({"Q1": FLAT, "Q2": FLAT}), PLAIN, CheckpointRefused),
        "--table-key NAME",
    ),
    "no table in a npz": ("q.npz", lambda: npz(rewards=FLAT), PLAIN, CheckpointRefused, "none of these.*--table-key"),
    "two in a npz": (
        "q.npz",
        lambda: npz(Q=FLAT, q_table=FLAT),
        PLAIN,
        CheckpointRefused,
        "Q.npy, q_table.npy, expected",
    ),
    "objects in a npy": ("q.npy", lambda: npy(np.array([{}, {}])), PLAIN, CheckpointRefused, "q.npy holds objects"),
    "class of one's own": (
        *("q.pkl", lambda: pickle.dumps(Gadget(print, "run")), PLAIN, NeedsUnpickling),
        "is an object of builtins.print.*nothing was run. Say --trust",
    ),
    "no pickle": ("q.pkl", lambda: b"hello", PLAIN, NeedsUnpickling, "cannot be read as a pickle.*Say --trust"),
    "other axes": (
        "q.npy",
        lambda: npy(FLAT),
        TableAsked(axes=(4, 4)),
        OptionInvalid,
        "is 16 states, but q.npy has 15",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_table_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its reason, and only what is no data is sent to --trust; nothing in a file is run."""
    file, make, table, error, message = REFUSED[name]

    with pytest.raises(error, match=message) as refused:
        read(asked(tmp_path, file, make(), table))

    assert ("--trust" in str(refused.value)) == (error is NeedsUnpickling)
    assert capsys.readouterr().out == ""


def test_a_trusted_file_is_laid_out_the_same_way(tmp_path: Path) -> None:
    """What only unpickling makes is refused for what it lacks, and its states are where they belong."""
    whole = Gadget(dict, [(state, VALUES[state].tolist()) for state in STATES])
    partly = Gadget(dict, [(0, [1.0, 2.0]), (2, [3.0, 4.0])])

    policy = read(asked(tmp_path, "q.pkl", pickle.dumps(whole), trust=True))

    np.testing.assert_allclose(numbers(policy.answer({"obs": np.array([[2, 3]])}))[0], VALUES[2, 3], rtol=1e-6)
    with pytest.raises(CheckpointRefused, match=r"does not have 1 of 3 states \(1\)"):
        read(asked(tmp_path, "q.pkl", pickle.dumps(partly), trust=True))


def test_a_guess_is_said(tmp_path: Path) -> None:
    """Whoever gave the best action of each field of a grid reads what became of it."""
    policy = read(asked(tmp_path, "q.pkl", pickle.dumps({(x, y): (x + y) % 4 for x in range(5) for y in range(4)})))

    assert policy.remarks == (
        "table: 5 states x 4 actions",
        "the last number of each key is taken for the action: are these no values of states?",
    )


@pytest.mark.parametrize("tables", [(FLAT, 1 - FLAT), [FLAT, 1 - FLAT, FLAT], {"q": (VALUES, -VALUES), "alpha": 0.1}])
def test_several_tables_in_a_list_are_no_axis_of_states(tmp_path: Path, tables: object) -> None:
    """Double Q-learning saves two: one number more for a caller to send made one policy of them."""
    with pytest.raises(CheckpointRefused, match=r"a list of [23] arrays, each a table by itself"):
        read(asked(tmp_path, "q.pkl", pickle.dumps(tables)))


@pytest.mark.parametrize(
    ("file", "content", "beside"),
    [
        ("q.npz", lambda: npz(Q=FLAT, visits=FLAT), "visits"),
        ("q.npz", lambda: npz(states=np.array(STATES) * 2, q_values=FLAT), "states"),
        ("q.npz", lambda: npz(arr_0=FLAT, arr_1=FLAT, arr_2=np.zeros(3)), "arr_1, arr_2"),
        ("q.pkl", lambda: pickle.dumps({"q_table": FLAT, "states": STATES}), "states"),
    ],
)
def test_what_lies_beside_a_table_is_named(
    tmp_path: Path, file: str, content: Callable[[], bytes], beside: str
) -> None:
    """A second table, or the states that the rows are of, change what the table means: they are said."""
    policy = read(asked(tmp_path, file, content()))

    assert policy.remarks == ("table: 15 states x 4 actions", f"beside the table, and not used: {beside}")


def test_table_options_are_for_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A network has no axes of states."""
    (tmp_path / "net.pt").write_bytes(b"")

    code = main([str(tmp_path / "net.pt"), "-o", str(tmp_path / "n-1.onnx"), "--table-axes", "3,5"])

    assert code == 2
    assert "net.pt is read as a network, expected --table-axes" in capsys.readouterr().err
