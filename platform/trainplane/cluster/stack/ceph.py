"""Ceph as a real object store on one machine.

A monitor, one storage daemon on a sparse file, and the S3 gateway, all on loopback, each with its own key. Objects
survive `down`, in one copy only. Written against Ceph 16.2 of Debian 12.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from trainplane.cluster.ports import HOST
from trainplane.cluster.stack.object_store import ObjectStore
from trainplane.cluster.stack.supervisor import Launch
from trainplane.errors import RunFailed

PROGRAMS = ("ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "ceph", "ceph-authtool", "monmaptool")
STORE_BYTES = 16 * 2**30
_STEP_TIMEOUT_S = 120

_CONFIGURATION = """[global]
fsid = {fsid}
mon host = [v2:{host}:{port}]
mon initial members = a
public addr = {host}
cluster addr = {host}
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
keyring = {root}/$name.keyring
run dir = {run}
admin socket = {run}/$name.asok
log file = {root}/$name.log
log to stderr = false
crash dir = {root}/crash
mon cluster log file = {root}/cluster.log
# One daemon holds the only copy.
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
auth allow insecure global id reclaim = false
# Each step of the first start changes a map; do not gather changes by the second.
paxos propose interval = 0.05
paxos min wait = 0.01

[mon.a]
mon data = {root}/mon
# A laptop's disk may be nearly full.
mon data avail warn = 2
mon data avail crit = 1

[osd.0]
osd data = {root}/osd
osd objectstore = bluestore
bluestore block create = true
bluestore block size = {size}
osd memory target = 939524096
bluestore fsck on mount = false

