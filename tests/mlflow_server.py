"""A real MLflow server for tests."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Self

SETTINGS = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class Server:
    """``mlflow server`` on a loopback port, ended with the block; it keeps its store and port when it is started again."""

    def __init__(self, store: str, folder: Path) -> None:
        self.port = unused_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        self.command += ["--backend-store-uri", store, "--artifacts-destination", str(folder), "--workers", "1"]
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, env=os.environ | SETTINGS, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
                return
            time.sleep(0.2)
        self.signal(signal.SIGKILL)
        raise TimeoutError("mlflow server did not start")

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)  # the server and its workers
        if number == signal.SIGKILL:
            self.process.wait()
