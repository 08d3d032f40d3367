"""Finds the network interface by which another machine is reached."""

from __future__ import annotations

import fcntl
import socket
import struct
from contextlib import suppress

SIOCGIFADDR = 0x8915  # Linux's request for an interface's address


def interface_towards(address: str) -> str | None:
    """The network interface by which this machine reaches `address`, a machine's name or number.

    None where that cannot be told (IPv6 alone, another system than Linux), or is the loopback.
    """
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing
        own = probe.getsockname()[0]
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # one without an address
                answer = fcntl.ioctl(probe, SIOCGIFADDR, struct.pack("256s", name.encode()))
                if socket.inet_ntoa(answer[20:24]) == own and not own.startswith("127."):
                    return name
    return None
