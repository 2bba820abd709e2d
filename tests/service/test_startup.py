"""Loading: a trusted policy that the baseline is has been checked like the policy, and fits to be run in its place."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

import service.startup
from export.spec import Field, Fields
from export.spec.signature import key_pair, sign
from guards.baselines import Policy
from guards.records import Schema
from service.application import assemble
from service.config import Config, ConfigInvalid
from service.log.records import Writer
from service.startup import advising, load_baseline
from service.versions.engine import load_version
from tests import acting, artefacts, ports
from tests.fakes import context_of
from tests.in_process import SEEN, Serving, serving

PATIENT = {"deadline_ms": 20_000}
LATE: dict[str, Any] = {"deadline_ms": 1e-6}
MASKS: list[dict[str, Any]] = [{}, {"allowed": ["scale_down", "hold"]}]
# Where the demo holds, this one scales up, and the other way round.
OLDER = artefacts.linear(
    -artefacts.WEIGHTS, -artefacts.BIAS, observation=artefacts.FIELDS, actions=artefacts.ACTIONS, version="0"
)


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    """The threads on which slow models run."""
    with ThreadPoolExecutor(2) as pool:
        yield pool


def trusting(folder: Path, older: bytes, last_resort: Any = None) -> dict[str, Any]:
    """Settings in which an older artefact is the baseline."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "older.onnx"
    path.write_bytes(older)
    last = {} if last_resort is None else {"last_resort": last_resort}
    return {"baseline": {"kind": "policy", "path": str(path), **last}, "limits": PATIENT}


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Serving]:
    """The demo with an older one as its baseline."""
    with serving(tmp_path, **trusting(tmp_path, OLDER)) as served:
        yield served


async def test_the_older_policy_answers_where_the_policy_cannot(served: Serving) -> None:
    """With what it thinks best, through the guard, and with a known probability."""
    replies = [(await served.act(**how)).json() for how in ({}, LATE, {**LATE, "allowed": ["hold", "scale_up"]})]

    assert [(r["source"], r["action_name"], r.get("reason")) for r in replies] == [
        ("policy", "hold", None),
        ("baseline", "scale_up", "DeadlineExceeded"),
        ("baseline", "scale_up", "DeadlineExceeded"),
    ]
    assert [record.propensity for record in served.decisions()] == [1.0] * 3


async def test_it_is_said_which_version_that_is(served: Serving) -> None:
    """In the writer's first record, by the digest of its file; to people without a path of this machine."""
    writer, trusted = served.records()[0], served.application.trusted
    assert isinstance(writer, Writer)
    assert trusted is not None
    told, report = (await served.get("/policy")).json(), (await served.get("/report")).json()

    assert trusted.digest != served.application.engine.digest
    assert writer.versions == {"demo-1": served.application.engine.digest, "demo-0": trusted.digest}
    assert report["baseline"] == {"kind": "policy", "version": "demo-0", "digest": trusted.digest}
    assert told["baseline"] == {"kind": "policy", "last_resort": None, "version": "demo-0", "digest": trusted.digest}


async def test_another_baseline_has_no_version(tmp_path: Path) -> None:
    """Its kind is all that there is to say beside its settings."""
    with serving(tmp_path) as served:
        report, writer = (await served.get("/report")).json(), served.records()[0]

    assert report["baseline"] == {"kind": "constant"}
    assert isinstance(writer, Writer)
    assert list(writer.versions) == ["demo-1"]


def test_its_path_is_from_the_configuration_s_folder_and_bears_on_nothing(tmp_path: Path) -> None:
    """The file is named by its digest in the log, wherever it lies."""
    digests = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "demo-1.onnx").write_bytes(artefacts.demo())
        (folder / "older.onnx").write_bytes(OLDER)
        text = 'name = "demo"\npolicy = "demo-1.onnx"\n[baseline]\nkind = "policy"\npath = "older.onnx"\n'
        (folder / "policy.toml").write_text(text)
        config = Config.read(folder / "policy.toml")
        digests.append(config.digest)
        application = assemble(config, folder / "data")
        application.engine.pool.shutdown(wait=False, cancel_futures=True)
        application.journal.close()
        assert isinstance(config.baseline, Policy)
        assert config.baseline.path == str(folder / "older.onnx")
        assert application.trusted is not None
        assert "older" not in config.text()

    assert digests[0] == digests[1]


ODD = artefacts.not_a_number(artefacts.WEIGHTS, observation=artefacts.FIELDS, actions=artefacts.ACTIONS, version="0")


@pytest.mark.parametrize("older", [ODD, ports.failing(version="0")], ids=["no number", "cannot be run"])
@pytest.mark.parametrize("last_resort", ["hold", None])
async def test_what_it_cannot_say_is_no_proposal(tmp_path: Path, older: bytes, last_resort: str | None) -> None:
    """The last resort leaves for that row alone, else 503; the other rows of the batch have their proposal."""
    with serving(tmp_path, **trusting(tmp_path, older, last_resort)) as served:
        bad, good = {"cpu": -0.5, "queue": -1.0, "replicas": 1.0}, {"cpu": 0.9, "queue": 0.0, "replicas": 1.0}
        rows = [{"session": f"s{i}", "observation": seen, **LATE} for i, seen in enumerate([good, bad, good])]
        answers = (await served.post("/act/batch", {"requests": rows})).json()["decisions"]

    assert [answer.get("action_name") for answer in answers[::2]] == ["scale_up"] * 2
    if last_resort:
        assert (answers[1]["source"], answers[1]["action_name"]) == ("last_resort", "hold")
    else:
        assert answers[1]["error"]["code"] == "no_safe_action"


