"""One contract for every store: a folder, moto's server, and a real server where one is given.

`tests/minio/run pytest tests/unit/test_store.py` gives one.
"""

import hashlib
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import si
from si.config.place import S3, Place
from si.errors import ArtifactDamaged, ArtifactMissing, RecipeError, SiError, StoreUnavailable
from si.store.artifact import Artifact
from si.store.commit import Output, announce, commit_shard, committed, finish, settle
from si.store.folder import FolderStore
from si.store.keys import Spec
from si.store.open import open_store
from si.store.port import Store, checked
from si.store.s3 import S3Store

REAL = os.environ.get("SI_TEST_S3_ENDPOINT")
MISSING_REAL = pytest.mark.skipif(not REAL, reason="SI_TEST_S3_ENDPOINT names no server")
SPEC = Spec("verify", "it01", {"verify.timeout": 5}, {"iteration": 1}, {})


def bucket(endpoint: str, name: str = "") -> Place:
    """A place of its own on a server."""
    name = name or os.environ.get("SI_TEST_S3_BUCKET", "si-test")
    return Place(store=f"s3://{name}/{uuid.uuid4().hex}", s3=S3(endpoint=endpoint))


@pytest.fixture(params=["moto", pytest.param("minio", marks=MISSING_REAL)])
def endpoint(request: pytest.FixtureRequest) -> str:
    return REAL or "" if request.param == "minio" else request.getfixturevalue("s3_server")


