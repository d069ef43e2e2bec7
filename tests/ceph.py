"""A real S3 server to test against: Ceph's object gateway from Debian's packages, unpacked into a cache, not installed.

    from ceph import s3  # in a conftest.py

    def test_x(s3: S3, monkeypatch):
        where = s3.enter(monkeypatch, "x")   # s3://bucket/x, with credentials and endpoint in the environment
        with s3.away():                      # every one of its processes killed, and up again afterwards
            ...

One monitor, one OSD that writes to a file and one gateway, on loopback, with cephx. The packages are taken once, into
CITYLOOP_TEST_CACHE (~/.cache/cityloop). CITYLOOP_TEST_S3=<endpoint>, with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY,
names another server to test against. Without either the tests skip and say why.
"""

import contextlib
import datetime as dt
import json
import os
import platform
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

PACKAGES = ("ceph-base", "ceph-common", "ceph-mon", "ceph-osd", "radosgw")
BINARIES = ("ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "osdmaptool", "radosgw", "radosgw-admin")
PATIENCE_S = 60
# They end with the thread that started them, whatever ends it; and being root is worth nothing to them.
CONFINED = ("setpriv", "--pdeathsig", "KILL", "--no-new-privs")
UNPRIVILEGED = ("--bounding-set=-all", "--inh-caps=-all")
CAPS = {
    "client.admin": ("mon", "allow *", "osd", "allow *"),
    "osd.0": ("mon", "allow profile osd", "osd", "allow *"),
    "client.rgw": ("mon", "allow rw", "osd", "allow rwx"),
}
# One copy of everything in pools of one placement group; waits that suit a cluster of many machines are cut short.
CONF = """\
[global]
fsid = {fsid}
mon_host = {mon}
auth_cluster_required = cephx
auth_service_required = cephx
auth_client_required = cephx
public_addr = 127.0.0.1
cluster_addr = 127.0.0.1
osd_heartbeat_addr = 127.0.0.1
ms_bind_msgr1 = false
keyring = {data}/keyring
admin_socket =
run_dir = {data}
crash_dir = {data}
log_file = {data}/$name.log
mon_cluster_log_file = {data}/cluster.log
mon_data = {data}/mon
osd_data = {data}/osd
plugin_dir = {libraries}/ceph
erasure_code_dir = {libraries}/ceph/erasure-code
osd_class_dir = {libraries}/rados-classes
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 1
osd_pool_default_pgp_num = 1
osd_pool_default_pg_autoscale_mode = off
rgw_rados_pool_pg_num_min = 1
mon_allow_pool_size_one = true
mon_max_pg_per_osd = 1000
mon_data_avail_crit = 0
osd_crush_chooseleaf_type = 0
osd_crush_update_on_start = false
bluestore_block_size = 4294967296
osd_memory_target = 939524096
paxos_propose_interval = 0.02
paxos_min_wait = 0.01
objecter_tick_interval = 0.2
objecter_timeout = 0.5
osd_pool_default_read_lease_ratio = 0.02
bdev_aio_poll_ms = 5
rgw_init_timeout = {patience}
rgw_frontends = beast endpoint=127.0.0.1:{port} tcp_nodelay=1
"""


class Unavailable(Exception):
    """This machine has no such packages, and why."""


@dataclass
class Ceph:
    """A cluster of one OSD below the folder `data`, run from the folder `unpacked`."""

    unpacked: Path
    data: Path
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        mon_port, self.port = free_ports(2)
        self.libraries = next(self.unpacked.glob("usr/lib/*/rados-classes")).parent
        arch = self.libraries.name
        path = [self.libraries, self.libraries / "ceph", self.unpacked / "lib" / arch]
        self.env = {
            "PATH": f"{self.unpacked}/usr/bin:{os.environ['PATH']}",
            "LD_LIBRARY_PATH": ":".join(map(str, path)),
            "CEPH_CONF": f"{self.data}/ceph.conf",
        }
        self.names = {
            "fsid": str(uuid.uuid4()),
            "mon": f"v2:127.0.0.1:{mon_port}",
            "port": str(self.port),
            "data": str(self.data),
            "libraries": str(self.libraries),
            "patience": str(PATIENCE_S),
        }

    def _make(self) -> None:
        """Keys, maps and empty disks. The map that has the OSD in it spares the `ceph` command and its Python."""
        (self.data / "ceph.conf").write_text(CONF.format(**self.names))
        for name in ("mon", "osd"):
            (self.data / name).mkdir()
        self._run("ceph-authtool", "--create-keyring", "keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        for name, caps in CAPS.items():
            allowed = [w for i in range(0, len(caps), 2) for w in ("--cap", *caps[i : i + 2])]
            self._run("ceph-authtool", "keyring", "--gen-key", "-n", name, *allowed)
        self._run(
            "monmaptool", "--create", "--fsid", self.names["fsid"], "--addv", "a", f"[{self.names['mon']}]", "monmap"
        )
        self._run("osdmaptool", "--createsimple", "1", "osdmap")
        maps = ("--monmap", "monmap", "--osdmap", "osdmap", "--keyring", "keyring")
        self._run("ceph-mon", "--mkfs", "-i", "a", *maps)
        self.start("mon")
        self._run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", str(uuid.uuid4()))

    def start(self, *names: str) -> None:
        """Start what of mon, osd and rgw does not run."""
        words = {
            "mon": ("ceph-mon", "-i", "a", "-f"),
            "osd": ("ceph-osd", "-i", "0", "-f"),
            "rgw": ("radosgw", "-n", "client.rgw", "-f"),
        }
        for name in names:
            if name not in self.running:
                with (self.data / f"{name}.out").open("ab") as out:
                    self.running[name] = subprocess.Popen(
                        self._confined(*words[name]), env=self.env, cwd=self.data, stdout=out, stderr=out
                    )

    def up(self) -> None:
        """Start what does not run, and wait until the gateway answers."""
        if not (self.data / "ceph.conf").exists():
            self._make()
        self.start("mon", "osd", "rgw")
        until = time.monotonic() + PATIENCE_S
        while not self._answers():
            ended = {n: p.returncode for n, p in self.running.items() if p.poll() is not None}
            if ended or time.monotonic() > until:
                raise RuntimeError(f"Ceph did not come up; ended: {ended}\n{self.logs()}")
            time.sleep(0.05)

    def kill(self, *names: str) -> None:
        """SIGKILL to these processes, or to all."""
        for name in names or tuple(self.running):
            process = self.running.pop(name)
            process.kill()
            process.wait()

    def user(self) -> tuple[str, str]:
        """Another user's access key and secret."""
        name = f"city-{secrets.token_hex(4)}"
        made = self._run("radosgw-admin", "user", "create", f"--uid={name}", f"--display-name={name}")
        keys = json.loads(made)["keys"][0]
        return keys["access_key"], keys["secret_key"]

    def logs(self, lines: int = 15) -> str:
        """The end of every process's log."""
        files = sorted([*self.data.glob("*.out"), *self.data.glob("*.log")])
        tails = {f.name: f.read_text(errors="replace").splitlines()[-lines:] for f in files}
        return "\n".join(f"-- {name}\n" + "\n".join(tail) for name, tail in tails.items() if tail)

    def _answers(self) -> bool:
        """Whether it says that there is no such bucket, for which it has to ask the OSD."""
        try:
            urlopen(f"http://127.0.0.1:{self.port}/{secrets.token_hex(8)}")
        except urllib.error.HTTPError as error:
            return error.code == 404
        except OSError:
            return False
        return True

    def _confined(self, *words: str) -> list[str]:
        return [*CONFINED, *(UNPRIVILEGED if os.geteuid() == 0 else ()), *words]

    def _run(self, *words: str) -> str:
        try:
            done = subprocess.run(
                self._confined(*words),
                env=self.env,
                cwd=self.data,
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{words[0]} did not end\n{self.logs()}") from None
        if done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr[-2000:]}\n{self.logs()}")
        return done.stdout


@dataclass(frozen=True)
class S3:
    """A server, a user and a bucket. ceph: the server's processes, where they are ours."""

    endpoint: str
    key: str
    secret: str = field(repr=False)
    bucket: str
    ceph: Ceph | None = None

    def enter(self, patch: pytest.MonkeyPatch, prefix: str) -> str:
        """Put credentials and address into the environment; returns the URL of `prefix` in the bucket."""
        for name in [n for n in os.environ if n.startswith("AWS_") and n not in ("AWS_REGION", "AWS_CA_BUNDLE")]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", self.endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", self.key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", self.secret)
        patch.setenv("NO_PROXY", "127.0.0.1")
        return f"s3://{self.bucket}/{prefix}"

    def ours(self) -> Ceph:
        """The server's processes. Skips the test where the server is not ours to kill."""
        if self.ceph is None:
            pytest.skip("CITYLOOP_TEST_S3 is not ours to kill")
        return self.ceph

    @contextlib.contextmanager
    def away(self, *names: str) -> Iterator[None]:
        """While this is entered the server is not there: all of it was killed, or these of mon, osd and rgw."""
        self.ours().kill(*names)
        try:
            yield
        finally:
            self.ours().up()

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """While this is entered the gateway takes connections and says nothing."""
        gateway = self.ours().running["rgw"]
        gateway.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            gateway.send_signal(signal.SIGCONT)

    def make_bucket(self) -> None:
        import obstore
        from obstore.store import S3Store

        # obstore knows objects alone: a bucket is one of a server that has its name before the path.
        server = S3Store(
            "none",
            endpoint=self.endpoint,
            access_key_id=self.key,
            secret_access_key=self.secret,
            virtual_hosted_style_request=True,
            client_options={"allow_http": True},
        )
        urlopen(obstore.sign(server, "PUT", self.bucket, dt.timedelta(minutes=1)), "PUT")


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """An S3 server with an empty bucket."""
    bucket = f"cityloop-{secrets.token_hex(4)}"
    if endpoint := os.environ.get("CITYLOOP_TEST_S3"):
        there = S3(endpoint, os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"], bucket)
        there.make_bucket()
        yield there
        return
    try:
        unpacked = packages()
    except Unavailable as why:
        pytest.skip(f"no S3 server to test against: {why}; or name one in CITYLOOP_TEST_S3")
    ceph = Ceph(unpacked, tmp_path_factory.mktemp("ceph"))
    try:
        ceph.up()
        there = S3(f"http://127.0.0.1:{ceph.port}", *ceph.user(), bucket, ceph)
        there.make_bucket()
        yield there
    finally:
        ceph.kill()
        for name in ("mon", "osd"):  # the logs stay
            shutil.rmtree(ceph.data / name, ignore_errors=True)


def packages() -> Path:
    """The folder with the packages unpacked, which is made by the first who asks. Raises Unavailable."""
    if missing := [tool for tool in ("apt-get", "dpkg", "setpriv") if not shutil.which(tool)]:
        raise Unavailable(f"Ceph is taken from Debian's packages, and there is no {missing[0]}")
    cache = Path(os.environ.get("CITYLOOP_TEST_CACHE", Path.home() / ".cache/cityloop"))
    system = platform.freedesktop_os_release()
    place = cache / f"ceph-{system['ID']}-{system.get('VERSION_ID', 'x')}-{platform.machine()}"
    if not place.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            _unpack(Path(folder))
            with contextlib.suppress(OSError):  # another was quicker
                os.rename(Path(folder) / "root", place)
    return place


def _unpack(folder: Path) -> None:
    """Ceph's packages and the libraries that this machine lacks, below `folder`/root; of commands those used here."""
    said = _apt("install", "--simulate", "--no-install-recommends", *PACKAGES, cwd=folder)
    lacks = {line.split()[1] for line in said.splitlines() if line.startswith("Inst ")}
    _apt("download", *{n for n in lacks if n.startswith(("lib", "ceph-"))} | set(PACKAGES), cwd=folder)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", str(package), str(folder / "root")], check=True)
    for command in (folder / "root/usr/bin").iterdir():
        if command.name not in BINARIES:
            command.unlink()


def _apt(*words: str, cwd: Path) -> str:
    command = ["apt-get", "-qq", "-o", "Acquire::http::Timeout=20", *words]
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"apt-get {words[0]} did not end in five minutes") from None
    if done.returncode:
        raise Unavailable(f"apt-get {words[0]}: {done.stderr.strip().splitlines()[-1]} (try `apt-get update`)")
    return done.stdout


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def urlopen(url: str, method: str = "GET") -> int:
    """The status of an answer, no proxy asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, method=method), timeout=10) as answer:
        return int(answer.status)
