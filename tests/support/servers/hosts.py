"""Hosts of one machine: network namespaces with addresses of their own on a bridge. Linux, root and `ip` only."""

import os
import secrets
import shutil
import subprocess
from contextlib import contextmanager


def refusal():
    """Why namespaces cannot be made here, or None."""
    if shutil.which("ip") is None:
        return "the command `ip` is not installed (apt-get install iproute2)"
    if os.getuid() != 0:
        return "network namespaces need root"
    name = f"is{secrets.token_hex(3)}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"network namespaces may not be made here: {made.stderr.strip()}"
    try:
        for link in (["add", name, "type", "bridge"], ["del", name]):
            done = subprocess.run(["ip", "link", *link], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                return f"a bridge may not be made here: {done.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False)
    return None


def ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


class Hosts:
    """`address[name]` of each; `command(name, …)` runs there; `cut(name)` pulls its cable."""

    def __init__(self, names):
        self.tag = secrets.token_hex(2)
        self.bridge = f"isb{self.tag}"
        third = 1 + secrets.randbelow(250)
        # A block for benchmarks between networks (RFC 2544): nobody's real addresses.
        self.subnet = f"198.18.{third}"
        self.address = {name: f"{self.subnet}.{number}" for number, name in enumerate(names, 2)}

    def namespace(self, name):
        return f"is{self.tag}-{name}"

    def cable(self, name):
        return f"is{self.tag}{name[:6]}"

    def make(self):
        ip("link", "add", self.bridge, "type", "bridge")
        ip("addr", "add", f"{self.subnet}.1/24", "dev", self.bridge)
        ip("link", "set", self.bridge, "up")
        for name, address in self.address.items():
            inside, cable = self.namespace(name), self.cable(name)
            ip("netns", "add", inside)
            ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", inside)
            ip("link", "set", cable, "master", self.bridge, "up")
            ip("-n", inside, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", inside, "link", "set", "eth0", "up")
            ip("-n", inside, "link", "set", "lo", "up")
            ip("-n", inside, "route", "add", "default", "via", f"{self.subnet}.1")

    def unmake(self):
        for name in self.address:
            subprocess.run(["ip", "netns", "del", self.namespace(name)], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True, check=False)

    def command(self, name, *words):
        return ["ip", "netns", "exec", self.namespace(name), *words]

    def cut(self, name):
        ip("link", "set", self.cable(name), "down")

    def pids(self, name):
        listed = subprocess.run(
            ["ip", "netns", "pids", self.namespace(name)], capture_output=True, text=True, check=False
        )
        return {int(pid) for pid in listed.stdout.split()}


@contextmanager
def hosts(*names):
    made = Hosts(names)
    try:
        made.make()
        yield made
    finally:
        made.unmake()
