"""Tells systemd how the service is: https://www.freedesktop.org/software/systemd/man/sd_notify.html"""

import os
import socket


def notify(state: str) -> bool:
    """Send a line such as `READY=1`, if systemd started this process and wants to know.

    False if systemd takes nothing at the moment, and it has to be sent again.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return True
    if address.startswith("@"):  # Linux's abstract namespace
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)  # no request waits for systemd
        try:
            sender.sendto(state.encode(), address)
        except BlockingIOError:
            return False
        except OSError:  # nobody is there to be told
            pass
    return True
