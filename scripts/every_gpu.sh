#!/usr/bin/env bash
# One lskd-run a GPU of this machine, all with the same arguments: scripts/every_gpu.sh experiment=muller_cifar10
# They share the work through the store. The first one shows its progress; the others write theirs to a temporary folder.
# The GPUs are those of CUDA_VISIBLE_DEVICES (numbers, UUIDs, MIG), as a cluster sets it for a job; else all there are.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 experiment=NAME [KEY=VALUE ...]" >&2; exit 2; }
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
  gpus=
  for gpu in ${CUDA_VISIBLE_DEVICES//,/ }; do
    [ "$gpu" != -1 ] || break  # CUDA sees none of those that follow
    gpus+=" $gpu"
  done
  [ -n "$gpus" ] || { echo "$0: CUDA_VISIBLE_DEVICES = '$CUDA_VISIBLE_DEVICES' names no GPU" >&2; exit 2; }
else
  # By UUID: nvidia-smi counts in the order of the bus, CUDA the fastest first.
  gpus=$(nvidia-smi --query-gpu=uuid --format=csv,noheader) || { echo "$0: nvidia-smi lists no GPU" >&2; exit 2; }
fi
logs=$(mktemp -d)
pids=()
trap 'kill -TERM "${pids[@]}" 2>/dev/null || true' INT TERM
code=0
first=true
for gpu in $gpus; do
  if $first; then first=false; own=$gpu; continue; fi
  CUDA_VISIBLE_DEVICES=$gpu lskd-run "$@" >"$logs/gpu$gpu.log" 2>&1 &
  pids+=($!)
  echo "GPU $gpu: $logs/gpu$gpu.log"
done
CUDA_VISIBLE_DEVICES=$own lskd-run "$@" || code=$?
for pid in ${pids[@]+"${pids[@]}"}; do wait "$pid" || code=$?; done
exit "$code"
