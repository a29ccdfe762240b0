"""What listens while a sweep runs."""

import contextlib
import ipaddress
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LISTENING = "0A"  # a state in /proc/net/tcp


def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """``0100007F:1F90`` as 127.0.0.1: words of four bytes, each the wrong way round."""
    words = bytes.fromhex(text.partition(":")[0])
    found = ipaddress.ip_address(b"".join(words[i : i + 4][::-1] for i in range(0, len(words), 4)))
    return getattr(found, "ipv4_mapped", None) or found


def listening(driver: int) -> set[tuple[str, ipaddress.IPv4Address | ipaddress.IPv6Address]]:
    """(process, address) of every port that the driver and what it has started wait for somebody at."""
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    sockets = {f"socket:[{words[9]}]": address(words[1]) for words in lines if words[3] == LISTENING}
    family, found = {driver}, set()
    for path in sorted(
        Path("/proc").glob("[0-9]*"), key=lambda path: int(path.name)
    ):  # parents first, or at the next look
        with contextlib.suppress(OSError):  # it has ended meanwhile
            pid, parent = int(path.name), int((path / "stat").read_bytes().rpartition(b")")[2].split()[1])
            if pid in family or parent in family:
                family.add(pid)
                links = [os.readlink(link) for link in (path / "fd").iterdir()]  # noqa: PTH115 (a socket's is no path)
                found |= {
                    ((path / "comm").read_text(errors="replace").strip(), sockets[link])
                    for link in links
                    if link in sockets
                }
    return found


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Ray listens on loopback anyway")
def test_nothing_of_a_sweep_listens_beyond_loopback(tmp_path: Path) -> None:
    command = [
        sys.executable, str(ROOT / "sweeps" / "latent_sweep.py"), "--dataset=digits", "--models=VAE", "--latent-dims=2",
        "--seeds=1", "--epochs=20", "--hidden-width=8", "--hidden-layers=1", "--gpus=0", "--name=s", f"--storage-path={tmp_path}",
    ]  # fmt: skip
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as driver:
        found = set()
        while driver.poll() is None:
            found |= listening(driver.pid)
            time.sleep(0.2)
        assert driver.stderr is not None
        assert driver.returncode == 0, driver.stderr.read()
    assert {"gcs_server", "raylet"} <= {name for name, _ in found}
    assert all(address.is_loopback for _, address in found), found
