"""Targets of events, as a context in isnet.toml names them.

[context.lab.notify.team]
apprise = "env:TEAM_CHANNEL"           # Slack, Teams, mail, …: an address of apprise, always by reference
events = ["run.failed", "alias.*"]

[context.lab.notify.ops]
webhook = "https://hooks.example.com/isnet"
secret = "env:OPS_HOOK"                # signs what is sent, as Standard Webhooks has it
# allow_private = true                 # an address inside the cluster
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

from trainplane.cluster import context_values as values
from trainplane.errors import UserError, nearest
from trainplane.notify.event import KINDS
from trainplane.notify.private_address import NotPublic, check_literal

_KEYS = ("webhook", "apprise", "secret", "events", "allow_private")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
# They send to any address, unsigned and without the checks of a webhook.
_PLAIN_HTTP = ("json", "jsons", "xml", "xmls", "form", "forms", "apprise", "apprises")


@dataclass(frozen=True)
class Target:
    """Receiver of events; secrets are references until use."""

    name: str
    webhook: str = ""  # Address, or empty
    apprise: str = ""  # Reference to an address of apprise, or empty
    secret: str = ""  # Reference to a webhook's secret
    events: tuple[str, ...] = ("*",)  # Patterns of kinds
    allow_private: bool = False

    def wants(self, kind: str) -> bool:
        """True if events of this kind go here."""
        # A test is for the eyes of whoever calls it, whatever the patterns say.
        return kind == "test" or any(fnmatchcase(kind, pattern) for pattern in self.events)

    def resolved(self) -> Target:
        """Copy with the secrets themselves; `UserError` where one is missing."""
        what = f"notify.{self.name}"
        if self.apprise:
            address = values.secret("apprise", self.apprise, f"apprise of {what}")
            _check_apprise(address, what, allow_private=self.allow_private)
            return Target(**{**asdict(self), "apprise": address})
        return Target(**{**asdict(self), "secret": values.secret("secret", self.secret, f"secret of {what}")})


def targets_of(tables: object, what: str) -> tuple[Target, ...]:
    """Checks the tables of a context; no secret is read.

    Args:
        tables: Value of the key `notify`.
        what: Where it stands, for messages.
    """
    if not isinstance(tables, Mapping) or not all(isinstance(table, Mapping) for table in tables.values()):
        raise UserError(f"{what} is no table of targets; write [context.NAME.notify.TARGET] and its keys below")
    return tuple(_target(name, table, f"{what}.{name}") for name, table in tables.items())


def to_tables(targets: tuple[Target, ...]) -> dict[str, dict[str, Any]]:
    """Tables that `targets_of` reads; secrets stay references."""
    tables = {}
    for target in targets:
        table = {name: value for name, value in asdict(target).items() if value and name != "name"}
        tables[target.name] = {**table, "events": list(target.events)}
    return tables


def wanted_by(kind: str, targets: tuple[Target, ...]) -> list[str]:
    """Names of the targets for a kind of event."""
    return [target.name for target in targets if target.wants(kind)]


def _target(name: str, table: Mapping[str, Any], what: str) -> Target:
    if not _NAME.fullmatch(name):
        raise UserError(f"{what}: {name!r} is no name of a target; need up to 32 lower case letters, digits, - and _")
    for key, value in table.items():
        if key not in _KEYS:
            raise UserError(f"{what} has an unknown key {key!r}{nearest(key, _KEYS)}")
        if key in ("webhook", "apprise", "secret"):
            values.check_text(value, f"{key} of {what}")
    allow_private, events = table.get("allow_private", False), table.get("events", ["*"])
    if not isinstance(allow_private, bool):
        raise UserError(f"allow_private of {what} is {allow_private!r}; need true or false")
    if not isinstance(events, list) or not events or not all(isinstance(pattern, str) for pattern in events):
        raise UserError(f'events of {what} is {events!r}; need a list of kinds, such as ["run.failed", "alias.*"]')
    for pattern in events:
        # A misspelt kind would never be sent, without a warning.
        if not any(fnmatchcase(kind, pattern) for kind in KINDS):
            raise UserError(f"events of {what} has {pattern!r}, which is no event{nearest(pattern, tuple(KINDS))}")
    if ("webhook" in table) == ("apprise" in table):
        raise UserError(f'{what} needs one address; give either webhook = "https://…" or apprise = "env:NAME"')
    if "webhook" in table:
        _check_webhook(table, what, allow_private=allow_private)
    else:
        if "secret" in table:
            raise UserError(f"{what} has a secret and no webhook to sign; take it out")
        check_reference(table["apprise"], f"apprise of {what}")
    named = {key: table[key] for key in ("webhook", "apprise", "secret") if key in table}
    return Target(name, events=tuple(events), allow_private=allow_private, **named)


def _check_webhook(table: Mapping[str, Any], what: str, *, allow_private: bool) -> None:
    address = table["webhook"]
    parts = urlsplit(values.web_address(address, f"webhook of {what}"))
    if "secret" not in table:
        raise UserError(f'{what} has no secret, which signs what it is sent; give secret = "env:NAME"')
    check_reference(table["secret"], f"secret of {what}")
    if allow_private:
        return
    if parts.scheme != "https":
        raise UserError(
            f"webhook of {what} is http://…, which anybody on the way can read; give https://…, or allow_private = "
            "true for a receiver inside the cluster"
        )
    try:
        check_literal(str(parts.hostname))
    except NotPublic as error:
        raise UserError(f"webhook of {what}: {error}; {ALLOW}") from None


ALLOW = "name a public address, or set allow_private = true for this target"


def _check_apprise(address: str, what: str, *, allow_private: bool) -> None:
    """Refuses plain HTTP, and private hosts in the address."""
    parts = urlsplit(address)
    if parts.scheme in _PLAIN_HTTP:
        raise UserError(f"apprise of {what} is a plain HTTP address ({parts.scheme}://…); use webhook = … instead")
    # Most schemes have a token in place of a host, so a name alone says nothing.
    host = parts.hostname or ""
    if allow_private or not re.fullmatch(r"[0-9a-f.:x]*[.:][0-9a-f.:x]*|localhost|.*\.(svc|local|internal)", host):
        return
    try:
        check_literal(host)
    except NotPublic as error:
        raise UserError(f"apprise of {what}: {error}; {ALLOW}") from None


def check_reference(reference: str, what: str) -> None:
    """Refuses a secret that stands in the file itself."""
    # Its value is not shown: it may be the secret.
    if reference.partition(":")[0] not in ("env", "file") or not reference.partition(":")[2]:
        raise UserError(
            f"{what} is given by value; write a reference, 'env:NAME' or 'file:PATH', so that no secret stands in a "
            "file that is shared"
        )
