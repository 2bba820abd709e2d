"""The supervisor: mistakes end it with a sentence, signals with a drain, deaths of its children with a new one."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from service import supervisor
from service.log.records import Decision
from service.supervisor import Child
from tests.system.controllers import CONTROLLERS, Controller, answers, journalled, load
from tests.system.serving import MINIMAL, ROOT, Client, Service, command_line, demo, eventually, running

REQUEST = {"session": "s", "observation": [0.9, 1, 3]}


def serve(config: Path, data: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """Run a service that should end by itself."""
    command = [sys.executable, "-m", "service", "serve", str(config), "--data", str(data), *options]
    environment = {key: value for key, value in os.environ.items() if key not in ("REDIS_URL", "ACTD_KEYRING")}
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def replaced(old: str, new: str) -> Callable[[Path], None]:
    """A mistake in the configuration."""

    def mistake(folder: Path) -> None:
        (folder / "policy.toml").write_text(MINIMAL.replace(old, new), "utf-8")

    return mistake


def damaged(folder: Path) -> None:
    """A single bit of the artefact is wrong."""
    path = folder / "demo-1.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def bad_keyring(folder: Path) -> None:
    """The data folder has a keyring that is none."""
    (folder / "data").mkdir()
    (folder / "data" / "keyring.json").write_text("{}", "utf-8")


def data_is_a_file(folder: Path) -> None:
    """Where the data should go there is a file."""
    (folder / "data").write_text("", "utf-8")


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no configuration": (lambda folder: (folder / "policy.toml").unlink(), "policy.toml: cannot be read"),
    "not TOML": (replaced('name = "test"', "name = ="), "policy.toml: is not TOML"),
    "an unknown setting": (replaced('name = "test"', 'nome = "test"\nname = "test"'), "nome: is not a setting"),
    "no baseline": (replaced('[baseline]\nkind = "constant"\naction = "hold"\n', ""), "baseline: is missing"),
    "a wrong value": (replaced("[baseline]", "[limits]\ndeadline_ms = -1\n[baseline]"), "limits.deadline_ms: was -1"),
    "no artefact": (lambda folder: (folder / "demo-1.onnx").unlink(), "demo-1.onnx cannot be read"),
    "a damaged artefact": (damaged, "digest"),
    "an unknown action": (replaced('"hold"', '"fly"'), "'fly'"),
    "a keyring that is none": (bad_keyring, "is not a keyring"),
    "data that is a file": (data_is_a_file, "data folder that can be written"),
}


def assert_drained(data: Path, controllers: list[Controller]) -> None:
    """Decided is answered, and answered is decided: one and the same set."""
    answered = {identity: action for controller in controllers for identity, action in controller.answered}
    journal = {one.id: one.action for one in journalled(data).values() if isinstance(one, Decision)}
    assert journal == answered
    assert [one for controller in controllers for one in controller.refused] == []


class TestMistakes:
    """What an operator did wrong is said at start."""

    @pytest.mark.parametrize(("mistake", "said"), MISTAKES.values(), ids=MISTAKES.keys())
    def test_a_mistake_is_one_sentence_and_status_2(
        self, tmp_path: Path, mistake: Callable[[Path], object], said: str
    ) -> None:
        """Nothing is served; one line says the thing, what it was and what was expected, and no traceback."""
        config = demo(tmp_path)
        mistake(tmp_path)

        done = serve(config, tmp_path / "data", "--port", "0")

        assert done.returncode == 2, done.stderr
        # What both children stumble over, both may say.
        assert {line.partition(": ")[0] for line in done.stderr.splitlines()} <= {"actd", "actd agent"}
        (sentence,) = {line.partition(": ")[2] for line in done.stderr.splitlines()}
        assert said in sentence
        assert "serving" not in done.stdout

    def test_a_taken_port_is_a_sentence(self, tmp_path: Path) -> None:
        """Where somebody else listens already, the address is named and the status is 2."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]

            done = serve(demo(tmp_path), tmp_path / "data", "--port", str(port))

        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"actd: 127.0.0.1:{port}: Address already in use")
        assert line.endswith(", expected a free address and a data folder that can be written")

    @pytest.mark.parametrize("port", ["-1", "65536", "http"])
    def test_a_port_that_is_none_is_refused(self, tmp_path: Path, port: str) -> None:
        """A port has to be a number from 0 to 65535."""
        done = serve(demo(tmp_path), tmp_path / "data", "--port", port)

        assert done.returncode == 2
        assert "--port" in done.stderr
        assert "Traceback" not in done.stderr


