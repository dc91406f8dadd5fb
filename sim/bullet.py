"""One PyBullet client per world, and silence where Bullet talks to the terminal.

PyBullet's functions fall back to the client that connected first when no client is named; a
`BulletClient` names its own in every call, so two worlds of one process cannot meet.

Once this module is imported, `pybullet.getCameraImage` returns NumPy arrays with every build.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from typing import IO, Any

from calvin_eval.sim.builds import with_arrays


@contextlib.contextmanager
def captured_output() -> Iterator[IO[bytes]]:
    """Divert what C code prints to file descriptors 1 and 2 into the yielded file.

    Bullet prints to the process's stdout and stderr (a greeting at import, the driver's strings
    when EGL starts), which would land between a run's results.
    """
    for stream in (sys.stdout, sys.stderr):  # None where a program has no streams
        if stream is not None:
            stream.flush()
    saved = [(fd, os.dup(fd)) for fd in (1, 2)]
    with tempfile.TemporaryFile() as sink:
        try:
            for fd, _ in saved:
                os.dup2(sink.fileno(), fd)
            yield sink
        finally:
            ctypes.CDLL(None).fflush(None)  # C buffers, which Python does not see
            for fd, copy in saved:
                os.dup2(copy, fd)
                os.close(copy)


with captured_output():
    import pybullet

if not pybullet.isNumpyEnabled():
    # In the module itself: upstream's cameras, and everybody else's in this process, call it there.
    pybullet.getCameraImage = with_arrays(pybullet.getCameraImage)

__all__ = ["BulletClient", "captured_output", "joint_infos", "pybullet"]


class BulletClient:
    """PyBullet's module functions, bound to one DIRECT-mode physics server.

    `client.stepSimulation()` is `pybullet.stepSimulation(physicsClientId=client.id)`; constants
    are read from `pybullet` itself. Bound functions are kept, so a call costs one attribute
    look-up more than PyBullet's own.
    """

    def __init__(self) -> None:
        self.id: int = pybullet.connect(pybullet.DIRECT)
        if self.id < 0:
            raise RuntimeError("PyBullet could not start another physics server in this process")

    def __getattr__(self, name: str) -> Any:
        function = partial(getattr(pybullet, name), physicsClientId=self.id)
        setattr(self, name, function)
        return function

    def close(self) -> None:
        """Disconnect; a second call does nothing."""
        if self.id >= 0:
            with captured_output():  # the EGL plugin announces its end
                pybullet.disconnect(self.id)
            self.id = -1
            # Bound functions would reach whichever server gets this number next.
            self.__dict__ = {"id": -1}


def joint_infos(bullet: BulletClient, body: int) -> list[Any]:
    """Bullet's description of every joint of a body: [0] its index, [1] its name, [12] its link."""
    return [bullet.getJointInfo(body, index) for index in range(bullet.getNumJoints(body))]
