"""What the compose cluster and the manifests promise: loopback, no default password, health checks, one pinned image, no root."""

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
COMPOSE, GPU = ((ROOT / name).read_text() for name in ("docker-compose.yml", "docker-compose.gpu.yml"))
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
)
SECRETS = ("POSTGRES_PASSWORD", "RAY_AUTH_TOKEN")
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_reached_from_its_machine_alone(name):
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))
    assert SERVICES[name].get("network_mode") is None


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_runs_as_an_ordinary_user_on_a_read_only_root(name):
    service = SERVICES[name]
    assert service.get("user", "image") not in ("root", "0")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")


def test_the_image_ends_as_an_ordinary_user():
    users = re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)
    assert users
    assert users[-1] not in ("root", "0")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_limited_and_what_runs_for_long_is_watched_and_restarted(name):
    service = SERVICES[name]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    if "profiles" not in service:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


def test_services_start_in_the_order_of_their_health():
    waits = {name: service.get("depends_on", {}) for name, service in SERVICES.items()}
    assert {condition["condition"] for wait in waits.values() for condition in wait.values()} == {"service_healthy"}
    assert list(waits["mlflow"]) == ["postgres"]
    assert list(waits["worker"]) == ["head"]
    # `docker compose run` starts what its service depends on with one replica, and ends the others.
    assert "worker" not in waits["sweep"]


def test_no_password_has_a_default():
    for secret in SECRETS:
        uses = re.findall(rf"\$\{{?{secret}\b([^}}]*)", COMPOSE + GPU)
        assert uses
        assert all(use.startswith(":?") for use in uses), secret
        assert f"{secret}=\n" in (ROOT / ".env.example").read_text()
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()


def test_ray_asks_for_its_token_and_mlflow_for_its_hosts():
    for name in ("head", "worker", "sweep", "search"):
        assert SERVICES[name]["environment"]["RAY_AUTH_MODE"] == "token"
    hosts = SERVICES["mlflow"]["environment"]["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert "mlflow:5000" in hosts
    assert "*" not in hosts
    assert "0.0.0.0" not in hosts


def test_only_mlflow_reaches_the_database():
    inside = {name for name, service in SERVICES.items() if "records" in service.get("networks", [])}
    assert inside == {"postgres", "mlflow"}
    assert SERVICES["postgres"]["networks"] == ["records"]


def test_every_node_and_the_tracking_server_are_one_image_of_this_version():
    assert {s["image"] for name, s in SERVICES.items() if name != "postgres"} == {f"fishernet:{PROJECT['version']}"}
    assert re.fullmatch(r"postgres:\d+", SERVICES["postgres"]["image"])


def test_the_image_holds_the_pinned_versions():
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert set(bases) == {"python:3.11-slim"}
    installs = re.findall(r"(?:\$?uv|pip) (?:pip )?install (.*)", DOCKERFILE)
    assert len(installs) == 3
    assert all("constraints.txt" in install or "--no-deps" in install for install in installs)
    needed = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cluster"], "uv"]
    assert {re.split(r"[\[<>=~ ]", requirement)[0] for requirement in needed} <= set(PINS)


def test_every_node_sees_the_same_results_and_data():
    for name in ("head", "worker", "sweep", "search"):
        assert {volume.rpartition(":")[2] for volume in SERVICES[name]["volumes"]} == {"/data", "/results"}


def test_gpus_are_reserved_by_the_overlay_alone():
    assert "devices" not in COMPOSE
    overlay = yaml.safe_load(GPU)["services"]
    assert list(overlay) == ["worker"]
    devices = overlay["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}]
    started, limit = (re.search(r"WORKER_CPUS:-(\d+)", text)[1] for text in (overlay["worker"]["command"], GPU))
    assert int(started) == int(limit) >= 8  # a trial on each of a machine's GPUs


@pytest.mark.parametrize("files", [["docker-compose.yml"], ["docker-compose.yml", "docker-compose.gpu.yml"]], ids=len)
def test_compose_takes_the_files_and_names_the_password_that_is_missing(files):
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not installed")
    words = ["docker", "compose", "--env-file", os.devnull, *(w for f in files for w in ("-f", f)), "config", "-q"]
    bare = {name: value for name, value in os.environ.items() if name not in SECRETS}
    for missing in SECRETS:
        given = {secret: "x" for secret in SECRETS if secret != missing}
        done = subprocess.run(words, cwd=ROOT, env=bare | given, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert f"{missing} is missing a value: copy .env.example to .env and fill it in" in done.stderr
    done = subprocess.run(
        words, cwd=ROOT, env=bare | dict.fromkeys(SECRETS, "x"), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_kubernetes_manifest_keeps_the_same_promises():
    claim, cluster = yaml.safe_load_all((ROOT / "deploy" / "kuberay.yaml").read_text())
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert cluster["spec"]["rayVersion"] == PINS["ray"]
    assert cluster["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in (cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        mounts = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert container["image"].endswith(f"/fishernet:{PROJECT['version']}")
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            environment = {variable["name"]: variable for variable in container["env"]}
            assert environment["RAY_AUTH_MODE"]["value"] == "token"
            assert "secretKeyRef" in environment["RAY_AUTH_TOKEN"]["valueFrom"]
            assert {mount["name"] for mount in container["volumeMounts"]} == mounts


def test_the_slurm_script_is_shell_and_asks_for_its_shared_folder():
    script = ROOT / "deploy" / "slurm.sh"
    assert not subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=True).stderr
    bare = {"PATH": os.environ["PATH"], "SLURM_SUBMIT_DIR": str(ROOT)}
    done = subprocess.run(["bash", script], env=bare, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "FISHERNET_STORAGE: is the folder for checkpoints" in done.stderr


def test_the_slurm_script_ends_where_the_head_does_not_start(tmp_path):
    """SLURM's and Ray's commands are stand-ins: only the script is tried."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    stand_ins = {
        "srun": "echo started >> tries; exit 1",
        "ray": "exit 1",
        "openssl": "echo secret",
        "python": "echo trained",
    }
    for name, line in stand_ins.items():
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod(0o755)
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_CPUS_PER_TASK": "2",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }
    environment = job | {"PATH": os.environ["PATH"], "FISHERNET_STORAGE": str(tmp_path)}
    script = ["bash", str(ROOT / "deploy" / "slurm.sh")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 1
    assert "error: the head of the Ray cluster did not start on" in done.stderr
    assert "trained" not in done.stdout
    assert (tmp_path / "tries").read_text() == "started\n" * 3
    # It holds no pipe of the script's, whose reader would wait for it.
    (programs / "srun").write_text("#!/bin/sh\nexec sleep 20 >/dev/null 2>&1\n")
    (programs / "ray").write_text("#!/bin/sh\nexit 0\n")
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