async def test_it_is_tried_beside_live_traffic(served: Serving) -> None:
    """As every rung is: from the first decision on."""
    await served.act()
    rungs = (await served.get("/ready")).json()["rungs"]

    assert rungs["baseline"]["last_success_s_ago"] is not None


async def test_it_reads_its_own_fields_by_name(tmp_path: Path) -> None:
    """Fewer than the service has, in another order."""
    fields = artefacts.FIELDS.fields
    space = artefacts.FIELDS.model_copy(update={"fields": (fields[1], fields[0])})
    weights = np.array([[0.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
    older = artefacts.linear(weights, observation=space, actions=artefacts.ACTIONS, version="0")
    with serving(tmp_path, **trusting(tmp_path, older)) as served:
        reply = (await served.act(observation={**SEEN, "cpu": 0.9}, **LATE)).json()

    assert (reply["source"], reply["action_name"]) == ("baseline", "scale_down")


async def test_the_request_s_mask_goes_into_one_that_reads_it(tmp_path: Path) -> None:
    """Beside it, where nobody gave one, everything is allowed."""
    with serving(tmp_path, **trusting(tmp_path, ports.masked(version="0"))) as served:
        replies = [(await served.act(observation=[0.9, 0.0, 1.0], **LATE, **more)).json() for more in MASKS]

    assert [reply["action_name"] for reply in replies] == ["scale_up", "hold"]


@pytest.mark.parametrize("squash", ["none", "tanh"])
def test_of_a_box_it_gives_the_means_in_executed_units(pool: ThreadPoolExecutor, squash: Any) -> None:
    """Whatever its std is."""
    engine = load_version(acting.gaussian(acting.BOUNDED, squash=squash), None, pool)
    seen = np.array([[0.75, 0.5, 1.0], [-9.0, 0.0, 1.0]])
    means = np.array([*map(advising(engine), context_of(seen.tolist()).each)])

    mean = seen[:, :1] - seen[:, 1:2]
    low, high = np.array([-2, 0]), np.array([2, 10])
    plain = np.clip(mean, low, high)
    assert np.allclose(means, plain if squash == "none" else low + (np.tanh(mean) + 1) / 2 * (high - low), atol=1e-6)


def test_of_a_box_nothing_is_made_of_what_is_no_number(pool: ThreadPoolExecutor) -> None:
    """A mean without end is not the bound."""
    engine = load_version(acting.gaussian(acting.BOUNDED), None, pool)
    means = [*map(advising(engine), context_of([[3e38, -3e38, 1.0], [0.5, 0.5, 1.0]]).each)]

    assert np.isnan(means[0]).all()
    assert np.isfinite(means[1]).all()


def test_a_row_is_run_alone(pool: ThreadPoolExecutor) -> None:
    """To the last bit, so that it can be worked out again from a record."""
    weights = np.random.default_rng(1).normal(size=(37, 8))
    engine = load_version(artefacts.linear(weights), None, pool)
    observation = np.random.default_rng(2).normal(size=(33, 37))
    advise = advising(engine)

    for row, seen in zip(context_of(observation.tolist()).each, observation, strict=True):
        alone = engine.run(engine.inputs(seen[None]), None).head[0]
        assert advise(row).tolist() == alone.tolist()


def refusal(folder: Path, older: bytes, **settings: Any) -> str:
    """Why a service does not start with it as a baseline."""
    with pytest.raises(ConfigInvalid) as error, serving(folder, **trusting(folder, older), **settings):
        pass
    assert not (folder / "data" / "journal").exists()
    return str(error.value)


@pytest.mark.parametrize(
    ("older", "problem"),
    [
        (b"", "the artefact is refused: "),
        (OLDER[:-1] + b"!", "the artefact is refused: "),
        (ports.recurrent(version="0"), "demo-0 has a memory, which nobody keeps while the policy decides, expected"),
        (
            artefacts.linear(artefacts.WEIGHTS, observation=artefacts.FIELDS, actions=["a", "b", "c"]),
            "demo-1: its actions are ['a', 'b', 'c'], expected ['scale_down', 'hold', 'scale_up']",
        ),
        (
            artefacts.linear(artefacts.WEIGHTS, actions=artefacts.ACTIONS),
            "demo-1: it reads the fields ['x0', 'x1', 'x2'], which the service does not have: ['cpu', 'queue', ",
        ),
        (ports.masked(), "demo-1 is called like the policy and is another file, expected a name and version of its"),
        (
            artefacts.looping(artefacts.WEIGHTS, observation=artefacts.FIELDS, actions=artefacts.ACTIONS, version="0"),
            "demo-0 has a loop, so nobody knows how long it takes, expected a policy that can be run at once",
        ),
    ],
    ids=["empty", "altered", "recurrent", "other actions", "other fields", "same name", "loop"],
)
def test_what_does_not_fit_is_refused_at_start(tmp_path: Path, older: bytes, problem: str) -> None:
    """With the setting, and what was expected, before anything is written."""
    told = refusal(tmp_path, older)

    assert told.startswith(f"baseline.path: {problem}")


def reading(dtype: Any = "float32", **cpu: Any) -> bytes:
    """An older artefact that reads the fields in this dtype, and declares this of the first."""
    first = Field.model_validate({"name": "cpu", "unit": "1", "low": 0, "high": 1} | cpu)
    fields = Fields(fields=(first, *artefacts.FIELDS.fields[1:]), dtype=dtype)
    nodes = [
        helper.make_node("Cast", ["obs"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["numbers", "weights"], ["q_values"]),
    ]
    weights = {"weights": artefacts.WEIGHTS.astype(np.float32)}
    return artefacts.built(nodes, weights, fields, artefacts.ACTIONS, version="0")


@pytest.mark.parametrize(
    ("older", "problem"),
    [
        (reading("int64"), "as int64, expected float32, as it is observed"),
        (reading("uint8"), "as uint8, expected float32, as it is observed"),
        (reading(unit="%"), "in the unit '%', expected '1'"),
        (reading(unit=""), "in the unit '', expected '1'"),
        (reading(low=2, high=None), "from 2 to inf, expected some of 0 to 1"),
        (reading(low=None, high=-0.5), "from -inf to -0.5, expected some of 0 to 1"),
    ],
    ids=["integers", "bytes", "unit", "no unit", "above", "below"],
)
def test_a_field_that_means_another_number_is_refused(tmp_path: Path, older: bytes, problem: str) -> None:
    """Though it is called alike: 0.95 would be 0 as an integer, and next to nothing in per cent."""
    assert refusal(tmp_path, older) == f"baseline.path: demo-0 reads the field 'cpu' {problem}"


@pytest.mark.parametrize(
    "older",
    [reading("float64"), reading(low=None, high=None), reading(low=1, high=2), reading(low=0.2, high=0.8)],
    ids=["precision", "unbounded", "an edge", "within"],
)
async def test_a_field_that_means_the_same_number_fits(tmp_path: Path, older: bytes) -> None:
    """In another precision, or seen in another range, it was trained on the same quantity."""
    with serving(tmp_path, **trusting(tmp_path, older)) as served:
        reply = (await served.act(observation={**SEEN, "cpu": 0.95}, **LATE)).json()

    assert (reply["source"], reply["action_name"]) == ("baseline", "scale_up")


def test_one_that_reads_less_precisely_fits(tmp_path: Path) -> None:
    """What is observed as float64 may be read as float32."""
    with serving(tmp_path, reading("float64"), **trusting(tmp_path, artefacts.demo())) as served:
        assert served.application.trusted is not None


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """By its path."""
    told = trusting(tmp_path, b"")
    (tmp_path / "older.onnx").unlink()
    with pytest.raises(ConfigInvalid, match=r"^baseline\.path: .*older\.onnx cannot be read .No such file"):
        serving(tmp_path, **told).__enter__()


def test_one_that_is_too_slow_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is run while everybody else waits."""
    monkeypatch.setattr(service.startup, "INLINE_BUDGET_S", 1e-7)

    assert "demo-0 takes 0." in (told := refusal(tmp_path, OLDER))
    assert told.endswith(
        "ms for 16 rows here, expected at most 0.0001 ms, because it is run at once, one row after another"
    )


def test_a_golden_row_that_does_not_come_out_refuses_it(tmp_path: Path) -> None:
    """It is verified as the policy is."""
    told = refusal(tmp_path, ports.recurrent(version="0", wrong="q_values"))

    assert told.startswith("baseline.path: demo-0: its golden rows give other outputs than the file says")


def test_where_signatures_are_required_it_needs_one_too(tmp_path: Path) -> None:
    """By one of the same keys."""
    private, public = key_pair(bytes(range(32)))
    told = trusting(tmp_path, OLDER)
    (tmp_path / "release.pub").write_bytes(public)
    required = {"keys": [str(tmp_path / "release.pub")]}
    (tmp_path / "demo-1.onnx.sig").write_bytes(sign(artefacts.demo(), private))

    assert "baseline.path: the artefact is refused: it is not signed" in refusal(
        tmp_path, OLDER, require_signature=required
    )
    (tmp_path / "older.onnx.sig").write_bytes(sign(OLDER, private))
    with serving(tmp_path, **told, require_signature=required) as served:
        assert served.application.trusted is not None


def test_other_baselines_load_nothing(tmp_path: Path) -> None:
    """There is nothing to run."""
    with serving(tmp_path) as served:
        application = served.application

        assert load_baseline(application.config, Schema.of(application.engine.manifest), application.engine) is None
        assert application.trusted is None
