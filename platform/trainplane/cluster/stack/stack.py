"""Local stack of real servers: PostgreSQL, S3, MLflow, Ray.

    stack = Stack(home / "stack"); stack.up(); stack.status(); stack.down(wipe=False)

All listen on loopback and need a password, key or token of this stack. `up` may be repeated in any state that a killed
command left. Only processes that this stack started are ever stopped.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainplane.cluster.health import health_error
from trainplane.cluster.ports import free_port, is_free
from trainplane.cluster.stack import supervisor
from trainplane.cluster.stack.ceph import Ceph
from trainplane.cluster.stack.layout import Component, StackLayout, StackState
from trainplane.cluster.stack.mlflow import MLflow, mlflow_environment
from trainplane.cluster.stack.object_store import BUCKET, REGION, Moto
from trainplane.cluster.stack.postgres import Postgres
from trainplane.cluster.stack.ray import Head, Worker1, Worker2
from trainplane.command_line import command_line
from trainplane.environ import SERVE_TOKEN_VARIABLE
from trainplane.errors import RunFailed, UserError
from trainplane.locks import FileLock

STORES: Mapping[str, type[Component]] = {"ceph": Ceph, "moto": Moto}
SECRETS = (
    "RAY_AUTH_TOKEN",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
)
_SHARED_SECRETS = (
    "RAY_AUTH_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "PGPASSWORD",
    SERVE_TOKEN_VARIABLE,
)
_LOG_TAIL_BYTES = 2000
_STOP_WAIT_S = 15.0


@dataclass(frozen=True)
class ComponentStatus:
    """Status of one component; `what` is the reason.

    `state` is `up`, `silent` (runs without an answer), `broken` (a process has ended) or `down`. `rss_bytes` counts
    children.
    """

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
        self.layout = StackLayout(root)

    def up(self, *, store: str | None = None, timeout_s: float = 180.0, emit: Callable[[str], None] = print) -> None:
        """Starts all components that do not run.

        `store` is `ceph` or `moto`; None for the one that this stack has, else Ceph where it is installed. A failure or
        an interruption stops what this call started. Raises `UserError` if something is not installed, `RunFailed` with
        the end of the log if a component failed or did not answer in `timeout_s`.
        """
        with self.exclusive():
            # Refuse before anything is created.
            state = self._load_state()
            types = component_types(store or state.store or ("moto" if Ceph.install_command() else "ceph"))
            self._check_installed(types)
            self._check_same_store(state, types)
            self.layout.make()
            state.store = next(name for name, kind in STORES.items() if kind in types)
            # Leftovers may hold ports that would then count as taken.
            self._stop_leftovers(state)
            assign_ports(state, types, emit)
            self.layout.save(state)
            _Startup(self.layout, state, types, time.monotonic() + timeout_s, emit).run()

    def status(self) -> list[ComponentStatus]:
        """Status of each component, in starting order."""
        state = self._load_state()
        if state.store is None:
            return []
        types = component_types(state.store)
        if any(port not in state.ports for kind in types for port in kind.ports):
            # The file lost its ports, so no component can be asked; `up` assigns others.
            return []
        return [self._component_status(kind(self.layout, state.ports), state) for kind in types]

    def down(self, *, wipe: bool, emit: Callable[[str], None] = print) -> int:
        """Stops all processes and counts them; `wipe` removes all files."""
        if not self.layout.root.exists() and not supervisor.find_marked(self.layout.mark):
            return 0
        with self.exclusive():
            state = self._load_state()
            count = 0
            if state.store is not None:
                # Clients stop before the servers that they use.
                for kind in reversed(component_types(state.store)):
                    stopped = stop_component(kind(self.layout, state.ports), state)
                    count += stopped
                    if stopped:
                        emit(f"{kind.name} is down")
            # Children of killed leaders are in no record.
            count += self._stop_leftovers(state, everything=True)
            if wipe:
                shutil.rmtree(Postgres(self.layout, state.ports).folder, ignore_errors=True)
                shutil.rmtree(self.layout.run, ignore_errors=True)
            else:
                self.layout.save(state)
        if wipe:
            shutil.rmtree(self.layout.root, ignore_errors=True)
        return count

    def context(self) -> tuple[dict[str, str], dict[str, Path]]:
        """Values and secret files of a context for this stack."""
        port = self.layout.load().ports
        values = {
            "ray": f"http://127.0.0.1:{port['dashboard']}",
            "tracking": f"http://127.0.0.1:{port['mlflow']}",
            "store": f"s3://{BUCKET}",
            "s3_endpoint": f"http://127.0.0.1:{port['store']}",
            "s3_region": REGION,
        }
        mlflow_environment(self.layout)
        return values, {name: self.layout.root / "secrets" / name for name in SECRETS}

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Allows one `up` or `down` at a time."""
        try:
            self.layout.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{self.layout.root}: is not a folder and cannot be created ({error.strerror}); "
                "move away what is there, or set ISNET_HOME to a folder of yours"
            ) from error
        with FileLock(self.layout.root / "lock").attempt() as acquired:
            if not acquired:
                raise UserError(f"another `{command_line('stack', 'up')}` or `down` is running here; wait for it")
            yield

    def _load_state(self) -> StackState:
        """Reads the state; an unknown store makes it empty."""
        state = self.layout.load()
        return state if state.store is None or state.store in STORES else StackState()

    @staticmethod
    def _check_installed(types: Sequence[type[Component]]) -> None:
        commands = {kind.name: command for kind in types if (command := kind.install_command())}
        if commands:
            lines = "".join(f"\n  {name:<10} {command}" for name, command in commands.items())
            raise UserError(f"not everything is installed; nothing was started. Install with:{lines}")

    @staticmethod
    def _check_same_store(state: StackState, types: Sequence[type[Component]]) -> None:
        if state.store is not None and STORES[state.store] not in types:
            raise UserError(
                f"this stack keeps its objects in {state.store}; start it with that store, or remove the stack "
                f"with `{command_line('stack', 'down', '--wipe')}` first"
            )

    def _component_status(self, component: Component, state: StackState) -> ComponentStatus:
        processes = {name: supervisor.find(state.processes.get(name)) for name in component.processes}
        alive = [process for process in processes.values() if process is not None]
        ended = [name for name, process in processes.items() if process is None]
        # Without a process, whatever answers at these addresses is another program.
        errors = [text for address in component.health_addresses() if (text := health_error(address))] if alive else []
        if not alive:
            condition, reason = "down", "not running"
        elif ended:
            condition, reason = (
                "broken",
                f"{', '.join(ended)} has ended; `{command_line('stack', 'up')}` starts it again",
            )
        elif errors:
            condition, reason = "silent", "; ".join(errors)
        else:
            condition, reason = "up", "answers"
        recorded = [state.processes[name] for name in component.processes if name in state.processes]
        return ComponentStatus(
            name=component.name,
            state=condition,
            what=reason,
            address=component.address(),
            pids=tuple(process.pid for process in alive),
            rss_bytes=supervisor.resident_bytes(supervisor.find_family(recorded).values()),
            log=", ".join(str(self.layout.log(name)) for name in component.processes),
        )

    def _stop_leftovers(self, state: StackState, *, everything: bool = False) -> int:
        # Kills marked processes of no recorded family; returns their number. A killed command or leader leaves them.
        # With `everything` recorded families are killed too.
        family = {} if everything else supervisor.find_family(list(state.processes.values()))
        marked = supervisor.find_marked(self.layout.mark)
        leftovers = [process for pid, process in marked.items() if pid not in family]
        supervisor.stop(None, leftovers, how=9, patience_s=0)
        return len(leftovers)


