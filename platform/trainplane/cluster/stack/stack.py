"""A local stack of real parts: PostgreSQL, an S3 store, the MLflow server, a Ray head and two workers.

    stack = Stack(home / "stack"); stack.up(); stack.status(); stack.down(wipe=False)

Everything listens on loopback and asks for a password, a key or a token that was made for this stack. `up` may be
repeated: what is up stays, what is not is started, whatever a killed command left. Only processes that this stack
started are ever ended. Not covered: machines (infra/), data that must outlive this one.
"""

from __future__ import annotations

import fcntl
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainplane.cluster.health import complaint
from trainplane.cluster.stack import supervisor
from trainplane.cluster.stack.ceph import Ceph
from trainplane.cluster.stack.layout import Part, Site, State, free_port, is_free
from trainplane.cluster.stack.mlflow import MLflow, mlflow_environment
from trainplane.cluster.stack.moto import Moto
from trainplane.cluster.stack.object_store import BUCKET, REGION
from trainplane.cluster.stack.postgres import Postgres
from trainplane.cluster.stack.ray import Head, Worker1, Worker2
from trainplane.errors import RunFailed, UserError

STORES: Mapping[str, type[Part]] = {"ceph": Ceph, "moto": Moto}
SECRETS = (
    "RAY_AUTH_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
)
_LOG_TAIL_BYTES = 2000


@dataclass(frozen=True)
class PartStatus:
    """What one part is doing: `up`, `silent` (it runs and does not answer), `broken` (a process is gone), `down`."""

    name: str
    state: str
    what: str
    address: str
    pids: tuple[int, ...]
    rss_bytes: int
    log: str


