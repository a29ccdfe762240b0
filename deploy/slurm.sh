#!/bin/bash
#SBATCH --job-name=fishernet
#SBATCH --nodes=3
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@120
# A Ray cluster over one allocation and a sweep on it (checked for syntax; no SLURM has run it): sbatch deploy/slurm.sh --preset quick --name quick
# With GPUs: sbatch --gpus-per-node=4 deploy/slurm.sh --name paper. Sent twice with the same --name, it goes on where it stopped.
# Needed: this folder with its .venv, and FISHERNET_STORAGE and FISHERNET_DATA_DIR, on a file system that all nodes see;
# MLFLOW_TRACKING_URI of a server, or the records go to mlflow.db in the storage folder, which SQLite must be able to lock.
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
export PATH=$PWD/.venv/bin:$PATH
storage=${FISHERNET_STORAGE:?"is the folder for checkpoints and results, on a file system that all nodes see"}
# Other users share these machines: without the token nobody joins this cluster or runs code in it.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN RAY_worker_niceness=0 RAY_USAGE_STATS_ENABLED=0
RAY_AUTH_TOKEN=$(openssl rand -hex 32)
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun no longer takes it from sbatch
head=$(hostname)
address=$(hostname --ip-address | awk '{print $1}'):$((20000 + SLURM_JOB_ID % 10000)) # two jobs may share a machine
resources=(--num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --temp-dir="/tmp/ray-$SLURM_JOB_ID")

for attempt in 1 2 3; do # Ray gives a node 30 s to come up, which a busy machine may need for loading it the first time
  srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --node-ip-address="${address%:*}" --port="${address##*:}" --include-dashboard=false "${resources[@]}" --block &
  node=$!
  until ray health-check --address="$address" >/dev/null 2>&1; do
    kill -0 $node 2>/dev/null || continue 2 # it has ended
    sleep 2
  done
  break
done
if ! kill -0 $node 2>/dev/null; then
  echo "error: the head of the Ray cluster did not start on $head, at $address; what Ray says is above" >&2
  exit 1
fi
if ((SLURM_JOB_NUM_NODES > 1)); then
  srun --nodes=$((SLURM_JOB_NUM_NODES - 1)) --ntasks=$((SLURM_JOB_NUM_NODES - 1)) --exclude="$head" \
    ray start --address="$address" "${resources[@]:0:2}" --block &
  # The sweep plans for the nodes that are there when it starts.
  python - "$address" "$SLURM_JOB_NUM_NODES" <<'END'
import sys, time, ray
ray.init(sys.argv[1], log_to_driver=False, logging_level="ERROR")
deadline = time.monotonic() + 300
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]) and time.monotonic() < deadline:
    time.sleep(1)
END
fi

python sweeps/latent_sweep.py --address "$address" --storage-path "$storage" "$@" &
sweep=$!
trap 'kill -TERM $sweep' TERM # two minutes before the time is over: the sweep closes its books, and can be resumed
while kill -0 $sweep 2>/dev/null; do wait $sweep && status=0 || status=$?; done
exit "$status" # the allocation ends, and with it every Ray process
