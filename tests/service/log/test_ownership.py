"""The data folder's owner: one at a time, of one name and one keyring, with files that only it can read."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from service.hold import FolderHold, FolderTaken, Owner, lock, owner_of
from service.log.ids import make_keyring
from service.log.ownership import make_folders, take, traces
from tests.redis_server import RedisServer
from tests.service.test_supervisor import REQUEST, serve
from tests.system.serving import MINIMAL, ROOT, Client, Service, command_line, demo, eventually, rows_of

ANOTHER = MINIMAL.replace('name = "test"', 'name = "other"')
# Longer than the time for which a refusal was once believed.
SLOW_S = 5.5


def served(config: Path, data: Path) -> str:
    """Serve a decision and end; the decision's id."""
    with Service(config, data) as service, Client(service.port) as client:
        status, told = client.post("/act", REQUEST)
        eventually(lambda: rows_of(data / "store.sqlite", "SELECT 1 FROM records WHERE kind = 'decision'") != [])
    assert status == 200
    return str(told["decision_id"])


def refusal(config: Path, data: Path, *options: str) -> str:
    """The one sentence with which a start ends."""
    done = serve(config, data, "--port", "0", *options)
    assert done.returncode in (2, 3), done.stderr
    assert "serving" not in done.stdout
    (sentence,) = done.stderr.splitlines()
    return sentence


