"""No test reaches a network: a connection to anything but this machine is an error, in every Python that a test starts.

Python imports a module of this name by itself where its folder is on the path: tests/conftest.py puts it there.
"""

import socket
from typing import Any

_HERE = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "", None}
_connect, _connect_ex, _resolve = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo


class NetworkReachedError(AssertionError):
    """A test asked for a host elsewhere; no library that falls back on its cache takes this for a failed download."""


def _check(host: Any) -> None:
    host = host.decode() if isinstance(host, bytes) else host
    if host not in _HERE and host != socket.gethostname() and not str(host).startswith("127."):
        raise NetworkReachedError(f"a test reached for the network: {host}")


def _checked(call: Any) -> Any:
    def connect(self: socket.socket, address: Any) -> Any:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _check(address[0])
        return call(self, address)

    return connect


def _resolved(host: Any, *rest: Any, **options: Any) -> Any:
    _check(host)
    return _resolve(host, *rest, **options)


def install() -> None:
    """Put the guard before the calls by which Python reaches a host."""
    socket.socket.connect = _checked(_connect)  # type: ignore[method-assign]
    socket.socket.connect_ex = _checked(_connect_ex)  # type: ignore[method-assign]
    socket.getaddrinfo = _resolved


install()
