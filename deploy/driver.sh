#!/bin/sh
# A driver on the compose cluster: this container joins as a node without CPUs, as a Ray driver needs a node beside it.
# The driver then takes this process's place, so that Ctrl-C, `docker stop` and the exit status are its own.
log=/tmp/ray-start.log
for attempt in 1 2 3; do # Ray gives a node 30 s to come up, which a busy machine may need for loading it the first time
  if ray start --address=head:6379 --num-cpus=0 --num-gpus=0 --object-store-memory="$OBJECT_STORE_BYTES" >"$log" 2>&1; then
    exec "$@"
  fi
  ray stop --force >/dev/null 2>&1 # in this container alone
done
echo "error: the Ray cluster at head:6379 cannot be joined; is it up (docker compose ps)? Ray says:" >&2
grep . "$log" | tail -n 1 >&2 # the lines before it are a traceback
exit 2
