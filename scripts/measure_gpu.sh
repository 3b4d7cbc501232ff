#!/usr/bin/env bash
# What docs/performance.md leaves "not measured", on one GPU, in about ten minutes: scripts/measure_gpu.sh [FOLDER]
# Writes logs and JSON into FOLDER (default results/bench), most important first; each part stands if a later one fails.
set -uo pipefail
out=${1:-results/bench}
python=${PYTHON:-python}
mkdir -p "$out"
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null || { echo "$0: torch sees no GPU" >&2; exit 2; }
code=0
bench() {  # NAME SECONDS-AT-MOST ARGUMENTS...
  local name=$1 limit=$2
  shift 2
  timeout "$limit" "$python" -m lskd.bench.cli --device cuda --json "$out/$name.json" "$@" >"$out/$name.txt" 2>"$out/$name.log" || code=1
  cat "$out/$name.txt"
}
# 1. Captured steps, runs side by side, one step against the CPU's: the engine is right.
timeout 150 "$python" -m pytest -q -p no:cacheprovider tests/engine tests/bench -k "cuda or capture" 2>&1 | tee "$out/cuda_tests.txt" || code=1
# 2. The ratios and floors of the main pair, alone and in fleets.
bench wrn 200 --pairs wrn_40_2-wrn_16_2 --fleet 1,2,4,8,16 --seconds 1 --repeats 3
# 3. ResNet-18 at 1 s an epoch? ResNet-56's share of the memory floor?
bench resnet18 100 --pairs resnet18 --precisions bf16 --fleet 1,2,4,8 --seconds 1 --repeats 2 --no-usual
bench resnet56 120 --pairs resnet56 --fleet 1,4,8,16 --seconds 1 --repeats 2 --no-usual
# 4. Müller's networks.
bench muller 150 --pairs resnet56_t2t-alexnet,mlp1200-mlp800 --fleet 1,8 --seconds 0.5 --repeats 2 --no-usual
exit $code
