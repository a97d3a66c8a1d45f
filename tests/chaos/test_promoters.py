"""One winner a round after any kill, on both databases."""

import subprocess
import time

import pytest
from promoters import measured, place_of


def check(figures, rounds):
    values = {figure["name"]: figure for figure in figures}
    assert values["rounds with one winner, alias = last record"]["value"] == rounds
    assert values["contradictions of trail and registry afterwards"]["value"] == 0
    # No process gets past the first place, where the last victim dies; one that loses early misses the later ones.
    assert values["processes killed on the way"]["value"] >= 1
    assert values["different places of killing"]["value"] >= 1


def test_all_places_have_their_turn_and_few_rounds_reach_from_the_last_place_to_the_first():
    assert [place_of(turn, 100, 68) for turn in range(100)] == [*range(67, -1, -1), *range(67, 35, -1)]
    assert [place_of(turn, 8, 68) for turn in range(8)] == [67, 57, 47, 38, 28, 19, 9, 0]
    assert [place_of(turn, 1, 68) for turn in range(1)] == [0]


@pytest.mark.chaos
def test_one_of_many_wins_on_sqlite(tmp_path, tracking_uri):
    check(measured(tracking_uri, tmp_path, processes=4, rounds=8), 8)


@pytest.fixture
def postgres(tmp_path_factory):
    """Address of an empty database of the test's PostgreSQL server."""
    from trainplane.cluster.ports import free_port
    from trainplane.cluster.stack.postgres import Postgres, find_programs, server_user

    missing = Postgres.install_command()
    if missing is not None:
        pytest.skip(f"PostgreSQL is not installed; {missing}")
    user, binaries = server_user(), find_programs()
    # Its own user must be able to reach the folder.
    folder = subprocess.run(["mktemp", "-d", "/tmp/isnet-test-pg-XXXXXX"], capture_output=True, text=True, check=True)
    place = folder.stdout.strip()
    if user:
        subprocess.run(["chown", user, place], check=True)
    options = {"user": user, "extra_groups": []} if user else {}
    initdb = [f"{binaries}/initdb", "-D", f"{place}/data", "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8"]
    subprocess.run(initdb, cwd=place, check=True, capture_output=True, **options)
    port = free_port()
    command = [f"{binaries}/postgres", "-D", f"{place}/data", "-p", str(port), "-c", "listen_addresses=127.0.0.1"]
    command += ["-c", "unix_socket_directories=", "-c", "fsync=off"]
    server = subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:
        connect(port, server)
        yield f"postgresql+psycopg2://postgres@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        subprocess.run(["rm", "-rf", place], check=False)


def connect(port, server):
    import psycopg2

    deadline = time.monotonic() + 120
    while True:
        try:
            psycopg2.connect(host="127.0.0.1", port=port, user="postgres", dbname="postgres").close()
            return
        except psycopg2.OperationalError:
            assert server.poll() is None, "the server ended while it was starting"
            assert time.monotonic() < deadline
            time.sleep(0.2)


@pytest.mark.chaos
def test_one_of_many_wins_on_postgresql(tmp_path, postgres):
    check(measured(postgres, tmp_path, processes=4, rounds=8), 8)
