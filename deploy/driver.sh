#!/bin/sh
# A driver on the compose cluster: this container joins as a node without CPUs, as a Ray driver needs a node beside it.
# The driver then takes this process's place, so that Ctrl-C, `docker stop` and the exit status are its own.
log=/tmp/ray-start.log
ray start --address=head:6379 --num-cpus=0 --num-gpus=0 --object-store-memory="$OBJECT_STORE_BYTES" >"$log" 2>&1 || {
  echo "error: the Ray cluster at head:6379 cannot be joined; is it up (docker compose ps)? Ray says:" >&2
  tail -n 5 "$log" >&2
  exit 2
}
exec "$@"