class _Startup:
    """One `up`, with a thread per component.

    A component starts once those that it needs answer.
    """

    def __init__(
        self,
        layout: StackLayout,
        state: StackState,
        types: Sequence[type[Component]],
        deadline: float,
        emit: Callable[[str], None],
    ) -> None:
        self.layout, self.state, self.deadline, self.emit = layout, state, deadline, emit
        self.components = [kind(layout, state.ports) for kind in types]
        self.ready = {component.name: threading.Event() for component in self.components}
        self.failure: BaseException | None = None
        self.started: list[Component] = []
        self._lock = threading.Lock()

    def run(self) -> None:
        # Secrets that several components share are created before their threads start.
        for name in _SHARED_SECRETS:
            self.layout.secret(name)
        mlflow_environment(self.layout)
        threads = [threading.Thread(target=self._bring_up, args=(each,), daemon=True) for each in self.components]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                # In short steps, so that Ctrl-C is noticed.
                while thread.is_alive():
                    thread.join(0.1)
            if self.failure is not None:
                raise self.failure
        except BaseException as error:
            # After Ctrl-C too, nothing that this call started may stay.
            self.failure = error
            for thread in threads:
                thread.join(10.0)
            for component in reversed(self.started):
                stop_component(component, self.state)
            self.layout.save(self.state)
            raise

    def _bring_up(self, component: Component) -> None:
        try:
            for need in component.needs:
                while not self.ready[need].wait(0.1):
                    self._check_time(component, f"{need} to come up")
            # A component that an earlier `up` started stays.
            if not self._is_up(component):
                self._start(component)
            component.initialize()
            self.ready[component.name].set()
        except BaseException as error:
            with self._lock:
                # The first failure is the cause of the others.
                self.failure = self.failure or error

    def _is_up(self, component: Component) -> bool:
        return all(supervisor.find(self.state.processes.get(name)) for name in component.processes) and not any(
            health_error(address) for address in component.health_addresses()
        )

    def _start(self, component: Component) -> None:
        started_s = time.monotonic()
        with self._lock:
            self.started.append(component)
        for attempt in range(1, component.attempts + 1):
            # Part of it may still run, such as one of Ceph's daemons.
            stop_component(component, self.state)
            component.start(self._launch)
            ended = self._wait_for_answers(component)
            if ended is None:
                elapsed_s = time.monotonic() - started_s
                self.emit(f"{component.name} is up at {component.address()} after {elapsed_s:.0f} s")
                return
            if attempt < component.attempts:
                self.emit(f"{component.name}: {ended} ended while starting; it is started again")
        raise RunFailed(f"{component.name}: {ended} ended while starting; {self._log_tail(ended or '')}")

    def _wait_for_answers(self, component: Component) -> str | None:
        """Waits until all answer; returns a process that ended instead."""
        while errors := [text for address in component.health_addresses() if (text := health_error(address, 2.0))]:
            for name in component.processes:
                if supervisor.find(self.state.processes.get(name)) is None:
                    return name
            self._check_time(component, f"an answer ({errors[0]}); {self._log_tail(component.processes[-1])}")
            time.sleep(0.1)
        return None

    def _launch(self, launch: supervisor.Launch) -> None:
        with self._lock:
            if self.failure is not None:
                raise RunFailed(f"{launch.name}: not started, because another component failed")
            process = supervisor.start(launch, log=self.layout.log(launch.name), mark=self.layout.mark)
            self.state.processes[launch.name] = process
            # Recorded at once: a killed `up` must leave no process that `down` does not know.
            self.layout.save(self.state)

    def _check_time(self, component: Component, awaited: str) -> None:
        if self.failure is not None:
            raise RunFailed(f"{component.name}: given up, because another component failed")
        if time.monotonic() > self.deadline:
            raise RunFailed(f"{component.name}: waited too long for {awaited}")

    def _log_tail(self, name: str) -> str:
        log = self.layout.log(name)
        try:
            raw = log.read_bytes()[-_LOG_TAIL_BYTES:]
        except OSError:
            return f"it wrote nothing to {log}"
        text = raw.decode(errors="replace")
        # The message may go into a terminal's history or a bug report.
        for secret in (self.layout.root / "secrets").iterdir():
            text = text.replace(secret.read_text(encoding="utf-8").strip() or "\0", "…")
        return f"the end of {log}:\n{text.strip()}"


