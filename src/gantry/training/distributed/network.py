"""Finds the network interface towards another machine."""

from __future__ import annotations

import fcntl
import socket
import struct
from contextlib import suppress

SIOCGIFADDR = 0x8915  # Linux's request for an interface's address


def interface_towards(address: str) -> str | None:
    """Return the network interface by which this machine reaches `address`, a host name or IPv4 address.

    Return None where it is the loopback or cannot be found (IPv6 only, not Linux).
    """
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(answer[20:24]) == own and not own.startswith("127."):
                    return name
    return None
