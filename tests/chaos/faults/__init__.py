"""All faults by name; those whose name begins with ``ALONE`` are of ``python -m fishernet``, the others of a sweep."""

from collections.abc import Callable
from signal import SIGINT, SIGTERM

from tests.chaos.faults.files import damage_newest_checkpoint, load_damaged
from tests.chaos.faults.machine import diverge, fill_disk, jump_clock, run_out_of_memory
from tests.chaos.faults.mlflow import lock_database, stop_mlflow_at_the_end, stop_mlflow_midway
from tests.chaos.faults.processes import interrupt, kill_driver, kill_workers, share_cluster, start_twice
from tests.chaos.place import Place

ALONE = "python -m fishernet: "
FAULTS: dict[str, Callable[[Place, int], None]] = {
    f"{ALONE}killed with kill -9, started again": kill_driver,
    f"{ALONE}Ctrl-C at any moment, started again": interrupt(SIGINT, everyone=True),
    f"{ALONE}SIGTERM at any moment, started again": interrupt(SIGTERM, everyone=False),
    f"{ALONE}the disk full at --out, then freed, started again": fill_disk,
    f"{ALONE}killed and its checkpoint damaged, started again": damage_newest_checkpoint,
    f"{ALONE}the clock jumps by days": jump_clock,
    f"{ALONE}a cohort out of memory": run_out_of_memory,
    f"{ALONE}a member that diverges": diverge,
    "a checkpoint or stored weights damaged, loaded": load_damaged,
    "a worker killed with kill -9": kill_workers,
    "the driver killed with kill -9, resumed": kill_driver,
    "Ctrl-C at any moment, resumed": interrupt(SIGINT, everyone=True),
    "SIGTERM at any moment, resumed": interrupt(SIGTERM, everyone=False),
    "the tracking database locked by another writer": lock_database,
    "the disk full at the storage path, then freed, resumed": fill_disk,
    "the driver killed and the newest checkpoints damaged, resumed": damage_newest_checkpoint,
    "the same sweep started twice": start_twice,
    "a member that diverges": diverge,
    "a cohort out of memory": run_out_of_memory,
    "MLflow's server stopped for a minute in the middle": stop_mlflow_midway,
    "MLflow's server stopped for a minute at the very end": stop_mlflow_at_the_end,
    "two sweeps at once on one cluster and one store": share_cluster,
}
