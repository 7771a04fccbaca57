"""Which hosts a webhook may call.

A job's author names the URL, and the executor calls it from inside the network: without a list he would reach what he cannot reach
himself, such as a cloud's metadata service. So a host must be listed; and a name, listed or not, may not lead to an address that
is not public, unless that address is listed too. The address that was looked at is the one that is called.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import httpx

from convsvc.errors import JobError, ServiceError
from convsvc.spec import Job

HOSTS, SECRET = "CONVSVC_WEBHOOK_HOSTS", "CONVSVC_WEBHOOK_SECRET"
LEAST_SECRET = 16  # characters

Address = IPv4Address | IPv6Address

_NAME = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")
# NAT64 leads to any IPv4 address, which is its last 32 bits (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class HostRefused(ServiceError):
    title, slug = "webhook host refused", "webhook-host"


@dataclass(frozen=True, slots=True)
class Hosts:
    """Names that may be called (`*.example.com` is every name below example.com), and addresses that may be though not public."""

    names: frozenset[str] = frozenset()
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.names or self.networks)

    def __str__(self) -> str:
        return ", ".join([*sorted(self.names), *map(str, self.networks)]) or "none"

    def check(self, url: str) -> httpx.URL:
        """The URL, if its host is listed. Raises HostRefused."""
        try:
            parsed = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise HostRefused(f"the webhook's URL is no URL: {error}") from None
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise HostRefused("the webhook's URL must begin with http:// or https:// and a host")
        if parsed.userinfo:
            raise HostRefused("the webhook's URL holds a user name or password", do="leave it out: calls are signed")
        if not self._lists(host_of(parsed)):
            raise HostRefused(
                f"webhooks to {host_of(parsed)} are not allowed",
                facts=[f"allowed: {self}"],
                do=f"ask the service's administrator to add the host to {HOSTS}",
                details={"host": host_of(parsed)},
            )
        return parsed

    def choose(self, host: str, addresses: list[str]) -> str:
        """The first of a host's addresses that may be called. Raises HostRefused."""
        for text in addresses:
            address = ipaddress.ip_address(text.partition("%")[0])
            if is_public(address) or self._holds(address):
                return text
        raise HostRefused(
            f"{host} leads to {', '.join(addresses) or 'no address'}, which is not public",
            do=f"where that is meant, list the address in {HOSTS} too",
        )

    def _lists(self, host: str) -> bool:
        try:
            return self._holds(ipaddress.ip_address(host))
        except ValueError:
            return host in self.names or any(name[0] == "*" and host.endswith(name[1:]) for name in self.names)

    def _holds(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


def parse_hosts(text: str) -> Hosts:
    """The list from its text, as it stands in $CONVSVC_WEBHOOK_HOSTS: names and addresses (or networks), separated by commas.

    >>> str(parse_hosts("ci.example.com, *.hooks.example.com, 10.1.2.3"))
    '*.hooks.example.com, ci.example.com, 10.1.2.3/32'

    Raises ServiceError for an entry that is neither.
    """
    names, networks = set(), []
    for entry in (part.strip().lower().rstrip(".") for part in text.split(",")):
        try:
            networks.append(ipaddress.ip_network(entry.strip("[]")))
        except ValueError:
            if entry and not _NAME.fullmatch(entry):
                raise ServiceError(
                    f"{HOSTS}: {entry!r} is neither a host's name nor an address",
                    do="write names (ci.example.com, *.example.com) and addresses (10.1.2.3, 10.1.0.0/16), separated by commas",
                ) from None
            names.add(entry)
    return Hosts(frozenset(names - {""}), tuple(networks))


@dataclass(frozen=True, slots=True)
class Webhooks:
    """Which webhooks this process lets through, and what their calls are signed with; no secret: none."""

    hosts: Hosts = Hosts()
    secret: str = ""

    def __repr__(self) -> str:
        return f"Webhooks({self.hosts})"  # the secret stays out of every log

    @property
    def enabled(self) -> bool:
        return bool(self.hosts and self.secret)

    def check(self, job: Job) -> None:
        """Raises JobError if the job has a webhook that would not be called."""
        if job.webhook is None:
            return
        if not self.enabled:
            raise JobError(
                "webhook: this service calls none",
                do=f"leave it out, or ask the service's administrator to set {HOSTS} and {SECRET}",
                details={"field": "webhook.url"},
            )
        try:
            self.hosts.check(job.webhook.url)
        except HostRefused as refused:
            raise JobError(f"webhook.url: {refused.message}", facts=refused.facts, do=refused.do, details=refused.details) from None


def webhooks_from(environment: Mapping[str, str] = os.environ) -> Webhooks:
    """As $CONVSVC_WEBHOOK_HOSTS and $CONVSVC_WEBHOOK_SECRET say; neither: no webhook is called. Raises ServiceError."""
    secret = environment.get(SECRET, "").strip()
    if 0 < len(secret) < LEAST_SECRET:
        raise ServiceError(f"{SECRET} is too short to sign with", do=f"use at least {LEAST_SECRET} characters: openssl rand -hex 32")
    return Webhooks(parse_hosts(environment.get(HOSTS, "")), secret)


def host_of(url: httpx.URL) -> str:
    """The URL's host as it is asked of DNS."""
    return url.raw_host.decode("ascii").lower().rstrip(".")


def is_public(address: Address) -> bool:
    """Whether everybody's packets to the address go to the same host out there; an address within an address counts as that.

    >>> [is_public(ipaddress.ip_address(text)) for text in ("93.184.216.34", "169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::7f00:1")]
    [True, False, False, False]
    """
    inner: Address | None = None
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
    if inner is not None:
        return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


def resolve(host: str, port: int) -> list[str]:
    """The host's addresses. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
