"""A Debian that boots, with systemd as its first process and no network, in QEMU: a processor in software."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from empty_debian import NoDebian

PACKAGES = "systemd-sysv,dbus,linux-image-cloud-amd64,initramfs-tools,curl,procps"
UNIT = """
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh -eu /root/script
StandardOutput=file:/root/said
StandardError=file:/root/errors
ExecStopPost=/bin/sh -c 'echo $EXIT_STATUS > /root/status; systemctl poweroff --no-block'
[Install]
WantedBy=default.target
"""
LONGEST = 900  # seconds; it takes two minutes


def missing() -> list[str]:
    """What a Debian cannot be booted without, as far as it is not there."""
    return [name for name in ("mmdebstrap", "qemu-system-x86_64", "mke2fs", "debugfs") if not shutil.which(name)]


def boot(folder: Path, suite: str, files: Sequence[Path], script: str) -> tuple[int, str, str]:
    """Boot it with these files in /root and run a shell script; its exit status, output and errors.

    Raises NoDebian if it cannot be made.
    """
    root, image = folder / "root", folder / "disk"
    made = subprocess.run(
        ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={PACKAGES}", suite, str(root)], check=False
    )
    if made.returncode:
        raise NoDebian(f"mmdebstrap could not make a {suite} that boots: can its archive be reached?")
    for path in files:
        shutil.copy(path, root / "root")
    (root / "root/script").write_text(script)
    (root / "etc/systemd/system/script.service").write_text(UNIT)
    (root / "etc/systemd/system/default.target.wants").mkdir(exist_ok=True)
    (root / "etc/systemd/system/default.target.wants/script.service").symlink_to("../script.service")
    kernel, start = (next((root / "boot").glob(f"{name}-*")) for name in ("vmlinuz", "initrd.img"))
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(image), "3G"], check=True)
    subprocess.run(
        [
            "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3G", "-nic", "none",
            "-display", "none", "-serial", f"file:{folder / 'console'}", "-no-reboot",
            "-kernel", kernel, "-initrd", start, "-append", "root=/dev/vda rw console=ttyS0 panic=-1",
            "-drive", f"file={image},if=virtio,format=raw,cache=unsafe",
        ],
        check=True, timeout=LONGEST,
    )  # fmt: skip
    said = [
        subprocess.run(["debugfs", "-R", f"cat /root/{name}", str(image)], capture_output=True, text=True, check=True)
        for name in ("status", "said", "errors")
    ]
    return int(said[0].stdout or -1), said[1].stdout, said[2].stdout
