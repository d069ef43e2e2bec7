"""supervisord, which keeps the stack's processes; and finding and ending all that belongs to a stack."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil

from pipelines.core.errors import UserError

MARK = "STACK_SERVICE"
"""In the environment of a service and of all it starts: its folder run/NAME. That is where it stands, too, for who
renames itself overwrites what the system shows of its environment."""

_DAEMON = """\
[supervisord]
logfile = {stack}/logs/supervisord.log
logfile_maxbytes = 5MB
logfile_backups = 2
pidfile = {stack}/run/supervisord.pid
directory = {stack}/run

[unix_http_server]
file = {stack}/run/supervisord.sock
chmod = 0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl = unix://{stack}/run/supervisord.sock
"""
_PROGRAM = """
[program:{name}]
command = {command}
directory = {directory}
user = {user}
stopsignal = {stop_signal}
stopwaitsecs = {stop_wait}
stopasgroup = {stop_group}
killasgroup = true
autostart = false
autorestart = true
startsecs = 1
startretries = 30
redirect_stderr = true
stdout_logfile = {stack}/logs/{name}.log
stdout_logfile_maxbytes = 10MB
stdout_logfile_backups = 2
"""
SOCKET_LIMIT = 100
"""Characters of a socket's path that every system takes."""


class Keeper:
    """The supervisord of the stack in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run = folder, folder / "run"
        self._socket = self.run / "supervisord.sock"

    def configure(self, programs: Iterable[dict[str, Any]]) -> None:
        """Write its configuration. It holds no secret; see launch.py."""
        if len(str(self._socket)) > SOCKET_LIMIT:
            raise UserError(f"{self._socket}: too long a path for a socket; name a shorter folder in CITYLOOP_STACK")
        plain = [{k: _plain(v) for k, v in ({"stack": self.folder} | program).items()} for program in programs]
        daemon = _DAEMON.format(stack=_plain(self.folder))
        (self.run / "supervisord.conf").write_text(daemon + "".join(_PROGRAM.format(**each) for each in plain))

    def start(self) -> None:
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self.run / "supervisord.conf")]
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"STACK": str(self.folder)})
        if done.returncode:
            raise UserError(f"supervisord did not start: {(done.stderr or done.stdout).strip().splitlines()[-1:]}")
        until = time.monotonic() + 10
        while not self.alive():
            if time.monotonic() > until:
                raise UserError(f"supervisord does not answer; see {self.folder / 'logs/supervisord.log'}")
            time.sleep(0.05)

    def alive(self) -> bool:
        try:
            self._call("getState")
        except (OSError, xmlrpc.client.Error):
            return False
        return True

    def states(self) -> dict[str, dict[str, Any]]:
        """What supervisord knows of each process: `statename`, `pid`, `start`, `spawnerr` …"""
        return {told["name"]: told for told in self._call("getAllProcessInfo")}

    def run_programs(self, names: Iterable[str]) -> None:
        """Start those of `names` that do not run; does not wait."""
        for name in names:
            if self.states()[name]["statename"] in ("STOPPED", "EXITED", "FATAL"):
                try:
                    self._call("startProcess", name, False)
                except xmlrpc.client.Fault as fault:
                    raise UserError(f"{name} cannot be started: {fault.faultString}") from None

    def shut(self, last: Iterable[str]) -> None:
        """Stop all side by side, `last` after the others, then supervisord."""
        if not self.alive():
            return
        names = self.states()
        for group in ([n for n in names if n not in last], [n for n in names if n in last]):
            for name in group:
                with contextlib.suppress(xmlrpc.client.Fault):  # it does not run
                    self._call("stopProcess", name, False)
            while any(self.states()[n]["statename"] in ("STOPPING", "STARTING", "RUNNING") for n in group):
                time.sleep(0.1)
        with contextlib.suppress(psutil.NoSuchProcess):
            daemon = psutil.Process(int((self.run / "supervisord.pid").read_text()))
            self._call("shutdown")
            daemon.wait(15)

    def _call(self, method: str, *args: Any) -> Any:
        from supervisor.xmlrpc import SupervisorTransport

        transport = SupervisorTransport(None, None, serverurl=f"unix://{self._socket}")
        with xmlrpc.client.ServerProxy("http://127.0.0.1", transport=transport) as server:
            return getattr(server.supervisor, method)(*args)


def processes(*marks: Path) -> list[psutil.Process]:
    """Everything that runs in one of the folders `marks`, or was started by what does; not who asks, nor a shell of a
    person who went there."""
    asking = {os.getpid(), *(p.pid for p in psutil.Process().parents())}
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        if process.pid not in asking and any(_belongs(process, mark) for mark in marks):
            with contextlib.suppress(psutil.NoSuchProcess):
                found |= {p.pid: p for p in (process, *process.children(recursive=True))}
    return [p for p in found.values() if p.pid not in asking]


def _belongs(process: psutil.Process, mark: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        where = Path(process.cwd())
        if process.terminal() is None and (where == mark or mark in where.parents):
            return True
    with contextlib.suppress(psutil.Error):
        there = process.environ().get(MARK)
        return there is not None and (Path(there) == mark or mark in Path(there).parents)
    return False


def end(which: list[psutil.Process], patience: float = 5.0) -> None:
    """SIGTERM, which a training heeds, and after a while SIGKILL."""
    for process in which:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    for process in psutil.wait_procs(which, timeout=patience)[1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(which, timeout=patience)


def _plain(value: object) -> str:
    return str(value).replace("%", "%%")
