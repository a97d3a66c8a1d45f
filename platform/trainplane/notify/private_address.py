"""Refuses addresses inside the cluster.

An address in a file that is shared must not make a node ask its own services, its neighbours or the cloud's metadata
service. A name is resolved once, every answer is checked, and the connection goes to the address that was checked.
"""

from __future__ import annotations

import ipaddress
import re
import socket

# Names that only a machine's or a cluster's own resolver knows.
_LOCAL_NAME = re.compile(r"^localhost$|\.(localhost|local|internal|lan|home|corp|svc|cluster\.local|svc\.cluster)\.?$")
# IPv6 addresses that lead to the IPv4 address in their last four bytes (RFC 6052).
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Former IPv4-compatible addresses, and a network's own translation (RFC 8215): never public.
_NEVER_PUBLIC = (ipaddress.IPv6Network("::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))


class NotPublic(ValueError):
    """The address is not one of the public Internet."""


def check_literal(host: str) -> None:
    """Raises `NotPublic` for what needs no resolver. Pure.

    Args:
        host: A name, or an address without brackets.
    """
    # Resolvers take 127.1, 0x7f000001 and 2130706433 for loopback, too.
    if re.fullmatch(r"(0x[0-9a-f]+|\d+)(\.(0x[0-9a-f]+|\d+))*\.?", host.lower()):
        try:
            host = socket.inet_ntoa(socket.inet_aton(host.rstrip(".")))
        except OSError:
            raise NotPublic(f"{host} is no address") from None
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        if _LOCAL_NAME.search(host.lower()) or "." not in host:
            raise NotPublic(f"{host} is a name of this machine or this cluster") from None
        return
    if not is_public(address):
        raise NotPublic(f"{host} is an address of this machine, its network or its cloud")


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """True for an address that every machine can reach."""
    if isinstance(address, ipaddress.IPv6Address):
        if any(address in network for network in _NEVER_PUBLIC):
            return False
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast


def resolve_checked(host: str, port: int, *, allow_private: bool) -> str:
    """Resolves a host once; returns the address to connect to.

    Raises:
        NotPublic: One of its addresses is private, and private ones are not allowed.
        OSError: The name is not known.
    """
    if not allow_private:
        check_literal(host)
    answers = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    # One private answer among public ones is how a name is turned against its reader.
    for answer in answers if not allow_private else ():
        if not is_public(ipaddress.ip_address(answer.partition("%")[0])):
            raise NotPublic(f"{host} leads to {answer}, an address of this machine, its network or its cloud")
    return answers[0]