class Stack:
    """The stack below the folder `root`."""

    def __init__(self, root: Path) -> None:
        self.site = Site(root)

    def up(self, *, store: str | None = None, timeout_s: float = 180.0, say: Callable[[str], None] = print) -> None:
        """Bring everything up; `UserError` where something is not installed, `RunFailed` with the log where it fails.

        store -- `ceph`, `moto`, or None: the one that this stack has, else Ceph where it is installed
        A failure or an interruption ends what this call started and leaves what was up before.
        """
        with self._alone():
            state = self._state()
            kinds = self._kinds(store or state.store or ("moto" if Ceph.missing() else "ceph"))
            self._refuse_missing(kinds)
            self._refuse_other_store(state, kinds)
            self.site.make()
            state.store = next(name for name, kind in STORES.items() if kind in kinds)
            self._sweep(state)
            choose_ports(state, kinds, say)
            self.site.save(state)
            _Rise(self.site, state, kinds, time.monotonic() + timeout_s, say).run()

    def status(self) -> list[PartStatus]:
        """Every part in the order of starting; none where there is no stack."""
        state = self._state()
        if state.store is None:
            return []
        kinds = self._kinds(state.store)
        if any(port not in state.ports for kind in kinds for port in kind.ports):
            # A file that lost them: nothing is known of any part, and `up` gives it others.
            return []
        return [self._part_status(kind(self.site, state.ports), state) for kind in kinds]

    def down(self, *, wipe: bool, say: Callable[[str], None] = print) -> int:
        """End everything; with `wipe` nothing remains of it. Returns how many processes were ended."""
        if not self.site.root.exists() and not supervisor.marked(self.site.mark):
            return 0
        with self._alone():
            state = self._state()
            ended = 0
            if state.store is not None:
                for kind in reversed(self._kinds(state.store)):
                    count = end_part(kind(self.site, state.ports), state)
                    ended += count
                    if count:
                        say(f"{kind.name} is down")
            ended += self._sweep(state, everything=True)
            if wipe:
                self._wipe(state)
            else:
                self.site.save(state)
        if wipe:
            shutil.rmtree(self.site.root, ignore_errors=True)
        return ended

    def context(self) -> tuple[dict[str, str], dict[str, Path]]:
        """Values and references to secrets of the context that leads here."""
        port = self.site.load().ports
        values = {
            "ray": f"http://127.0.0.1:{port['dashboard']}",
            "tracking": f"http://127.0.0.1:{port['mlflow']}",
            "store": f"s3://{BUCKET}",
            "s3_endpoint": f"http://127.0.0.1:{port['store']}",
            "s3_region": REGION,
        }
        mlflow_environment(self.site)
        return values, {name: self.site.root / "secrets" / name for name in SECRETS}

    def _state(self) -> State:
        """What an earlier command noted; one that names a store which nobody knows counts as none."""
        state = self.site.load()
        return state if state.store is None or state.store in STORES else State()

    @staticmethod
    def _kinds(store: str) -> tuple[type[Part], ...]:
        if store not in STORES:
            raise UserError(f"store {store!r} is not known; need {' or '.join(STORES)}")
        return (Postgres, STORES[store], Head, MLflow, Worker1, Worker2)

    @staticmethod
    def _refuse_missing(kinds: Sequence[type[Part]]) -> None:
        lacking = {kind.name: command for kind in kinds if (command := kind.missing())}
        if lacking:
            lines = "".join(f"\n  {name:<10} {command}" for name, command in lacking.items())
            raise UserError(f"not everything is installed; nothing was started. Install with:{lines}")

    @staticmethod
    def _refuse_other_store(state: State, kinds: Sequence[type[Part]]) -> None:
        if state.store is not None and STORES[state.store] not in kinds:
            raise UserError(
                f"this stack keeps its objects in {state.store}; start it with that, or begin anew after "
                "`isnet stack down --wipe`"
            )

    def _part_status(self, part: Part, state: State) -> PartStatus:
        found = [supervisor.find(state.processes.get(name)) for name in part.processes]
        living = [one for one in found if one is not None]
        complaints = [text for address in part.checks() if (text := complaint(address))] if living else []
        if not living:
            condition, what = "down", "not running"
        elif len(living) < len(found):
            gone = [name for name, one in zip(part.processes, found, strict=True) if one is None]
            condition, what = "broken", f"{', '.join(gone)} is gone; `isnet stack up` starts it again"
        elif complaints:
            condition, what = "silent", "; ".join(complaints)
        else:
            condition, what = "up", "answers"
        family = supervisor.family([state.processes[name] for name in part.processes if name in state.processes])
        return PartStatus(
            name=part.name,
            state=condition,
            what=what,
            address=part.address(),
            pids=tuple(one.pid for one in living),
            rss_bytes=supervisor.resident_bytes(family.values()),
            log=", ".join(str(self.site.log(name)) for name in part.processes),
        )

    def _sweep(self, state: State, *, everything: bool = False) -> int:
        """End what carries our mark and belongs to no recorded process: leftovers of a killed command or leader."""
        kept = {} if everything else supervisor.family(list(state.processes.values()))
        leftovers = [one for pid, one in supervisor.marked(self.site.mark).items() if pid not in kept]
        supervisor.end(None, leftovers, how=9, patience_s=0)
        return len(leftovers)

    def _wipe(self, state: State) -> None:
        shutil.rmtree(Postgres(self.site, state.ports).folder, ignore_errors=True)
        shutil.rmtree(self.site.run, ignore_errors=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One `up` or `down` at a time; the lock goes with its process."""
        try:
            self.site.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.site.root}: is no folder and cannot be made one ({error.strerror}); move away what is there, "
                "or set ISNET_HOME to a folder of yours"
            ) from error
        with open(self.site.root / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise UserError("another `isnet stack up` or `down` is at work here; wait for it") from error
            yield


class _Rise:
    """One `up`: parts that need nothing start at once, the others when what they need answers."""

    def __init__(
        self, site: Site, state: State, kinds: Sequence[type[Part]], deadline: float, say: Callable[[str], None]
    ) -> None:
        self.site, self.state, self.deadline, self.say = site, state, deadline, say
        self.parts = [kind(site, state.ports) for kind in kinds]
        self.ready = {part.name: threading.Event() for part in self.parts}
        self.failure: BaseException | None = None
        self.started: list[Part] = []
        self._lock = threading.Lock()

    def run(self) -> None:
        # Secrets that several parts share are made here, once, before anybody reads them.
        for name in ("RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY", "PGPASSWORD"):
            self.site.secret(name)
        mlflow_environment(self.site)
        threads = [threading.Thread(target=self._bring_up, args=(part,), daemon=True) for part in self.parts]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.1)
            if self.failure is not None:
                raise self.failure
        except BaseException as error:
            # Also Ctrl-C: nothing that this call started may outlive it.
            self.failure = error
            for thread in threads:
                thread.join(10.0)
            for part in reversed(self.started):
                end_part(part, self.state)
            self.site.save(self.state)
            raise

    def _bring_up(self, part: Part) -> None:
        try:
            for need in part.needs:
                while not self.ready[need].wait(0.1):
                    self._check_time(part, f"{need} to come up")
            if not self._is_up(part):
                self._start(part)
            part.settle()
            self.ready[part.name].set()
        except BaseException as error:
            with self._lock:
                self.failure = self.failure or error

    def _is_up(self, part: Part) -> bool:
        return all(supervisor.find(self.state.processes.get(name)) for name in part.processes) and not any(
            complaint(address) for address in part.checks()
        )

    def _start(self, part: Part) -> None:
        begun = time.monotonic()
        with self._lock:
            self.started.append(part)
        for attempt in range(1, part.attempts + 1):
            end_part(part, self.state)
            part.start(self._launch)
            gone = self._await_answers(part)
            if gone is None:
                self.say(f"{part.name} is up at {part.address()} after {time.monotonic() - begun:.0f} s")
                return
            if attempt < part.attempts:
                self.say(f"{part.name}: {gone} gave up while starting; it is started again")
        raise RunFailed(f"{part.name}: {gone} ended while starting; {self._tail(gone or part.processes[-1])}")

    def _await_answers(self, part: Part) -> str | None:
        """Wait until all of it answers; returns the process that ended instead, or None."""
        while complaints := [text for address in part.checks() if (text := complaint(address, 2.0))]:
            for name in part.processes:
                if supervisor.find(self.state.processes.get(name)) is None:
                    return name
            self._check_time(part, f"an answer ({complaints[0]}); {self._tail(part.processes[-1])}")
            time.sleep(0.1)
        return None

    def _launch(self, launch: supervisor.Launch) -> None:
        with self._lock:
            if self.failure is not None:
                raise RunFailed(f"{launch.name}: not started, because another part failed")
            self.state.processes[launch.name] = supervisor.start(
                launch, log=self.site.log(launch.name), mark=self.site.mark
            )
            self.site.save(self.state)

    def _check_time(self, part: Part, awaited: str) -> None:
        if self.failure is not None:
            raise RunFailed(f"{part.name}: given up, because another part failed")
        if time.monotonic() > self.deadline:
            raise RunFailed(f"{part.name}: waited too long for {awaited}")

    def _tail(self, name: str) -> str:
        log = self.site.log(name)
        try:
            raw = log.read_bytes()[-_LOG_TAIL_BYTES:]
        except OSError:
            return f"it wrote nothing to {log}"
        text = raw.decode(errors="replace")
        for secret in (self.site.root / "secrets").iterdir():
            text = text.replace(secret.read_text(encoding="utf-8").strip() or "\0", "…")
        return f"the end of {log}:\n{text.strip()}"


def end_part(part: Part, state: State) -> int:
    """End a part's processes, last started first; returns how many there were."""
    count = 0
    for name in reversed(part.processes):
        recorded = state.processes.pop(name, None)
        if recorded is None:
            continue
        family = supervisor.family([recorded])
        leader = family.pop(recorded.pid, None)
        supervisor.end(leader, family.values(), how=part.stop_signal, patience_s=15.0)
        count += len(family) + (leader is not None)
    return count


def choose_ports(state: State, kinds: Sequence[type[Part]], say: Callable[[str], None]) -> None:
    """Give every part its ports: those it had, if they are its own or free, else others, and say so."""
    for kind in kinds:
        is_ours = any(supervisor.find(state.processes.get(name)) for name in kind.processes)
        for name in kind.ports:
            port = state.ports.get(name)
            if port is not None and (is_ours or is_free(port)):
                continue
            state.ports[name] = free_port(state.ports.values(), f"{kind.name} {name} {time.time_ns()}")
            if port is not None:
                say(f"port {port} of {name} is taken by another program; it is {state.ports[name]} now")