class TestSignals:
    """It ends when it is told to, and loses nothing by it."""

    def test_sigterm_under_load_drains(self, tmp_path: Path) -> None:
        """Whatever was decided was answered and is in the journal; what was not answered was never decided.

        A connection loses two requests at most: one that crosses its closing, and one that waits for a next process.
        """
        with Service(demo(tmp_path), tmp_path / "data") as service, load(service.port) as controllers:
            eventually(lambda: answers(controllers) > 500)
            status = service.stop()

        assert status == 0
        assert_drained(service.data, controllers)
        assert max(controller.broken for controller in controllers) <= 2

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
    def test_a_signal_ends_everything(self, tmp_path: Path, number: signal.Signals) -> None:
        """Each of the signals that mean the end gives status 0, no child left, and no word of complaint."""
        with Service(demo(tmp_path), tmp_path / "data") as service:
            eventually(lambda: len(service.children()) == 2)
            children = service.children()
            service.process.send_signal(number)
            status = service.wait()

        assert status == 0
        assert not any(map(running, children))
        assert "Traceback" not in service.output()
        assert "starting it again" not in service.output()

    def test_ctrl_c_ends_everything_without_a_traceback(self, tmp_path: Path) -> None:
        """A terminal sends SIGINT to the whole group: all of it ends, and nobody has to read a traceback."""
        with Service(demo(tmp_path), tmp_path / "data") as service:
            eventually(lambda: len(service.children()) == 2)
            children = service.children()
            os.killpg(service.process.pid, signal.SIGINT)
            status = service.wait()

        assert status == 0
        assert not any(map(running, children))
        assert "Traceback" not in service.output()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    @pytest.mark.parametrize("child", ["service.preparation", "plane", "service.agent"])
    def test_a_signal_in_the_middle_of_the_start_ends_everything(
        self, tmp_path: Path, child: str, number: signal.Signals
    ) -> None:
        """A signal in the moment in which each child is there: nothing hangs, nothing is left, nothing is raised."""
        service = Service(demo(tmp_path), tmp_path / "data")
        service.spawn()
        try:
            eventually(lambda: any(child in command_line(one) for one in service.children()))
            children = service.children()
            service.process.send_signal(number)
            status = service.wait()
        finally:
            if service.process.poll() is None:
                service.process.kill()
                service.process.wait()

        assert status == 0
        eventually(lambda: not any(map(running, children)))
        assert "Traceback" not in service.output()

    def test_a_signal_while_a_child_is_to_be_started_again_ends_everything(self, tmp_path: Path) -> None:
        """SIGTERM right after the data plane has died: nothing hangs and nothing is left."""
        with Service(demo(tmp_path), tmp_path / "data") as service:
            plane = service.plane()
            service.kill_plane(plane)
            eventually(lambda: not running(plane.pid))
            status = service.stop()

        assert status == 0

    def test_killing_it_ends_its_children(self, tmp_path: Path) -> None:
        """After SIGKILL of the supervisor data plane and agent end by themselves, and their port is free again."""
        config = demo(tmp_path)
        with Service(config, tmp_path / "data") as service:
            eventually(lambda: len(service.children()) == 2)
            children = service.children()
            words = sorted(command_line(child)[2] for child in children)
            with Client(service.port) as client:
                assert client.post("/act", REQUEST)[0] == 200
                service.process.kill()
                service.process.wait()
                eventually(lambda: not any(map(running, children)))
        port = service.planes()[-1].port

        assert words == ["service", "service.agent"]
        with Service(config, tmp_path / "data", port=port) as again, Client(again.planes()[-1].port) as client:
            assert client.post("/act", REQUEST)[0] == 200


