"""What a stranger's code would like to do, tried in a confined process.

Run as a program, with a scratch folder, a folder outside, and the process id of a process outside:
it confines itself and prints, as JSON, what each attempt raised (an error's name, or null).
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from calvin_eval.rollouts.confinement import confine


def attempts(scratch: Path, outside: Path, other: int) -> dict[str, Callable[[], Any]]:
    """Names, and what is tried."""
    victim = outside / "victim"
    return {
        "write a file of its own": lambda: (scratch / "a").write_text("a"),
        "make a folder of its own": lambda: (scratch / "d").mkdir(),
        "move its file": lambda: (scratch / "a").rename(scratch / "d" / "a"),
        "remove its files": lambda: shutil.rmtree(scratch / "d"),
        "read": victim.read_text,
        "write to nothing": lambda: Path(os.devnull).write_text("a"),
        "lower its limit": lambda: resource.setrlimit(resource.RLIMIT_CORE, (0, 0)),
        "talk to its child": socket.socketpair,
        "start a program": lambda: subprocess.run(["true"], check=True),
        "signal itself": lambda: os.kill(os.getpid(), 0),
        "write a file": lambda: victim.write_text("b"),
        "append to a file": lambda: victim.open("a"),
        "cut a file short": lambda: os.truncate(victim, 0),
        "make a file": lambda: (outside / "new").write_text("b"),
        "make a folder": lambda: (outside / "new").mkdir(),
        "remove a file": victim.unlink,
        "move a file in": lambda: victim.rename(scratch / "mine"),
        "link a file in": lambda: os.link(victim, scratch / "mine"),
        "write through a link": lambda: _through_link(scratch, victim),
        "write by a program": lambda: subprocess.run(["cp", "/proc/version", victim], check=True),
        "write to shared memory": lambda: Path("/dev/shm/calvin-eval-attempt").write_text("b"),
        "make a device": lambda: os.mknod(scratch / "device", 0o20600, os.makedev(1, 3)),
        "change a mode": lambda: victim.chmod(0o777),
        "change an owner": lambda: os.chown(victim, 12345, 12345),
        "add an attribute": lambda: os.setxattr(victim, "user.a", b"b"),
        "TCP": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
        "TCP over IPv6": lambda: socket.socket(socket.AF_INET6, socket.SOCK_STREAM),
        "UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "another program's socket": lambda: socket.socket(socket.AF_UNIX).connect("/dev/log"),
        "datagrams": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM),
        "a pair for datagrams": lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM),
        "signal another process": lambda: os.kill(other, 0),
        "limit another process": lambda: resource.prlimit(other, resource.RLIMIT_CORE, (0, 0)),
        "read another process": lambda: Path(f"/proc/{other}/mem").open("rb"),
        "read its environment": lambda: Path(f"/proc/{other}/environ").read_bytes(),
        "become somebody else": lambda: os.setresuid(12345, 12345, 12345),
    }


def _through_link(scratch: Path, victim: Path) -> None:
    link = scratch / "link"
    link.symlink_to(victim)
    link.write_text("b")


def main() -> None:
    """Confine this process, try everything, and print what came of it."""
    scratch, outside, other = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    confine(str(scratch))
    found: dict[str, str | None] = {}
    for name, attempt in attempts(scratch, outside, other).items():
        try:
            attempt()
            found[name] = None
        except (OSError, subprocess.CalledProcessError) as error:
            found[name] = type(error).__name__
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