def component_types(store: str) -> tuple[type[Component], ...]:
    """Components in starting order; `UserError` for an unknown store."""
    if store not in STORES:
        raise UserError(f"store {store!r} is not known; need {' or '.join(STORES)}")
    return (Postgres, STORES[store], Head, MLflow, Worker1, Worker2)


def stop_component(component: Component, state: StackState) -> int:
    """Stops a component's processes, last started first; returns their number."""
    count = 0
    for name in reversed(component.processes):
        identity = state.processes.pop(name, None)
        if identity is None:
            continue
        family = supervisor.find_family([identity])
        leader = family.pop(identity.pid, None)
        supervisor.stop(leader, family.values(), how=component.stop_signal, patience_s=_STOP_WAIT_S)
        count += len(family) + (leader is not None)
    return count


def assign_ports(state: StackState, types: Sequence[type[Component]], emit: Callable[[str], None]) -> None:
    """Gives each component its ports."""
    # It keeps those it had, if they are free or its own process has them; a change is emitted.
    for kind in types:
        is_running = any(supervisor.find(state.processes.get(name)) for name in kind.processes)
        for name in kind.ports:
            port = state.ports.get(name)
            if port is not None and (is_running or is_free(port)):
                continue
            state.ports[name] = free_port(state.ports.values())
            if port is not None:
                emit(f"port {port} of {name} is taken by another program; it is {state.ports[name]} now")