class TestRestart:
    """A child that dies is started again."""

    def test_a_new_data_plane_keeps_the_port(self, tmp_path: Path) -> None:
        """After kill -9 another process serves at the same address, and a request sent meanwhile waits for it."""
        with Service(demo(tmp_path), tmp_path / "data") as service:
            first = service.plane()
            service.kill_plane(first)
            eventually(lambda: not running(first.pid))
            with Client(first.port, timeout_s=60) as client:
                status, told = client.post("/act", REQUEST)
            second = service.plane(2)

        assert (status, told["action_name"]) == (200, "scale_up")
        assert second.port == first.port
        assert second.pid != first.pid
        assert second.writer != first.writer
        assert "actd: the data plane ended with status -9, starting it again in" in service.output()

    def test_a_data_plane_that_is_told_to_stop_drains_and_is_replaced(self, tmp_path: Path) -> None:
        """SIGTERM of the data plane alone: every decision is answered, and a connection loses at most one request."""
        with Service(demo(tmp_path), tmp_path / "data") as service:
            with load(service.port) as controllers:
                eventually(lambda: answers(controllers) > 500)
                os.kill(service.plane().pid, signal.SIGTERM)
                service.plane(2)
                before = answers(controllers)
                eventually(lambda: answers(controllers) > before + 500)
            status = service.stop()

        assert status == 0
        assert_drained(service.data, controllers)
        assert max(controller.broken for controller in controllers) <= 1
        assert [controller.gone for controller in controllers] == [0] * CONTROLLERS

    def test_a_new_agent_disturbs_nobody(self, tmp_path: Path) -> None:
        """After kill -9 of the agent there is another, and the data plane has answered all the time."""
        with Service(demo(tmp_path), tmp_path / "data") as service, load(service.port) as controllers:
            plane = service.plane()

            def agents() -> list[int]:
                return [child for child in service.children() if command_line(child)[1:3] == ["-m", "service.agent"]]

            eventually(lambda: len(agents()) == 1)
            (agent,) = agents()
            os.kill(agent, signal.SIGKILL)
            eventually(lambda: len(agents()) == 1 and agents() != [agent])
            before = answers(controllers)
            eventually(lambda: answers(controllers) > before + 100)
            after = service.plane()

        assert after == plane
        assert "actd: the agent ended with status -9, starting it again in" in service.output()
        assert [controller.broken for controller in controllers] == [0] * CONTROLLERS


async def until(holds: Callable[[], bool]) -> None:
    """Let the loop go on until a condition holds; the caller sets the deadline."""
    while not holds():  # noqa: ASYNC110 - a process gives no event
        await asyncio.sleep(0.01)