@pytest.fixture(params=["folder", "moto", pytest.param("minio", marks=MISSING_REAL)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        return Place(store=str(tmp_path / "store"))
    return bucket(REAL or "" if request.param == "minio" else request.getfixturevalue("s3_server"))


@pytest.fixture
def store(place: Place) -> Store:
    return open_store(place)


def python(code: str, place: Place, *arguments: str) -> subprocess.Popen[str]:
    """A process that runs `code` with `store` open."""
    start = (
        "import sys\nfrom si.store.open import open_store\nfrom si.config.place import Place\n"
        "store = open_store(Place.model_validate_json(sys.argv[1]))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", start + code, place.model_dump_json(), *arguments],
        env=os.environ | {"PYTHONPATH": str(Path(si.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Proxy:
    """Stands between a client and a server and does to each request what `rule` says of its head.

    "pass"; "lose": the server does it, but the answer never comes; "stall": half the body goes
    through and then nothing; "cut": half the answer comes; "flip": its last byte is another one;
    "whole": what range was asked for is not passed on; anything else is itself the answer, and the
    server hears nothing.
    """

    def __init__(self, server: str, rule: Callable[[str], str]):
        self.rule = rule
        self.stalled = threading.Event()
        host, port = server.removeprefix("http://").split(":")
        self.server = host, int(port)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError), client, client.makefile("rb") as incoming:
            lines = [line.decode() for line in iter(incoming.readline, b"\r\n") if line]
            fields = dict(line.strip().lower().split(": ", 1) for line in lines[1:])
            rule = self.rule("".join(lines))
            if "expect" in fields:
                client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            # One request a connection: the answer is over when the connection is.
            mine = ("expect:", "connection:") + (("range:",) if rule == "whole" else ())
            head = [line for line in lines if not line.lower().startswith(mine)]
            request = "".join([*head, "Connection: close\r\n\r\n"]).encode()
            size = int(fields.get("content-length", 0))
            body = incoming.read(size // 2 if rule == "stall" else size)
            if rule not in ("pass", "lose", "stall", "cut", "flip", "whole"):
                client.sendall(rule.encode())
                return
            with socket.create_connection(self.server) as upstream:
                upstream.sendall(request + body)
                if rule == "stall":
                    self.stalled.set()
                    while incoming.read1():
                        pass
                    return
                if rule in ("cut", "flip"):
                    answer = b"".join(iter(lambda: upstream.recv(1 << 16), b""))
                    flipped = answer[:-1] + bytes([answer[-1] ^ 1])
                    client.sendall(flipped if rule == "flip" else answer[: len(answer) // 2])
                while answer := upstream.recv(1 << 16):
                    if rule != "lose":
                        client.sendall(answer)


def refusal(status: str, code: str) -> str:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"


def first(times: int, rule: str) -> Callable[[str], str]:
    """`rule` for that many conditional puts, then "pass"."""
    left = [rule] * times
    return lambda head: left.pop() if "if-none-match" in head.lower() and left else "pass"


# The contract


def test_what_is_put_is_got_fetched_and_listed(store: Store, tmp_path: Path) -> None:
    """Bytes and files of all sizes come back as they went in, with their size and SHA-256."""
    big = os.urandom((33 << 20) + 1)
    (tmp_path / "big").write_bytes(big)
    given = {"a/big": big, "a/empty": b"", "b/ä ö+%&=.bin": b"\0\xff\n"}
    store.put("a/big", tmp_path / "big")
    store.put("a/empty", given["a/empty"])
    store.put("b/ä ö+%&=.bin", given["b/ä ö+%&=.bin"])
    assert list(store.list("")) == sorted(given)
    for address, data in given.items():
        received = store.fetch(address, tmp_path / "received")
        assert received == (len(data), hashlib.sha256(data).hexdigest())
        assert (tmp_path / "received").read_bytes() == store.get(address) == data


def test_exists_is_about_whole_addresses(store: Store) -> None:
    """Neither a folder of addresses nor the beginning of one exists."""
    store.put("a/bc/d", b"")
    found = [store.exists(address) for address in ("a/bc/d", "a/bc", "a", "a/b", "a/bc/de")]
    assert found == [True, False, False, False, False]


def test_missing_is_named(store: Store, tmp_path: Path) -> None:
    """Reading what is not there names the address, and is no trouble of the store."""
    store.put("there", b"")
    for address in ("a/b", "there/below"):
        with pytest.raises(ArtifactMissing, match=address):
            store.get(address)
        with pytest.raises(ArtifactMissing, match=address):
            store.fetch(address, tmp_path / "received")


def test_list_is_sorted_and_takes_whole_parts(store: Store) -> None:
    """Listing is sorted over many pages, and `a` lists neither `ab` nor another store's."""
    addresses = sorted(f"a/{number:x}/{number % 7}" for number in range(25))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda address: store.put(address, b"x"), [*addresses, "ab/1", "b/a/1"]))
    assert list(store.list("a")) == addresses
    assert list(store.list("a/1")) == ["a/1/1"]
    assert list(store.list("")) == sorted([*addresses, "ab/1", "b/a/1"])
    assert list(store.list("nothing/here")) == []


def test_what_is_deleted_is_gone_and_nothing_else(store: Store) -> None:
    """Deleting is about one whole address, and about one that holds nothing it is no error."""
    for address in ("a/one", "a/one-more", "b"):
        store.put(address, b"x")
    store.delete("a/one")
    store.delete("a/one")
    assert list(store.list("")) == ["a/one-more", "b"]


def test_stores_with_like_prefixes_do_not_meet(place: Place) -> None:
    """A store sees nothing of one whose prefix begins like its own."""
    one, other = (
        open_store(place.model_copy(update={"store": place.store + suffix})) for suffix in ("", "b")
    )
    one.put("a", b"one")
    assert list(other.list("")) == []
    assert other.create("a", b"other")
    assert (one.get("a"), other.get("a")) == (b"one", b"other")
    assert list(one.list("")) == ["a"]


def test_addresses_that_could_lead_astray_are_refused(store: Store, tmp_path: Path) -> None:
    """No method takes an address that is absolute, climbs, or could mean two things."""
    astray = ["/", "/etc", "a//b", "a/", ".", "..", "../a", "a/../b", "a/.", "a\\b", "a\0b", "a\nb"]
    calls: list[Callable[[str], object]] = [
        lambda address: store.put(address, b""),
        lambda address: store.create(address, b""),
        lambda address: store.get(address),
        lambda address: store.fetch(address, tmp_path / "x"),
        lambda address: store.exists(address),
        lambda address: store.list(address or "/"),
    ]
    for address in [*astray, ".tmp/a", "\ud800", ""]:
        for call in calls:
            with pytest.raises(SiError, match="address"):
                call(address)


@given(st.text(st.sampled_from("./\\a~ \0é")))
def test_an_address_stays_below_its_root(address: str) -> None:
    """Whatever text is taken for an address names a file strictly below the store's root."""
    try:
        checked(address)
    except SiError:
        return
    path = os.path.normpath(f"/root/{address}")
    assert path == f"/root/{address}"
    assert path.startswith("/root/") and not path.startswith("/root/.")


# Commits


def test_the_first_create_stands(store: Store) -> None:
    """A second create changes nothing, whatever it brings."""
    assert store.create("a/record", b"first")
    assert not store.create("a/record", b"second")
    assert not store.create("a/record", b"first")
    assert store.get("a/record") == b"first"


def test_of_racing_threads_exactly_one_wins(store: Store) -> None:
    """Sixteen threads that create one address get one winner, and its bytes stand."""
    gate = threading.Barrier(16)

    def race(number: int) -> bool:
        gate.wait()
        return store.create(f"race/{turn}", b"%d" % number)

    with ThreadPoolExecutor(16) as pool:
        for turn in range(3):
            won = list(pool.map(race, range(16)))
            assert won.count(True) == 1
            assert store.get(f"race/{turn}") == b"%d" % won.index(True)


def test_of_racing_processes_exactly_one_wins(place: Place, store: Store) -> None:
    """Processes that start together win each address once between them."""
    code = (
        "print('ready', flush=True)\nsys.stdin.read(1)\n"
        "print([n for n in range(10) if store.create(f'r/{n}', sys.argv[2].encode())])\n"
    )
    racers = [python(code, place, str(number)) for number in range(3)]
    for racer in racers:
        assert racer.stdout is not None and racer.stdout.readline() == "ready\n"
    won = [eval(racer.communicate("\n")[0]) for racer in racers]
    assert sorted(n for addresses in won for n in addresses) == list(range(10))
    for number, addresses in enumerate(won):
        assert all(store.get(f"r/{n}") == b"%d" % number for n in addresses)


def test_a_writer_killed_in_a_put_leaves_nothing_to_see(
    place: Place, store: Store, tmp_path: Path
) -> None:
    """kill -9 in the middle of a large file: nothing is at the address; the next put works."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = python(
        "from pathlib import Path\nstore.put('a/f', Path(sys.argv[2]))", place, str(pipe)
    )
    with suppress(BrokenPipeError), pipe.open("wb", buffering=0) as file:
        for _ in range(40):
            file.write(bytes(1 << 20))
        writer.kill()
    writer.communicate()
    assert not store.exists("a/f")
    assert list(store.list("")) == []
    store.put("a/f", b"again")
    assert store.get("a/f") == b"again"


def test_a_writer_killed_in_a_create_wins_nothing(tmp_path: Path) -> None:
    """kill -9 between writing a record and linking it: nobody sees it, and another one wins."""
    place = Place(store=str(tmp_path))
    code = (
        "import os, time\n"
        "os.fsync = lambda _: (print('written', flush=True), time.sleep(60))\n"
        "store.root.joinpath('shards').mkdir()\nstore.root.joinpath('.tmp').mkdir()\n"
        "store.create('shards/00000.json', b'half')\n"
    )
    writer = python(code, place)
    assert writer.stdout is not None and writer.stdout.readline() == "written\n"
    store = open_store(place)
    assert list(store.list("")) == []
    writer.kill()
    writer.communicate()
    assert store.create("shards/00000.json", b"whole")
    assert store.get("shards/00000.json") == b"whole"


def test_a_create_cut_off_half_way_wins_nothing(endpoint: str) -> None:
    """kill -9 while a record is on its way to the bucket: it never appears, and another wins."""
    proxy = Proxy(endpoint, lambda head: "stall" if head.startswith("PUT") else "pass")
    place = bucket(proxy.url)
    writer = python("store.create('a', bytes(1 << 20))", place)
    assert proxy.stalled.wait(300)
    writer.kill()
    writer.communicate()
    store = open_store(place.model_copy(update={"s3": S3(endpoint=endpoint)}))
    time.sleep(0.3)
    assert not store.exists("a")
    assert store.create("a", b"whole")


@pytest.mark.parametrize("times", [1, 3])
def test_a_won_put_whose_answer_was_lost_is_known_as_won(endpoint: str, times: int) -> None:
    """The server did the put and the answer never came: settle reads its own bytes and has won."""
    lost: list[str] = []

    def rule(head: str) -> str:
        if "if-none-match" in head.lower() and len(lost) < times:
            lost.append(head)
            return "lose"
        return "pass"

    place = bucket(Proxy(endpoint, rule).url)
    store = open_store(place)
    assert not store.exists("a")
    assert settle(store, "a", b"mine") == (True, b"mine")
    assert len(lost) == times
    assert settle(store, "a", b"theirs") == (False, b"mine")


def test_a_shard_whose_answer_was_lost_is_known_as_won(endpoint: str) -> None:
    """commit_shard tells the attempt whose record stands from the one that came second."""
    proxy = Proxy(endpoint, first(1, "lose"))
    store = open_store(bucket(proxy.url))
    output = Output({"scores.json": b"{}"}, rows=1)
    assert commit_shard(store, SPEC, 0, output)
    assert not commit_shard(store, SPEC, 0, output)
    assert committed(store, SPEC.address) == {0}


# Large files

BIG = os.urandom((50 << 20) + 7)  # four parts
BIG_DIGEST = hashlib.sha256(BIG).hexdigest()


def parts_rule(wanted: str, rule: str, seen: list[str]) -> Callable[[str], str]:
    """`rule` for the first request of the range that begins with `wanted`, then "pass"; notes the
    range of each request for one."""

    def decide(head: str) -> str:
        found = re.search(r"^range: bytes=(\S+)", head, re.IGNORECASE | re.MULTILINE)
        if not found:
            return "pass"
        asked = found.group(1)
        seen.append(asked)
        return rule if asked.startswith(wanted) and seen.count(asked) == 1 else "pass"

    return decide


@pytest.fixture
def big(endpoint: str) -> Callable[[Callable[[str], str]], Store]:
    """A store with a large file at `big`, behind a proxy with the rule given."""

    def behind(rule: Callable[[str], str]) -> Store:
        place = bucket(endpoint)
        open_store(place).put("big", BIG)
        proxied = place.s3.model_copy(update={"endpoint": Proxy(endpoint, rule).url})
        return open_store(place.model_copy(update={"s3": proxied}))

    return behind


Behind = Callable[[Callable[[str], str]], Store]


def test_parts_are_received_side_by_side(big: Behind, tmp_path: Path) -> None:
    """After the first part, which says how many there are, all others are on their way at once."""
    together = threading.Barrier(3, timeout=300)

    def rule(head: str) -> str:
        if re.search(r"^range: bytes=[1-9]", head, re.IGNORECASE | re.MULTILINE):
            together.wait()
        return "pass"

    assert big(rule).fetch("big", tmp_path / "f") == (len(BIG), BIG_DIGEST)
    assert not together.broken and (tmp_path / "f").read_bytes() == BIG


@pytest.mark.parametrize("trouble", ["lose", "cut", refusal("503 Slow Down", "SlowDown")])
@pytest.mark.parametrize("part", ["0-", "33554432-"], ids=["first", "third"])
def test_a_part_that_fails_is_asked_for_again_alone(
    big: Behind, tmp_path: Path, trouble: str, part: str
) -> None:
    """A lost, cut or refused part delays a file; no other part is received twice."""
    seen: list[str] = []
    store = big(parts_rule(part, trouble, seen))
    assert store.exists("big")
    assert store.fetch("big", tmp_path / "f") == (len(BIG), BIG_DIGEST)
    assert (tmp_path / "f").read_bytes() == BIG
    assert {asked for asked in seen if seen.count(asked) > 1} == {
        asked for asked in seen if asked.startswith(part)
    }
    assert len(set(seen)) == 4


def test_damage_on_the_way_is_seen(big: Behind, tmp_path: Path) -> None:
    """One wrong bit in one part is another digest, which is that of the file as it lies there."""
    size, digest = big(parts_rule("16777216-", "flip", [])).fetch("big", tmp_path / "f")
    assert size == len(BIG) and digest != BIG_DIGEST
    assert hashlib.sha256((tmp_path / "f").read_bytes()).hexdigest() == digest


def test_a_server_without_ranges_will_do(s3_server: str, tmp_path: Path) -> None:
    """Where a server sends everything whatever range is asked for, one request is made."""
    heads: list[str] = []

    def rule(head: str) -> str:
        heads.append(head)
        return "whole"

    store = open_store(bucket(Proxy(s3_server, rule).url))
    store.put("a/big", BIG[: 20 << 20])
    heads.clear()
    size, digest = store.fetch("a/big", tmp_path / "f")
    assert (size, digest) == (20 << 20, hashlib.sha256(BIG[: 20 << 20]).hexdigest())
    assert len(heads) == 1


def test_a_file_that_changes_meanwhile_is_refused(big: Behind, tmp_path: Path) -> None:
    """Parts of two objects are never put together: the second one's are refused by their tag."""
    changed: list[Store] = []

    def rule(head: str) -> str:
        if re.search(r"^range: bytes=[1-9]", head, re.IGNORECASE | re.MULTILINE) and changed:
            changed.pop().put("big", BIG[::-1])
        return "pass"

    store = big(rule)
    changed.append(store)
    with pytest.raises(StoreUnavailable, match="Precondition"):
        store.fetch("big", tmp_path / "f")


def test_room_for_a_large_file_is_asked_for_first(small_disk: Path, big: Behind) -> None:
    """A disk that is too small for the file is named before its parts are received."""
    seen: list[str] = []
    with pytest.raises(StoreUnavailable, match="disk is full"):
        big(parts_rule("none", "pass", seen)).fetch("big", small_disk / "f")
    assert len(seen) == 1


def test_files_of_an_artefact_are_received_side_by_side(tmp_path: Path) -> None:
    """A policy's files are on their way together; one that is damaged is named."""
    together = threading.Barrier(3, timeout=300)

    class Waiting(FolderStore):
        def fetch(self, address: str, path: Path) -> tuple[int, str]:
            together.wait()
            return super().fetch(address, path)

    store = Waiting(tmp_path / "store")
    announce(store, SPEC)
    files = {f"{name}.bin": name.encode() for name in ("a", "b", "c")}
    commit_shard(store, SPEC, 0, Output(dict(files), rows=1))
    finish(store, SPEC)
    artifact = Artifact.open(store, SPEC.address)
    artifact.download(tmp_path / "one")
    assert {path.name: path.read_bytes() for path in (tmp_path / "one").iterdir()} == files
    (damaged,) = (tmp_path / "store").rglob("data/*/b.bin")
    damaged.write_bytes(b"B")
    with pytest.raises(ArtifactDamaged, match=r"b\.bin is damaged"):
        artifact.download(tmp_path / "two")


# What goes wrong with a server


@pytest.mark.parametrize(
    "answer",
    [
        refusal("409 Conflict", "ConditionalRequestConflict"),
        refusal("503 Slow Down", "SlowDown"),
        refusal("429 Too Many Requests", "TooManyRequests"),
    ],
    ids=["409", "503", "429"],
)
def test_what_may_pass_is_tried_again(s3_server: str, answer: str) -> None:
    """A conflict of two puts or a busy server delays a commit and does not end it."""
    store = open_store(bucket(Proxy(s3_server, first(3, answer)).url))
    assert store.create("a", b"")


def test_a_server_that_stays_busy_is_given_up(
    s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Patience has an end, and then the server's own words are shown."""
    busy = refusal("503 Slow Down", "SlowDown")
    store = open_store(bucket(Proxy(s3_server, lambda _: busy).url))
    monkeypatch.setattr(store, "patience", 0.1)
    with pytest.raises(StoreUnavailable, match="SlowDown"):
        store.get("a")


def test_a_server_that_restarts_is_waited_for(s3_server: str) -> None:
    """Once a server has answered, being out of reach for a while delays and does not end work."""
    proxy = Proxy(s3_server, lambda _: "pass")
    store = open_store(bucket(proxy.url))
    store.put("a", b"before")
    answered = proxy.server
    proxy.server = "127.0.0.1", 1  # nobody listens: every connection breaks off
    threading.Timer(1, lambda: setattr(proxy, "server", answered)).start()
    assert store.create("b", b"after")


def test_a_server_without_conditional_puts_is_named(s3_server: str) -> None:
    """A server that refuses If-None-Match is told apart from one that is merely unwell."""
    rule = first(9, refusal("501 Not Implemented", "NotImplemented"))
    with pytest.raises(StoreUnavailable, match="no conditional puts"):
        open_store(bucket(Proxy(s3_server, rule).url)).create("a", b"")


def test_nobody_there_is_said_at_once() -> None:
    """A wrong port is named within seconds, with the endpoint and without its password."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    begin = time.monotonic()
    with pytest.raises(StoreUnavailable, match=f"127.0.0.1:{port} does not answer") as caught:
        open_store(bucket(f"http://user:hidden@127.0.0.1:{port}")).get("a")
    assert time.monotonic() - begin < 120
    assert "hidden" not in str(caught.value)


def test_a_silent_endpoint_is_said_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that swallows connections is named after two attempts: 15 s at most."""
    from si.store.s3 import S3Store

    assert 3 * S3Store.connect_timeout <= 15
    monkeypatch.setattr(S3Store, "connect_timeout", 1.5)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as silent:
        address = silent.getsockname()
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:  # the queue of connections is now full: more get no answer
            filler.setblocking(False)
            filler.connect_ex(address)
        begin = time.monotonic()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            open_store(bucket(f"http://127.0.0.1:{address[1]}")).exists("a")
        assert 1.5 <= time.monotonic() - begin < 120
        for filler in fillers:
            filler.close()


def test_a_missing_bucket_is_named(endpoint: str, tmp_path: Path) -> None:
    """Every method names a bucket that is not there; none takes it for a missing key."""
    store = open_store(bucket(endpoint, "no-such-bucket"))
    calls: list[Callable[[], object]] = [
        lambda: store.put("a", b""),
        lambda: store.create("a", b""),
        lambda: store.get("a"),
        lambda: store.fetch("a", tmp_path / "a"),
        lambda: store.exists("a"),
        lambda: store.list(""),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="There is no bucket no-such-bucket"):
            call()


def test_no_credentials_is_named(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials the error says which variables to set."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "BOTO_CONFIG"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StoreUnavailable, match="AWS_ACCESS_KEY_ID"):
        open_store(bucket(s3_server)).get("a")


@MISSING_REAL
@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("AWS_SECRET_ACCESS_KEY", "secret key does not match"),
        ("AWS_ACCESS_KEY_ID", "is unknown to the server"),
    ],
)
def test_wrong_credentials_are_named(
    variable: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong key and a wrong secret are told apart; neither is shown."""
    monkeypatch.setenv(variable, "not-the-right-one")
    store = open_store(bucket(REAL or ""))
    calls: list[Callable[[], object]] = [
        lambda: store.create("a", b""),
        lambda: store.exists("a"),
        lambda: store.get("a"),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match=words) as caught:
            call()
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)


# What goes wrong with a disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk_is_named_and_leaves_nothing(small_disk: Path) -> None:
    """A full disk is said with what is free; nothing half-written stays, and room is enough."""
    store = open_store(Place(store=str(small_disk)))
    for call in (store.put, store.create):
        with pytest.raises(StoreUnavailable, match="disk is full") as caught:
            call("a/big", bytes(2 << 20))
        assert str(small_disk) in str(caught.value) and "free space" in str(caught.value)
    assert list(store.list("")) == []
    assert not any(path.is_file() for path in small_disk.rglob("*"))
    assert store.create("a/big", bytes(500_000))


def test_a_full_scratch_disk_is_named(small_disk: Path, place: Place, store: Store) -> None:
    """Fetching onto a full disk names that disk and not the store."""
    store.put("a", bytes(2 << 20))
    with pytest.raises(StoreUnavailable, match=f"disk is full at {small_disk / 'fetched'}"):
        store.fetch("a", small_disk / "fetched")


def test_a_limit_on_file_sizes_is_named(tmp_path: Path) -> None:
    """A file that outgrows the process's limit is named like a full disk."""
    store = FolderStore(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(StoreUnavailable, match="File too large"):
            store.put("a", bytes(1 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(store.list("")) == []


def test_a_read_only_disk_is_named(small_disk: Path) -> None:
    """Reading works where writing is refused, and the refusal names the folder."""
    store = open_store(Place(store=str(small_disk)))
    store.put("a", b"x")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for call in (store.put, store.create):
        with pytest.raises(StoreUnavailable, match=f"refuses access at {small_disk}"):
            call("b", b"")
    assert store.get("a") == b"x" and list(store.list("")) == ["a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_folder_is_named(tmp_path: Path) -> None:
    """A folder without the right to enter is a refusal, never an empty store."""
    store = FolderStore(tmp_path)
    store.put("a/b", b"")
    (tmp_path / "a").chmod(0)
    try:
        for call in (lambda: store.get("a/b"), lambda: store.list(""), lambda: store.exists("a/b")):
            with pytest.raises(StoreUnavailable, match="refuses access"):
                call()
    finally:
        (tmp_path / "a").chmod(0o700)


def test_a_file_system_without_hard_links_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no hard link can be made, commits are refused in words and never half-done."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    store = FolderStore(tmp_path)
    with pytest.raises(StoreUnavailable, match="no hard links"):
        store.create("a", b"")
    assert list(store.list("")) == []


def test_leftovers_of_the_dead_are_swept_and_work_of_the_living_is_not(tmp_path: Path) -> None:
    """The next writer removes what a killed one left, but neither young files nor locked ones."""
    place = Place(store=str(tmp_path / "store"))
    pipes = [tmp_path / name for name in ("dead", "living")]
    code = "from pathlib import Path\nstore.put(sys.argv[2], Path(sys.argv[3]))"
    writers, ends = [], []
    for pipe in pipes:
        os.mkfifo(pipe)
        writers.append(python(code, place, pipe.name, str(pipe)))
        ends.append(pipe.open("wb", buffering=0))
        ends[-1].write(bytes(1 << 20))
    dead, living = writers
    dead.send_signal(signal.SIGKILL)
    dead.communicate()
    temporaries = tmp_path / "store" / ".tmp"
    FolderStore(tmp_path / "store").put("a", b"")
    assert len(list(temporaries.iterdir())) == 2  # the dead one's file is too young to judge
    for file in temporaries.iterdir():
        os.utime(file, (0, 0))
    FolderStore(tmp_path / "store").put("b", b"")
    assert len(list(temporaries.iterdir())) == 1
    for end in ends:
        with suppress(BrokenPipeError):
            end.close()
    assert living.wait(30) == 0
    assert list(open_store(place).list("")) == ["a", "b", "living"]
    assert list(temporaries.iterdir()) == []


def test_success_is_said_when_the_disk_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record's bytes are synced before its name appears, and its name before the call returns."""
    store = FolderStore(tmp_path)
    store.put("a/other", b"")
    target = tmp_path / "a/record"
    synced = []

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((path.is_dir() and path.name, target.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    for write in (store.create, store.put):
        synced.clear()
        write("a/record", b"x")
        assert synced == [(False, False), ("a", True)]
        target.unlink()


# Which store


def test_folders_are_named_by_path_or_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path, a file URL and a home folder all open; opening makes nothing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    named = {
        "si-runs": tmp_path / "si-runs",
        "./x/../a:b": tmp_path / "a:b",
        "~/runs": tmp_path / "runs",
        f"file://{tmp_path}/my%20runs": tmp_path / "my runs",
        "file://localhost/srv/runs": Path("/srv/runs"),
    }
    assert {name: open_store(Place(store=name)).url for name in named} == {
        name: str(path) for name, path in named.items()
    }
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gs://bucket/prefix", "scheme gs:"),
        ("http://localhost:9000/bucket", "scheme http:"),
        ("s3:bucket", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("file://elsewhere/srv", "is not on this machine"),
        ("file:runs", "is not on this machine"),
        (" ", "is empty"),
    ],
)
def test_other_schemes_are_refused_by_name(name: str, words: str) -> None:
    """What no adapter serves is a recipe error that names the scheme and shows the forms."""
    with pytest.raises(RecipeError, match=words) as caught:
        open_store(Place(store=name))
    assert "s3://bucket/prefix" in str(caught.value)


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    """A malformed endpoint is the recipe's fault, and said before any request."""
    with pytest.raises(RecipeError, match="'localhost' is not a URL"):
        open_store(Place(store="s3://b-b", s3=S3(endpoint="localhost")))


def test_only_buckets_pay_for_boto3(tmp_path: Path) -> None:
    """Opening a folder imports no boto3."""
    code = "print([name for name in sys.modules if name.split('.')[0] in ('boto3', 'botocore')])"
    output, errors = python(code, Place(store=str(tmp_path))).communicate()
    assert (output, errors) == ("[]\n", "")


def test_a_scan_is_a_listing_with_sizes_and_times(store: Store) -> None:
    """Addresses as `list` gives them; size in bytes; written about now."""
    before = time.time()
    for address in ("pool/b/2", "pool/a/1", "data/x"):
        store.put(address, address.encode())
    found = list(store.scan("pool"))
    assert [each.address for each in found] == list(store.list("pool")) == ["pool/a/1", "pool/b/2"]
    assert [each.size for each in found] == [8, 8]
    assert all(abs(each.written - before) < 600 for each in found)
    assert [each.address for each in store.scan("")] == list(store.list(""))


def test_uploads_that_never_ended_are_found_and_aborted(s3_server: str) -> None:
    """Only below the store's prefix, and only those that are old enough. Not on MinIO, which lists
    the uploads of one object only, and removes old ones itself."""
    mine, other = (open_store(bucket(s3_server)) for _ in range(2))
    assert isinstance(mine, S3Store) and isinstance(other, S3Store)
    for store in (mine, other):
        store._client.create_multipart_upload(Bucket=store._bucket, Key=store._key("pool/big"))
    assert mine.abandoned(0.0, delete=True) == 0
    assert mine.abandoned(time.time() + 600) == 1
    assert mine.abandoned(time.time() + 600, delete=True) == 1
    assert (mine.abandoned(time.time() + 600), other.abandoned(time.time() + 600)) == (0, 1)
