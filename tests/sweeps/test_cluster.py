"""Sweeps on a Ray cluster that was there before: what ``--address`` promises, and what is printed inside a container."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeps.latent_sweep import LatentSweep, _parse

ROOT = Path(__file__).resolve().parents[2]
BARE = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "RAY_", "TUNE_", "FISHERNET_COMMAND"))}
BARE["RAY_worker_niceness"] = "0"  # at Ray's 15, a worker on a machine that is busy may take minutes for its imports
# Ray's own cluster of several nodes on one machine: its processes are real, and its shutdown ends no others.
CLUSTER = (
    "import subprocess, sys, time\n"
    "from ray.cluster_utils import Cluster\n"
    "cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 0, 'include_dashboard': False})\n"
    "try:\n"
    "    sweep = subprocess.Popen([*sys.argv[2:], '--address', cluster.address])\n"
    "    time.sleep(float(sys.argv[1]))\n"
    "    early = sweep.poll()\n"
    "    cluster.add_node(num_cpus=1)\n"
    "    status = sweep.wait(timeout=300)\n"
    "finally:\n"
    "    cluster.shutdown()\n"
    "sys.exit('the sweep did not wait' if early is not None else status)\n"
)


@pytest.mark.long
def test_a_sweep_waits_for_the_workers_of_a_cluster_that_has_just_come_up(tmp_path):
    sweep = [sys.executable, str(ROOT / "sweeps" / "latent_sweep.py"), "--name=late", "--models=AE", "--seeds=1"]
    sweep += ["--latent-dims=2", "--dataset=digits", "--hidden-width=8", "--epochs=2", "--storage-path", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, "20", *sweep],
        cwd=tmp_path, env=BARE, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "on 1 CPU cores, no GPU: 1 trial at a time" in done.stdout
    assert (tmp_path / "late" / "figures" / "mse_curves.png").exists()


@pytest.mark.long
def test_a_cluster_without_workers_is_said_in_a_sentence():
    program = (
        "import ray\n"
        "from ray.cluster_utils import Cluster\n"
        "from fishernet.services import ray_cluster\n"
        "ray_cluster.WAIT_FOR_NODES_SECONDS = 1\n"
        "cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 0, 'include_dashboard': False})\n"
        "try:\n"
        "    ray_cluster.join(cluster.address, gpus=0)\n"
        "except ray_cluster.ClusterError as error:\n"
        "    print(error)\n"
        "finally:\n"
        "    ray.shutdown()\n"
        "    cluster.shutdown()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=BARE | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert "that Ray cluster has no CPU cores to give; start a worker beside it" in done.stdout, done.stderr


@pytest.mark.long
def test_a_cluster_none_of_whose_nodes_can_hold_a_trial_is_refused(tmp_path):
    """Two nodes of a core each are no node of two, and a core here is none beside the GPU there."""
    program = (
        "import sys\n"
        "from ray.cluster_utils import Cluster\n"
        "from sweeps.latent_sweep import LatentSweep, _parse\n"
        "from sweeps.flags import UsageError\n"
        "cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 2, 'include_dashboard': False})\n"
        "cluster.add_node(num_cpus=1, num_gpus=1)\n"
        "try:\n"
        "    flags = ['--address', cluster.address, *sys.argv[1:]]\n"
        "    print(LatentSweep(_parse(flags), flags).connect())\n"
        "except UsageError as error:\n"
        "    print(error)\n"
        "finally:\n"
        "    import ray\n"
        "    ray.shutdown()\n"
        "    cluster.shutdown()\n"
    )
    for flags, expected in (
        (
            ["--gpus=1", "--cpus-per-trial=2"],
            "--cpus-per-trial 2: no node of the cluster has as many CPU cores beside a GPU",
        ),
        (
            ["--gpus=0", "--cpus-per-trial=3"],
            "--cpus-per-trial 3: no node of the cluster has as many CPU cores; they have 1 (1 GPUs), 2 (0 GPUs)",
        ),
        (["--gpus=1"], "1 GPU: 1 trial at a time"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", program, *flags], cwd=ROOT, env=BARE | {"PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.stdout.startswith(expected), done.stdout + done.stderr


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system ties no process to cores")
def test_a_private_ray_uses_no_core_that_the_driver_may_not():
    program = (
        "import os\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from fishernet.services import ray_cluster\n"
        "print(ray_cluster.start(gpus=0)[0]['CPU'], 'of', os.cpu_count())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=BARE | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.stdout.startswith("1.0 of"), done.stderr


@pytest.mark.parametrize("command", [None, "docker compose run --rm"])
def test_the_command_that_resumes_is_one_that_can_be_typed_where_the_user_is(command, monkeypatch):
    monkeypatch.delenv("FISHERNET_COMMAND", raising=False)
    if command:
        monkeypatch.setenv("FISHERNET_COMMAND", command)
        monkeypatch.setenv("FISHERNET_UI", "http://127.0.0.1:5001")
    flags = ["--address=auto", "--storage-path=/results", "--report", "--tracking-uri=http://mlflow:5000"]
    sweep = LatentSweep(_parse([*flags, "--checkpoint-every=5"]), flags)
    kept = ["--tracking-uri", "http://mlflow:5000", "--checkpoint-every", "5"]
    if command:
        assert sweep.resume_command("mine").split() == [*command.split(), "sweep", "--resume", "mine", *kept]
        assert sweep.ui_command() == "http://127.0.0.1:5001 in a browser"
    else:
        words = sweep.resume_command("mine").split()
        again = vars(_parse(words[words.index("--resume") :]))
        assert again["report"] is True
        assert (again["address"], str(again["storage_path"]), again["checkpoint_every"]) == ("auto", "/results", 5)
        assert sweep.ui_command() == "http://mlflow:5000 in a browser"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes as Linux lists them")
def test_a_process_whose_name_is_cut_amid_a_letter_is_found():
    """The kernel keeps fifteen bytes of a name."""
    from fishernet.services.ray_cluster import _descendants

    program = (
        "import ctypes, time\n"
        "ctypes.CDLL(None).prctl(15, 'fourteen-ascii\u00e9'.encode())\n"
        "print(flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            with pytest.raises(UnicodeDecodeError):
                Path(f"/proc/{child.pid}/stat").read_text(encoding="utf-8")
            assert child.pid in _descendants(os.getpid())
        finally:
            child.kill()


def test_an_address_in_brackets_is_looked_up_without_them():
    from fishernet.services.ray_cluster import _check_answers

    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listener:
        _check_answers(f"[::1]:{listener.getsockname()[1]}")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes as Linux lists them")
def test_no_process_outlives_the_end_of_all_that_were_started():
    """Also those that others start meanwhile."""
    mark = f"30.{os.getpid()}"
    program = (
        "import subprocess, time\n"
        "from fishernet.services import ray_cluster\n"
        f"shell = 'for n in $(seq 300); do (sleep {mark} & wait) & done; wait'\n"
        "subprocess.Popen(['sh', '-c', shell])\n"
        "time.sleep(0.1)\n"
        "ray_cluster.end_processes()\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=BARE, timeout=120, check=True)

    def living() -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if mark.encode() in path.read_bytes():
                    found.append(path.parent.name)
        return found

    deadline = time.monotonic() + 10  # a killed process is dead a little later
    while left := living():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