class TestChild:
    """One process that is kept running."""

    @pytest.mark.parametrize("status", [2, 3])
    async def test_what_starting_again_cannot_cure_is_not_started_again(self, status: int) -> None:
        """A child that ends with a status for misconfiguration is left alone."""
        child = Child("child", [sys.executable, "-c", f"raise SystemExit({status})"])

        assert await child.keep() == status
        assert child.failures == 0

    async def test_a_refusal_may_take_its_time(self, capsys: pytest.CaptureFixture[str]) -> None:
        """However long a child took to find out that it cannot begin, it is not started again."""
        late = [sys.executable, "-c", "import time; time.sleep(0.5); raise SystemExit(2)"]

        assert await Child("agent", late).keep() == 2
        assert capsys.readouterr().err == ""

    async def test_what_has_begun_is_started_again_whatever_it_ends_with(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A child that has said that it has begun is started again even after a fatal status, and at once."""
        script = "import os, sys\nos.write(int(sys.argv[sys.argv.index('--began') + 1]), b'x')\nraise SystemExit(2)\n"
        child = Child("agent", [sys.executable, "-c", script])
        keeping = asyncio.create_task(child.keep())
        async with asyncio.timeout(20):
            await until(lambda: child.failures > 1)
        await child.stop()
        await keeping

        assert "actd: the agent ended with status 2, starting it again in 0.1 s" in capsys.readouterr().err

    async def test_a_held_child_waits_for_a_word(self) -> None:
        """It hears nothing until it is released, and each one that is started after that hears it at once."""
        script = "import os, sys; raise SystemExit(2 if os.read(0, 64) else 7)"
        child = Child("plane", [sys.executable, "-c", script], held=True)
        keeping = asyncio.create_task(child.keep())
        async with asyncio.timeout(10):
            await until(lambda: child.process is not None)
            assert not keeping.done()
            await child.release()

            assert await keeping == 2
        assert await Child("plane", [sys.executable, "-c", script]).keep() == 2

    async def test_other_ends_are_followed_by_a_new_start(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A child that ends otherwise, be it with 0, is started again, after longer rests each time."""
        script = (
            "import os, sys\n"
            "count = len(os.listdir(sys.argv[1]))\n"
            "open(os.path.join(sys.argv[1], str(count)), 'x').close()\n"
            "raise SystemExit([0, 1, 7, 2][count])\n"
        )
        child = Child("child", [sys.executable, "-c", script, str(tmp_path)])

        assert await child.keep() == 2
        assert capsys.readouterr().err.splitlines() == [
            "actd: the child ended with status 0, starting it again in 0.1 s",
            "actd: the child ended with status 1, starting it again in 0.2 s",
            "actd: the child ended with status 7, starting it again in 0.5 s",
        ]

    async def test_a_stop_before_it_is_started_leaves_nothing(self) -> None:
        """Told to stop in the very moment of its start, it does not go on."""
        child = Child("child", [sys.executable, "-c", "input()"])
        keeping = asyncio.create_task(child.keep())
        await asyncio.sleep(0)
        try:
            await child.stop()
            async with asyncio.timeout(10):
                await asyncio.shield(keeping)
        finally:
            if child.process is not None and child.process.returncode is None:
                child.process.kill()
            await keeping

        assert child.process is None or child.process.returncode is not None

    async def test_a_stop_while_it_rests_leaves_nothing(self) -> None:
        """Told to stop between two starts, it is not started again."""
        child = Child("child", [sys.executable, "-c", "raise SystemExit(1)"])
        keeping = asyncio.create_task(child.keep())
        async with asyncio.timeout(10):
            await until(lambda: child.failures > 0)
            process = child.process
            await child.stop()
            await keeping

        assert child.process is process

    async def test_one_that_does_not_stop_is_ended(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A child that ignores SIGTERM is ended after a while, and that is said."""
        monkeypatch.setattr(supervisor, "_PATIENCE_S", 0.2)
        reading, writing = os.pipe()
        script = f"import os, signal; signal.signal(15, signal.SIG_IGN); os.write({writing}, b'x'); input()"
        child = Child("child", [sys.executable, "-c", script], (writing,))
        keeping = asyncio.create_task(child.keep())
        try:
            await asyncio.to_thread(os.read, reading, 1)
            await child.stop()
            status = await keeping
        finally:
            os.close(reading)
            os.close(writing)

        assert status == -signal.SIGKILL
        assert capsys.readouterr().err == "actd: the child did not stop within 0.2 s and was ended\n"

    async def test_a_child_sees_the_end_of_its_supervisor(self) -> None:
        """Its standard input stays open as long as the supervisor lives; after the word nothing comes through it."""
        child = Child(
            "child", [sys.executable, "-c", "import sys; raise SystemExit(2 if sys.stdin.read() == 'go' else 3)"]
        )
        keeping = asyncio.create_task(child.keep())
        async with asyncio.timeout(10):
            await until(lambda: child.process is not None)
            process = child.process
            assert process is not None
            assert process.stdin is not None
            assert process.returncode is None
            process.stdin.close()

            assert await keeping == 2

    def test_a_listening_socket_is_one_that_somebody_can_connect_to(self) -> None:
        """Also of IPv6, and a taken address raises OSError."""
        with closing(supervisor.listen("127.0.0.1", 0)) as listening:
            address = listening.getsockname()
            socket.create_connection(address, 5).close()

            with pytest.raises(OSError, match="Address already in use"):
                supervisor.listen(*address)


class TestLean:
    """It is there as long as the service is, and takes little."""

    def test_it_imports_the_standard_library_alone(self) -> None:
        """And of the service its own modules: what it needs of the others is done by a process that ends."""
        script = (
            "import sys; before = set(sys.modules); import service.__main__; print(*sorted(set(sys.modules) - before))"
        )

        told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

        found = told.stdout.split()
        ours = {name for name in found if name.partition(".")[0] == "service"}
        others = {name.partition(".")[0] for name in found} - {"service"}
        assert ours == {f"service{name}" for name in ("", ".__main__", ".hold", ".processes", ".supervisor")}
        assert others <= sys.stdlib_module_names
        assert "asyncio" in others

    def test_a_running_one_has_loaded_nothing_else(self, tmp_path: Path) -> None:
        """No extension module of a library, and at most 40 MB; it holds the folder that was made its own."""
        with Service(demo(tmp_path), tmp_path / "data") as service:
            process = Path(f"/proc/{service.process.pid}")
            mapped = (process / "maps").read_text()
            resident = next(line for line in (process / "status").read_text().splitlines() if line.startswith("VmRSS"))
            held = {str(path.readlink()) for path in (process / "fd").iterdir()}
            owner = json.loads((tmp_path / "data" / "owner").read_text("utf-8"))

        assert [line for line in mapped.splitlines() if "-packages" in line] == []
        assert int(resident.split()[1]) < 40_000
        assert str(tmp_path / "data" / "owner") in held
        assert owner["process"] == service.process.pid

    def test_the_data_plane_looks_for_garbage_once_it_runs(self) -> None:
        """It does not while it imports; what its cycles are made of would never be given back."""
        script = (
            "import gc; from service import __main__, server;"
            "server.run = lambda *_, **__: print(gc.isenabled());"
            "__main__.main(['plane', 'policy.toml', '--data', 'data', '--descriptor', '0'])"
        )

        told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

        assert told.stdout == "True\n"
