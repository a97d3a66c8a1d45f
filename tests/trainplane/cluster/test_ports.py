"""Free ports of loopback."""

import socket

import pytest

from trainplane.cluster.ports import HOST, check_port, free_port, is_free
from trainplane.errors import RunFailed, UserError


def test_ports_are_free_distinct_and_below_those_of_outgoing_connections():
    taken = []
    for _ in range(50):
        taken.append(free_port(taken))
    assert len(set(taken)) == 50
    assert all(20_000 <= port < 32_000 and is_free(port) for port in taken)


def test_a_port_of_a_server_is_refused_with_the_remedy():
    with socket.socket() as server:
        server.bind((HOST, 0))
        server.listen()
        port = server.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(UserError, match=rf"port {port} on 127\.0\.0\.1 cannot be used .* another with --port"):
            check_port(port)
    assert check_port(port) == port
    assert is_free(check_port(0))


def test_no_free_port_is_an_error(monkeypatch):
    monkeypatch.setattr("trainplane.cluster.ports.is_free", lambda port: False)
    with pytest.raises(RunFailed, match="no port between 20000 and 32000 is free"):
        free_port()
