"""Connections to public addresses alone, for downloads from lists that others wrote.

An address in a list, or a redirect, may name this machine, a neighbour of it or the service that
tells a cloud machine its credentials (169.254.169.254). So the address that a socket is about to
connect to is looked at, by the event loop: behind DNS, behind redirects, whatever a host is called.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import Any

# what a private address may be wrapped in, and its first bit there
_WRAPPED = (
    (ipaddress.ip_network("64:ff9b::/96"), 96),  # NAT64
    (ipaddress.ip_network("2002::/16"), 16),  # 6to4
)


class NotPublic(OSError):
    """A host of a private network, or this machine."""


def is_public(text: str) -> bool:
    """True for an address that the whole Internet knows; IPv4 in IPv6 is what it stands for."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or (address.teredo or (None, None))[1]
        for network, first in _WRAPPED:
            if address in network:
                inner = ipaddress.IPv4Address(int(address) >> (96 - first) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return address.is_global and not address.is_multicast


class PublicLoop(asyncio.SelectorEventLoop):
    """An event loop whose sockets connect to public addresses alone. Raises NotPublic."""

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """As the base, which every connection of a client goes through."""
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or not is_public(address[0]):
            raise NotPublic(f"{address[0]} is no public address")
        await super().sock_connect(sock, address)


def refused_as_private(error: BaseException | None) -> NotPublic | None:
    """What stands behind a client's error, where it is this."""
    while error is not None and not isinstance(error, NotPublic):
        if isinstance(error, BaseExceptionGroup):
            found = (refused_as_private(one) for one in error.exceptions)
            return next((one for one in found if one is not None), None)
        error = error.__cause__ or error.__context__
    return error
