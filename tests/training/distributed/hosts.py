"""Machines for a test, each with its own network, hostname, processes and disk: Linux namespaces joined by a cable.

They end with this process whatever becomes of it: each one's first process reads from a pipe that only we hold, and
takes all the others with it.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

CABLE = "eth0"  # the name of each host's end
NAMES = ("alpha", "beta")
OWN = ["--net", "--uts", "--pid", "--mount"]


class Host:
    """A machine that sees the other by its address only.

    Attributes:
        name: its hostname.
        address: on the cable.
        home: its disk, on which the other has an empty folder instead.
    """

    def __init__(self, name: str, address: str, home: Path, hidden: Path) -> None:
        self.name, self.address, self.home = name, address, home
        (home / "tmp").mkdir(parents=True)
        hidden.mkdir(parents=True, exist_ok=True)
        self.names({"localhost": "127.0.0.1", name: "127.0.1.1"})  # as Debian and Ubuntu have it
        own, other = (shlex.quote(str(path)) for path in (home / "etc-hosts", hidden))
        boot = [f"hostname {name}", f"mount --bind {own} /etc/hosts", f"mount -t tmpfs none {other}"]
        script = " && ".join([*boot, "ip link set lo up", "echo up", "exec cat"])
        self._power = subprocess.Popen(
            ["unshare", *OWN, "--fork", "--kill-child", "--mount-proc", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self._power.stdout is not None
        if self._power.stdout.readline() != b"up\n":
            raise OSError(self._power.communicate()[1].decode())
        children = Path(f"/proc/{self._power.pid}/task/{self._power.pid}/children").read_text()
        self.first = int(children)
        self._processes = Path(f"/proc/{self.first}/ns/pid").readlink()

    def do(self, *command: str) -> None:
        """Run an administrator's command here."""
        subprocess.run(self._inside(command), check=True, timeout=10)

    def start(
        self, command: Sequence[object], output: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start `command` in `home`; its output goes to `output`."""
        own = {"HOME": str(self.home), "TMPDIR": str(self.home / "tmp")}
        with output.open("wb") as file:
            return subprocess.Popen(
                self._inside([str(word) for word in command]),
                cwd=self.home,
                env={"PATH": os.environ["PATH"]} | own | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def processes(self) -> dict[int, str]:
        """What runs here: the command lines by number, without what has ended and the machine's first process."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if int(folder.name) != self.first and (folder / "ns/pid").readlink() == self._processes:
                    words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                    if words:  # else a zombie, which here has nobody to bury it
                        found[int(folder.name)] = words
            except OSError:
                continue
        return found

    def signal(self, words: str, number: signal.Signals) -> None:
        """Send a signal to the one process here in whose command line stand `words`."""
        (pid,) = [pid for pid, line in self.processes().items() if words in line]
        os.kill(pid, number)

    def cut_off(self) -> None:
        """Pull the cable: what is on its way, and all that follows, is lost without an answer."""
        self.do("ip", "link", "set", CABLE, "down")

    def names(self, hosts: Mapping[str, str]) -> None:
        """Have /etc/hosts give the addresses of these names, and of no others."""
        (self.home / "etc-hosts").write_text("".join(f"{to} {name}\n" for name, to in hosts.items()))

    def reconnect(self) -> None:
        """Put the cable back in."""
        self.do("ip", "link", "set", CABLE, "up")

    def off(self) -> None:
        """End all that runs here, at once."""
        self._power.kill()
        self._power.communicate()

    def _inside(self, command: Sequence[str]) -> list[str]:
        return ["nsenter", "--target", str(self.first), *OWN, f"--wdns={self.home}", "--", *command]


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    """Two machines with a cable between them, and their disks in `folder`; skips where the system has them not."""
    with ExitStack() as stack:
        hosts: list[Host] = []
        homes = [folder / name for name in NAMES]
        try:
            for number, name in enumerate(NAMES):
                hosts.append(Host(name, f"10.77.0.{number + 1}", homes[number], homes[1 - number]))
                stack.callback(hosts[-1].off)
            first, second = hosts
            ends = [str(host.first) for host in hosts]
            cable = ["ip", "link", "add", CABLE, "netns", ends[0], "type", "veth", "peer", CABLE, "netns", ends[1]]
            subprocess.run(cable, check=True, timeout=10, capture_output=True)
            for host in hosts:
                host.do("ip", "address", "add", f"{host.address}/24", "dev", CABLE)
                host.reconnect()
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"no namespaces for machines of their own here: {error}")
        yield first, second


def ended(processes: Sequence[subprocess.Popen[bytes]], within: float) -> list[tuple[int, float]]:
    """Wait until all have ended; their exit codes, and after how many seconds each.

    Raises:
        TimeoutError: some had not.
    """
    began = time.monotonic()
    times: dict[int, float] = {}
    while len(times) < len(processes):
        for number, process in enumerate(processes):
            if process.poll() is not None:
                times.setdefault(number, time.monotonic() - began)
        if time.monotonic() - began > within:
            raise TimeoutError(f"still running: {[p.args for n, p in enumerate(processes) if n not in times]}")
        time.sleep(0.05)
    return [(process.returncode, times[number]) for number, process in enumerate(processes)]
