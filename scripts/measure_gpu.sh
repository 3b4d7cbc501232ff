#!/usr/bin/env bash
# What docs/performance.md leaves "not measured", on one GPU: scripts/measure_gpu.sh [FOLDER [PART ...]]
# Parts, most important first: tests wrn resnet18 resnet56 muller (all: about fifteen minutes; the first three: under ten).
# Writes a log, a table and JSON for each into FOLDER (default results/bench); each part stands if another fails.
set -uo pipefail
out=${1:-results/bench}
shift $(( $# > 0 ? 1 : 0 ))
parts=${*:-tests wrn resnet18 resnet56 muller}
python=${PYTHON:-python}
"$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null || { echo "$0: torch sees no GPU" >&2; exit 2; }
mkdir -p "$out"
code=0
bench() {  # NAME SECONDS-AT-MOST ARGUMENTS...
  local name=$1 limit=$2
  shift 2
  timeout "$limit" "$python" -m lskd.bench.cli --device cuda --json "$out/$name.json" "$@" >"$out/$name.txt" 2>"$out/$name.log" || code=1
  cat "$out/$name.txt"
}
for part in $parts; do
  case $part in
    tests)  # captured steps, runs side by side, one step against the CPU's: the engine is right
      timeout 150 "$python" -m pytest -q -p no:cacheprovider tests/engine tests/bench -k cuda 2>&1 | tee "$out/tests.txt" || code=1 ;;
    wrn)  # the ratios and floors of the main pair, alone and in fleets
      bench wrn 290 --pairs wrn_40_2-wrn_16_2 --fleet 1,4,16 --seconds 0.7 ;;
    resnet18)  # 1 s an epoch?
      bench resnet18 120 --pairs resnet18 --precisions bf16 --fleet 1,2,4,8 --seconds 1 --repeats 2 --no-usual ;;
    resnet56)  # its share of the memory floor
      bench resnet56 150 --pairs resnet56 --fleet 1,4,16 --seconds 0.7 --repeats 2 --no-usual ;;
    muller)
      bench muller 200 --pairs resnet56_t2t-alexnet,mlp1200-mlp800 --fleet 1,8 --seconds 0.5 --repeats 2 --no-usual ;;
    *) echo "$0: no part $part; there are tests wrn resnet18 resnet56 muller" >&2; exit 2 ;;
  esac
done
exit $code