[client.rgw]
rgw frontends = beast endpoint={host}:{s3_port} tcp_nodelay=1
rgw data = {root}/rgw
rgw thread pool size = 64
rgw run sync thread = false
rgw enable usage log = false
# Space of deleted and overwritten objects is free again soon.
rgw gc obj min wait = 60
rgw gc processor period = 60
"""


class Ceph(ObjectStore):
    """Ceph's S3, with a key pair that its gateway generates."""

    ports = ("store", "monitor")
    processes = ("ceph-mon", "ceph-osd", "radosgw")

    @classmethod
    def install_command(cls) -> str | None:
        """Names Debian's packages, unless all programs are on the path."""
        if all(shutil.which(program) for program in PROGRAMS):
            return None
        return "apt-get install -y --no-install-recommends ceph-mon ceph-osd radosgw ceph-common"

    @property
    def folder(self) -> Path:
        """Data folder of all three daemons."""
        return self.layout.data("ceph")

    @property
    def configuration(self) -> Path:
        """Configuration file of daemons and tools."""
        return self.folder / "ceph.conf"

    def start(self, launch: Callable[[Launch], None]) -> None:
        """Starts monitor, storage and gateway, in this order."""
        # Each needs the one before it. The first start creates their databases in between, through the daemons that
        # already run.
        ready = self.folder / "ready"
        if not ready.exists():
            # An interrupted first start is discarded: it holds no object yet.
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            (self.folder / "fsid").write_text(str(uuid.uuid4()), encoding="utf-8")
        self._configure()
        if not ready.exists():
            self._make_monitor()
        self._move_monitor()
        self._launch(launch, "ceph-mon", "a")
        if not ready.exists():
            self._make_storage()
        self._launch(launch, "ceph-osd", "0")
        if not ready.exists():
            self._make_user()
            ready.touch()
        self._launch(launch, "radosgw", "client.rgw", flag="-n")

    def _configure(self) -> None:
        text = _CONFIGURATION.format(
            fsid=(self.folder / "fsid").read_text(encoding="utf-8"),
            host=HOST,
            port=self.port["monitor"],
            s3_port=self.port["store"],
            root=self.folder,
            run=self.layout.run,
            size=STORE_BYTES,
        )
        self.configuration.write_text(text, encoding="utf-8")

    def _launch(self, launch: Callable[[Launch], None], program: str, member: str, *, flag: str = "-i") -> None:
        command = [shutil.which(program) or program, "-f", "-c", str(self.configuration), flag, member]
        launch(Launch(program, command, {"CEPH_ARGS": ""}, self.folder))

    def _make_monitor(self) -> None:
        """Creates the monitor's and administrator's keys, and its database."""
        keys, admin = self.folder / "mon.keyring", self.folder / "client.admin.keyring"
        self._run("ceph-authtool", str(keys), "--create-keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        # The monitor needs both keys: its own, and the administrator's to accept commands.
        rights = [word for service in ("mon", "osd", "mgr") for word in ("--cap", service, "allow *")]
        self._run("ceph-authtool", str(admin), "--create-keyring", "--gen-key", "-n", "client.admin", *rights)
        self._run("ceph-authtool", str(keys), "--import-keyring", str(admin))
        # The map of monitors: one, at this address.
        fsid = (self.folder / "fsid").read_text(encoding="utf-8")
        where = f"[v2:{HOST}:{self.port['monitor']}]"
        self._run(
            "monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", where, str(self.folder / "monmap")
        )
        (self.folder / "mon").mkdir()
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(self.folder / "monmap"), "--keyring", str(keys))
        keys.rename(self.folder / "mon.a.keyring")

    def _move_monitor(self) -> None:
        # Updates the monitor's address after its port has changed. Its database holds its own address, and another
        # program may have taken the port since the last start.
        recorded, port = self.folder / "monitor-port", str(self.port["monitor"])
        if recorded.exists() and recorded.read_text(encoding="utf-8") != port:
            monmap = str(self.folder / "monmap")
            self._run("ceph-mon", "-i", "a", "--extract-monmap", monmap)
            self._run("monmaptool", "--rm", "a", monmap)
            self._run("monmaptool", "--addv", "a", f"[v2:{HOST}:{port}]", monmap)
            self._run("ceph-mon", "-i", "a", "--inject-monmap", monmap)
        recorded.write_text(port, encoding="utf-8")

    def _make_storage(self) -> None:
        """Creates the sparse file, and keys of storage and gateway."""
        (self.folder / "osd").mkdir()
        (self.folder / "rgw").mkdir()
        # The daemon is announced to the monitor, which assigns it number 0.
        self._run("ceph", "osd", "new", str(uuid.uuid4()), "0")
        # Each daemon has a key with the rights that it needs.
        grants = {"osd.0": ("mon", "allow profile osd", "osd", "allow *")}
        grants["client.rgw"] = ("mon", "allow rw", "osd", "allow rwx")
        for member, rights in grants.items():
            keyring = self.folder / f"{member}.keyring"
            self._run("ceph", "auth", "get-or-create", member, *rights, "-o", str(keyring))
            keyring.chmod(0o600)
        # The file must carry the identity that the monitor has recorded.
        osd_uuid = json.loads(self._run("ceph", "osd", "dump", "-f", "json"))["osds"][0]["uuid"]
        self._run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", osd_uuid)

    def _make_user(self) -> None:
        # Creates one user of S3. The gateway generates its keys and prints them, so that no command line has them.
        args = ["-n", "client.rgw", "user", "create", "--uid=isnet", "--display-name=isnet", "--format=json"]
        # Ceph may write warnings before its JSON.
        output = self._run("radosgw-admin", *args)
        keys = json.loads(output[output.index("{") :])["keys"][0]
        self.layout.write_secret("AWS_ACCESS_KEY_ID", keys["access_key"])
        self.layout.write_secret("AWS_SECRET_ACCESS_KEY", keys["secret_key"])

    def _run(self, program: str, *args: str) -> str:
        """Runs one step of the set-up; returns its standard output."""
        # These two work on files alone and accept no configuration.
        command = [program, "-c", str(self.configuration), *args]
        if program in ("ceph-authtool", "monmaptool"):
            command = [program, *args]
        try:
            done = subprocess.run(
                command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=_STEP_TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            raise RunFailed(f"store: {program} {args[0]} did not end within {_STEP_TIMEOUT_S} s") from error
        if done.returncode != 0:
            raise RunFailed(f"store: {program} {' '.join(args[:2])} failed: {done.stderr.strip()[-400:]}")
        return done.stdout

    def health_addresses(self) -> Sequence[str]:
        """Address of the gateway."""
        return (f"{self.address()}/",)
