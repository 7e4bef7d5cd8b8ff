"""Tells systemd how the service is: https://www.freedesktop.org/software/systemd/man/sd_notify.html"""

import os
import socket
from contextlib import suppress


def notify(state: str) -> None:
    """Send a line such as `READY=1`, if systemd started this process and wants to know."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    # Without an answer: systemd will notice that nothing came.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, suppress(OSError):
        sender.sendto(state.encode(), address)
