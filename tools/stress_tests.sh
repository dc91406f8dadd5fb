#!/usr/bin/env bash
# Repeats the tests that depend on other processes beside busy processes: what fails only now and
# then, or only on a busy machine, fails here.
#
#   tools/stress_tests.sh [RUNS [BUSY]]      10 runs beside 4 busy processes by default
#
# PYTEST names the command. Each run is of the tests marked `processes` and of those marked
# `cluster`; all other tests run once. Ends with 1 if any test failed, and says which.
set -euo pipefail
cd "$(dirname "$0")/.."
runs=${1:-10} busy=${2:-4}
read -ra pytest <<<"${PYTEST:-.venv/bin/pytest}"
log=$(mktemp -d)
pids=()

finish() {
  kill "${pids[@]}" 2>/dev/null || true
}
trap finish EXIT

for _ in $(seq "$busy"); do
  (while :; do :; done) &
  pids+=($!)
done

failed=0
attempt() { # NAME MARKER
  local start=$SECONDS result=passed
  "${pytest[@]}" -q -p no:cacheprovider -m "$2" >"$log/$1" 2>&1 || result=FAILED
  if [ "$result" = FAILED ]; then
    failed=1
    grep -E "^(FAILED|ERROR)" "$log/$1" || tail -n 20 "$log/$1"
  fi
  echo "$1: $result in $((SECONDS - start)) s: $(tail -n 1 "$log/$1")"
}

echo "$runs runs beside $busy busy processes on $(nproc) cores; logs in $log"
for run in $(seq "$runs"); do
  attempt "processes-$run" "processes and not cluster"
  attempt "cluster-$run" cluster
done
attempt others "not processes and not cluster"
exit "$failed"
