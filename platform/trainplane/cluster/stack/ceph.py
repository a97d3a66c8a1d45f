"""A real object store on one machine: Ceph's monitor, one storage daemon on a sparse file, and the S3 gateway.

One copy of everything, on loopback, each daemon with a key of its own: a store to try things on that keeps them over
`down`, not one to trust with the only copy. Written against Ceph 16.2 of Debian 12.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from trainplane.cluster.stack.layout import HOST
from trainplane.cluster.stack.object_store import Store
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
# How full the disk of a laptop is, is not its affair.
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
# What was deleted or overwritten gives its room back soon.
rgw gc obj min wait = 60
rgw gc processor period = 60
"""


class Ceph(Store):
    """Ceph's S3, with a key pair that its gateway made up."""

    ports = ("store", "monitor")
    processes = ("ceph-mon", "ceph-osd", "radosgw")

    @classmethod
    def missing(cls) -> str | None:
        if all(shutil.which(program) for program in PROGRAMS):
            return None
        return "apt-get install -y --no-install-recommends ceph-mon ceph-osd radosgw ceph-common"

    @property
    def folder(self) -> Path:
        return self.site.data("ceph")

    @property
    def configuration(self) -> Path:
        return self.folder / "ceph.conf"

    def start(self, launch: Callable[[Launch], None]) -> None:
        ready = self.folder / "ready"
        if not ready.exists():
            # Half of a first start is worth nothing: there is no object in it yet.
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            (self.folder / "fsid").write_text(str(uuid.uuid4()), encoding="utf-8")
        self._configure()
        if not ready.exists():
            self._make_monitor()
        self._place_monitor()
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
            run=self.site.run,
            size=STORE_BYTES,
        )
        self.configuration.write_text(text, encoding="utf-8")

    def _launch(self, launch: Callable[[Launch], None], program: str, who: str, *, flag: str = "-i") -> None:
        command = [shutil.which(program) or program, "-f", "-c", str(self.configuration), flag, who]
        launch(Launch(program, command, {"CEPH_ARGS": ""}, self.folder))

    def _make_monitor(self) -> None:
        """Keys of the monitor and of whoever administers it, and its database of one member."""
        keys, admin = self.folder / "mon.keyring", self.folder / "client.admin.keyring"
        self._run("ceph-authtool", str(keys), "--create-keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        rights = [word for service in ("mon", "osd", "mgr") for word in ("--cap", service, "allow *")]
        self._run("ceph-authtool", str(admin), "--create-keyring", "--gen-key", "-n", "client.admin", *rights)
        self._run("ceph-authtool", str(keys), "--import-keyring", str(admin))
        fsid = (self.folder / "fsid").read_text(encoding="utf-8")
        where = f"[v2:{HOST}:{self.port['monitor']}]"
        self._run(
            "monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", where, str(self.folder / "monmap")
        )
        (self.folder / "mon").mkdir()
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(self.folder / "monmap"), "--keyring", str(keys))
        keys.rename(self.folder / "mon.a.keyring")

    def _place_monitor(self) -> None:
        """Tell a monitor whose port was taken meanwhile where it is now: its database has its own address in it."""
        noted, port = self.folder / "monitor-port", str(self.port["monitor"])
        if noted.exists() and noted.read_text(encoding="utf-8") != port:
            plan = str(self.folder / "monmap")
            self._run("ceph-mon", "-i", "a", "--extract-monmap", plan)
            self._run("monmaptool", "--rm", "a", plan)
            self._run("monmaptool", "--addv", "a", f"[v2:{HOST}:{port}]", plan)
            self._run("ceph-mon", "-i", "a", "--inject-monmap", plan)
        noted.write_text(port, encoding="utf-8")

    def _make_storage(self) -> None:
        """The storage daemon's and the gateway's keys, and the sparse file."""
        (self.folder / "osd").mkdir()
        (self.folder / "rgw").mkdir()
        self._run("ceph", "osd", "new", str(uuid.uuid4()), "0")
        grants = {"osd.0": ("mon", "allow profile osd", "osd", "allow *")}
        grants["client.rgw"] = ("mon", "allow rw", "osd", "allow rwx")
        for who, rights in grants.items():
            keyring = self.folder / f"{who}.keyring"
            self._run("ceph", "auth", "get-or-create", who, *rights, "-o", str(keyring))
            keyring.chmod(0o600)
        osd_uuid = json.loads(self._run("ceph", "osd", "dump", "-f", "json"))["osds"][0]["uuid"]
        self._run("ceph-osd", "--mkfs", "-i", "0", "--osd-uuid", osd_uuid)

    def _make_user(self) -> None:
        """One user of S3. The gateway makes its keys up and tells them on its output, so none stands in a command."""
        told = self._run(
            "radosgw-admin",
            "-n",
            "client.rgw",
            "user",
            "create",
            "--uid=isnet",
            "--display-name=isnet",
            "--format=json",
        )
        keys = json.loads(told[told.index("{") :])["keys"][0]
        self.site.write_secret("AWS_ACCESS_KEY_ID", keys["access_key"])
        self.site.write_secret("AWS_SECRET_ACCESS_KEY", keys["secret_key"])

    def _run(self, program: str, *words: str) -> str:
        """One step of the set-up; its standard output."""
        command = [program, "-c", str(self.configuration), *words]
        if program in ("ceph-authtool", "monmaptool"):
            command = [program, *words]
        try:
            done = subprocess.run(
                command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=_STEP_TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            raise RunFailed(f"store: {program} {words[0]} did not end within {_STEP_TIMEOUT_S} s") from error
        if done.returncode != 0:
            raise RunFailed(f"store: {program} {' '.join(words[:2])} failed: {done.stderr.strip()[-400:]}")
        return done.stdout

    def checks(self) -> Sequence[str]:
        return (f"{self.address()}/",)