def agent_by_hand(config: Path, data: Path) -> "subprocess.CompletedProcess[str]":
    """Start an agent on a folder, and wait until it is refused."""
    command = [sys.executable, "-m", "service.agent", "--config", str(config), "--data", str(data)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def take_away(path: Path) -> None:
    """A file, or a folder with all in it."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink()


class TestOwner:
    """A folder has one owner."""

    def test_a_second_service_is_refused_with_the_owners_name_and_process(self, tmp_path: Path) -> None:
        """Two services in one folder superseded each other's decisions; the first goes on undisturbed."""
        config = demo(tmp_path)
        with Service(config, tmp_path / "data") as service, Client(service.port) as client:
            said = refusal(config, tmp_path / "data")
            answered = client.post("/act", REQUEST)[0]

        assert answered == 200
        assert f"is the data folder of the running service 'test' (process {service.process.pid})" in said
        assert "give 'test' another by --data" in said

    def test_an_agent_beside_a_running_one_is_refused(self, tmp_path: Path) -> None:
        """By hand, on the folder of a service that runs: status 2 and who has it."""
        config = demo(tmp_path)
        with Service(config, tmp_path / "data") as service:
            eventually(lambda: len(service.children()) == 2)
            (agent,) = [one for one in service.children() if command_line(one)[2] == "service.agent"]
            done = agent_by_hand(config, tmp_path / "data")

        assert done.returncode == 2
        assert f"has an agent already, the running service 'test' (process {agent})" in done.stderr

    def test_a_folder_is_free_again_however_its_owner_ended(self, tmp_path: Path) -> None:
        """After ``kill -9`` of the supervisor the next one begins at once, and waits for the agent's last round."""
        config = demo(tmp_path)
        with Service(config, tmp_path / "data") as service:
            service.process.kill()
            service.process.wait()
        with Service(config, tmp_path / "data") as again, Client(again.port) as client:
            assert client.post("/act", REQUEST)[0] == 200

    @pytest.mark.parametrize("gone", [("owner",), ("owner", "state"), ("",)], ids=["owner", "and its state", "all"])
    def test_a_second_service_is_refused_though_the_locks_were_taken_away(
        self, tmp_path: Path, gone: tuple[str, ...]
    ) -> None:
        """Both would serve, and supersede each other's decisions: the files are made and held again."""
        config, data = demo(tmp_path), tmp_path / "data"
        with Service(config, data) as service:
            for name in gone:
                take_away(data / name)
            eventually(lambda: (data / "owner").exists() and (data / "state" / "agent").exists())
            said = refusal(config, data)
            beside = agent_by_hand(config, data)

        assert f"is the data folder of the running service 'test' (process {service.process.pid})" in said
        assert beside.returncode == 2
        assert "has an agent already" in beside.stderr

    def test_who_was_faster_is_named_once(self, tmp_path: Path) -> None:
        """Where somebody else holds the file that is there now, that is said, and the old one is kept."""
        path, first = tmp_path / "owner", Owner("first", "f", 1, 0.0)
        hold = FolderHold(path, lock(path, str), first)
        path.unlink()
        other = FolderHold(path, lock(path, str), Owner("other", "f", 2, 0.0))
        said = [hold.keep(), hold.keep()]
        other.close()
        again = [hold.keep(), hold.keep()]

        assert said == [
            f"{path} was taken away, and is held by the running service 'other' (process 2): end one of the two",
            "",
        ]
        assert again == ["", ""]
        assert owner_of(path) == first
        with pytest.raises(FolderTaken, match="first"):
            lock(path, str)
        hold.close()

    def test_a_file_that_cannot_be_made_is_said_once(self, tmp_path: Path) -> None:
        """Something is in its way, until it is not."""
        path = tmp_path / "owner"
        hold = FolderHold(path, lock(path, str), Owner("first", "f", 1, 0.0))
        path.unlink()
        path.mkdir()
        said = [hold.keep(), hold.keep()]
        path.rmdir()

        assert said == [f"{path} cannot be held (Is a directory): a second service would not be refused", ""]
        assert hold.keep() == ""
        assert owner_of(path) == Owner("first", "f", 1, 0.0)
        hold.close()

    def test_who_holds_a_folder_that_says_nothing_is_a_running_service(self, tmp_path: Path) -> None:
        """Between the lock and what is written into it there is a moment."""
        held = take(tmp_path, "one")
        with pytest.raises(FolderTaken, match="is the data folder of a running service"):
            take(tmp_path, "two")
        os.close(held)

        os.close(take(tmp_path, "two"))


class TestForeign:
    """A folder belongs to one service's name."""

    def test_another_services_folder_is_refused(self, tmp_path: Path) -> None:
        """Both names are in the sentence, and with the name put right it is served again."""
        served(demo(tmp_path), tmp_path / "data")

        said = refusal(demo(tmp_path, ANOTHER), tmp_path / "data")

        assert "is the data folder of the service 'test', and the configuration's name is 'other'" in said
        served(demo(tmp_path), tmp_path / "data")

    def test_it_is_known_by_its_owner_where_the_journal_is_gone(self, tmp_path: Path) -> None:
        """What was shipped long ago is deleted: the owner's file still has the name."""
        served(demo(tmp_path), tmp_path / "data")
        for path in sorted((tmp_path / "data" / "journal").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()

        assert "of the service 'test'" in refusal(demo(tmp_path, ANOTHER), tmp_path / "data")

    def test_another_services_journal_is_refused(self, tmp_path: Path) -> None:
        """A journal copied from elsewhere, without anything else, names its service too."""
        served(demo(tmp_path), tmp_path / "data")
        (tmp_path / "copy").mkdir()
        (tmp_path / "data" / "journal").rename(tmp_path / "copy" / "journal")
        (tmp_path / "data" / "keyring.json").rename(tmp_path / "copy" / "keyring.json")

        assert "of the service 'test'" in refusal(demo(tmp_path, ANOTHER), tmp_path / "copy")

    def test_a_name_that_is_changed_while_it_serves_is_refused(self, tmp_path: Path) -> None:
        """A data plane that was started again served under it, and nothing that it decided was ever shipped."""
        config, data = demo(tmp_path), tmp_path / "data"
        with Service(config, data) as service:
            config.write_text(ANOTHER, "utf-8")
            service.kill_plane(service.plane())
            eventually(lambda: "is the data folder of the service 'test'" in service.output())
            assert len(service.planes()) == 1
            config.write_text(MINIMAL, "utf-8")
            with Client(service.plane(2).port) as client:
                assert client.post("/act", REQUEST)[0] == 200


class TestKeyring:
    """The keyring is kept as long as what it has signed."""

    def test_f9e_a_lost_keyring_is_not_made_anew(self, tmp_path: Path) -> None:
        """Ids that were given would be refused as forged: the start is refused, with both ways out, which work."""
        config, data = demo(tmp_path), tmp_path / "data"
        decision_id = served(config, data)
        kept = (data / "keyring.json").read_bytes()
        (data / "keyring.json").unlink()

        said = refusal(config, data)

        assert f"{data}/keyring.json is missing" in said
        assert not (data / "keyring.json").exists()
        # The first way out: begin anew.
        assert f"--data {data}-new" in said
        served(config, Path(f"{data}-new"))
        # The second: put it back.
        (data / "keyring.json").write_bytes(kept)
        with Service(config, data) as service, Client(service.port) as client:
            _, told = client.post("/feedback", {"decision_id": decision_id, "reward": 1.0})
        assert told["results"][0]["status"] == "accepted"

    @pytest.mark.parametrize("gone", ["journal", "store"])
    def test_f9e_journal_or_store_alone_tell(self, tmp_path: Path, gone: str) -> None:
        """Either of them names the keyring that signed what is in it."""
        config, data = demo(tmp_path), tmp_path / "data"
        served(config, data)
        (data / "keyring.json").unlink()
        if gone == "journal":
            (data / "journal").rename(tmp_path / "journal")
        else:
            for path in data.glob("store.sqlite*"):
                path.unlink()

        assert "keyring.json is missing" in refusal(config, data)

    def test_f9e_another_keyring_is_no_substitute(self, tmp_path: Path) -> None:
        """A new file in its place, or one that ACTD_KEYRING names, is refused with both fingerprints."""
        config, data = demo(tmp_path), tmp_path / "data"
        served(config, data)
        old = make_keyring(data / "keyring.json").fingerprint
        (data / "keyring.json").unlink()
        new = make_keyring(data / "keyring.json").fingerprint

        said = refusal(config, data)

        assert f"is keyring {new}" in said
        assert f"were signed with keyring {old}" in said

    def test_a_lost_keyring_is_noticed_while_it_serves(self, tmp_path: Path) -> None:
        """A data plane that is started again does not make a new one either: it says so until the file is back."""
        config, data = demo(tmp_path), tmp_path / "data"
        with Service(config, data) as service:
            with Client(service.port) as client:
                assert client.post("/act", REQUEST)[0] == 200
            kept = (data / "keyring.json").read_bytes()
            (data / "keyring.json").unlink()
            service.kill_plane(service.plane())
            eventually(lambda: "keyring.json is missing" in service.output())
            assert not (data / "keyring.json").exists()
            (data / "keyring.json").write_bytes(kept)
            with Client(service.plane(2).port) as client:
                assert client.post("/act", REQUEST)[0] == 200

    def test_a_folder_that_signed_nothing_takes_any(self, tmp_path: Path) -> None:
        """A start that was refused has made no journal, so that the next may name another keyring."""
        with RedisServer() as server:
            with server.client() as operator:
                operator.set("actd:{test}:key", "another")
            assert "belongs to a deployment with keyring another" in refused_agent(tmp_path, server.url)

        assert traces(tmp_path / "data").fingerprints == frozenset()


def refused_agent(folder: Path, url: str, *options: str, slow_s: float = 0.0) -> str:
    """What a start says whose agent is refused, be it after a while; nothing may have been served."""
    service = Service(demo(folder), folder / "data", redis_url=url, options=options)
    service.spawn()
    try:
        if slow_s:
            eventually(lambda: any(command_line(one)[1:3] == ["-m", "service.agent"] for one in service.children()))
            (agent,) = [one for one in service.children() if command_line(one)[1:3] == ["-m", "service.agent"]]
            os.kill(agent, signal.SIGSTOP)
            time.sleep(slow_s)
            os.kill(agent, signal.SIGCONT)
        status = service.wait()
    finally:
        service.end()
    assert status in (2, 3)
    assert "serving" not in service.output()
    (sentence,) = service.output().splitlines()
    return sentence


class TestAgentMistakes:
    """A mistake of the agent's ends the start with one sentence, however slow the machine is."""

    @pytest.mark.parametrize("slow_s", [0.0, SLOW_S], ids=["fast", "slow"])
    def test_a_redis_url_that_is_none(self, tmp_path: Path, slow_s: float) -> None:
        """What the address should look like is said."""
        assert "REDIS_URL: is not an address" in refused_agent(tmp_path, "localhost:6379", slow_s=slow_s)

    @pytest.mark.parametrize("slow_s", [0.0, SLOW_S], ids=["fast", "slow"])
    def test_a_foreign_keyring_in_the_store(self, tmp_path: Path, slow_s: float) -> None:
        """Both fingerprints are said, and how to share the other's file."""
        with RedisServer() as server:
            with server.client() as operator:
                operator.set("actd:{test}:key", "another")
            said = refused_agent(tmp_path, server.url, slow_s=slow_s)

        assert "the store belongs to a deployment with keyring another" in said
        assert "ACTD_KEYRING" in said

    @pytest.mark.parametrize("slow_s", [0.0, SLOW_S], ids=["fast", "slow"])
    def test_an_admin_port_that_is_taken(self, tmp_path: Path, slow_s: float) -> None:
        """The address is named, and the option by which another is."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            said = refused_agent(tmp_path, "", "--admin-port", str(port), slow_s=slow_s)

        assert f"the admin port 127.0.0.1:{port}: Address already in use" in said
        assert "--admin-port" in said

    def test_a_store_that_is_away_is_no_mistake(self, tmp_path: Path) -> None:
        """Redis may come later: it serves, and ships when it does."""
        with RedisServer() as server:
            url = server.url
            server.kill()
            with Service(demo(tmp_path), tmp_path / "data", redis_url=url) as service, Client(service.port) as client:
                answered = client.post("/act", REQUEST)[0]
                server.start()
                with server.client() as operator:
                    eventually(lambda: operator.hlen("actd:{test}:writers") == 1)

        assert answered == 200


class TestModes:
    """What the service writes is its user's alone."""

    def test_everything_is_its_users_alone(self, tmp_path: Path) -> None:
        """Files 0600 and folders 0700, whatever the umask, the store's and the lock files too."""
        before = os.umask(0)
        try:
            served(demo(tmp_path), tmp_path / "data")
            with Service(demo(tmp_path), tmp_path / "data") as service, Client(service.port) as client:
                client.post("/act", REQUEST)
                eventually((tmp_path / "data" / "state" / "agent.page").exists)
                modes = modes_of(tmp_path / "data")
        finally:
            os.umask(before)

        assert {"keyring.json", "owner", "store.sqlite", "agent.page", "lock"} <= {path.name for path in modes}
        assert {path: mode for path, mode in modes.items() if mode & 0o077} == {}

    def test_what_an_earlier_version_left_open_is_narrowed(self, tmp_path: Path) -> None:
        """But not files that are not ours, wherever --data points."""
        data = tmp_path / "data"
        served(demo(tmp_path), data)
        (data / "mine.txt").write_text("mine", "utf-8")
        for path in (data / "mine.txt", data / "store.sqlite", *(data / "journal").rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)

        make_folders(data)

        wide = {path.name for path, mode in modes_of(data).items() if mode & 0o077}
        assert wide == {"mine.txt"}


def modes_of(folder: Path) -> dict[Path, int]:
    """The modes of a folder and of everything in it."""
    return {path: stat.S_IMODE(path.lstat().st_mode) for path in (folder, *folder.rglob("*"))}


class TestRedirects:
    """Nothing is sent to where a request's Host says."""

    @pytest.mark.parametrize("path", ["/report/", "/act/", "/docs/", "//evil.example/", "/feedback/", "/policy/"])
    def test_no_answer_names_the_host_of_the_request(self, tmp_path: Path, path: str) -> None:
        """A path with a slash too many is not found; nothing in the answer is the caller's Host."""
        with Service(demo(tmp_path), tmp_path / "data") as service:
            agent = int(service.output().partition("admin on http://127.0.0.1:")[2].partition(",")[0])
            answers = [asked(port, path) for port in (service.port, agent)]

        for answer in answers:
            assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 405"))
            assert b"evil.test" not in answer
            assert b"location:" not in answer.lower()


def asked(port: int, path: str) -> bytes:
    """What comes back on a raw socket for a GET with a Host of somebody else's."""
    with socket.create_connection(("127.0.0.1", port), 5) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n".encode())
        parts = []
        while part := raw.recv(65536):
            parts.append(part)
    return b"".join(parts)


class TestTraces:
    """What a folder shows of those who used it."""

    def test_damage_is_no_trace(self, tmp_path: Path) -> None:
        """A segment that cannot be read, a store that is none and an owner's file of nonsense say nothing."""
        make_folders(tmp_path)
        (tmp_path / "journal" / "0123456789abcdef").mkdir()
        (tmp_path / "journal" / "0123456789abcdef" / f"{1:020d}.log").write_bytes(b"\x00" * 100)
        (tmp_path / "store.sqlite").write_bytes(b"no database")
        (tmp_path / "owner").write_text(json.dumps(["?"]), "utf-8")

        found = traces(tmp_path)

        assert (found.services, found.fingerprints) == (frozenset(), frozenset())

    def test_a_folder_that_is_there_already_may_be_ours(self, tmp_path: Path) -> None:
        """Its mode is left as its owner has it: it may be a volume, or hold other things."""
        tmp_path.chmod(0o755)

        make_folders(tmp_path)

        assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
