#!/usr/bin/env bash
# One lskd-run a GPU of this machine, all with the same arguments: scripts/every_gpu.sh experiment=muller_cifar10
# They share the work through the store. The first one shows its progress; the others write theirs to a temporary folder.
set -euo pipefail
[ $# -gt 0 ] || { echo "usage: $0 experiment=NAME [KEY=VALUE ...]" >&2; exit 2; }
gpus=$(nvidia-smi --query-gpu=index --format=csv,noheader) || { echo "$0: nvidia-smi lists no GPU" >&2; exit 2; }
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
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit "$code"
