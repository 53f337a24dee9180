"""Regrowth reaches no network when it is imported or asked for help, and no test reaches one at all."""

import socket
import subprocess
import sys
import urllib.request

import pytest

ELSEWHERE = ("192.0.2.1", 80)  # RFC 5737: an address of documents, that no machine has


def test_a_test_that_reaches_for_the_network_fails():
    with pytest.raises(AssertionError, match=r"a test reached for the network: 192\.0\.2\.1"):
        socket.create_connection(ELSEWHERE, timeout=1)
    with pytest.raises(AssertionError, match="a test reached for the network: huggingface.co"):
        urllib.request.urlopen("http://huggingface.co", timeout=1)


def test_so_does_a_python_that_a_test_starts():
    code = f"import socket; socket.create_connection({ELSEWHERE}, timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "a test reached for the network: 192.0.2.1" in done.stderr


@pytest.mark.parametrize("module", ["prune", "heal", "eval", "recipes"])
def test_nothing_is_asked_of_a_network_at_import(module):
    """A connection ends the process at once, so that no library can catch what the guard raises."""
    code = (
        "import os, socket\n"
        "socket.socket.connect = lambda *_: os._exit(77)\n"
        "socket.getaddrinfo = lambda *_, **__: os._exit(77)\n"
        f"import {module}, {module}.cli\n"
        f"for name in {module}.__all__: getattr({module}, name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
