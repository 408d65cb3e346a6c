#!/usr/bin/env bash
# Tests of training over MPI with real processes, two and four. Not part of continuous integration: it needs an MPI,
# which it installs on Debian and its relatives if there is none, and builds with feature `mpi`.
#
# usage: tools/mpi-test.sh
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v mpicc >/dev/null || ! command -v mpirun >/dev/null || ! ls /usr/lib/llvm-*/lib/libclang.so* >/dev/null 2>&1; then
    if ! command -v apt-get >/dev/null; then
        echo "needs mpicc, mpirun and libclang" >&2
        exit 2
    fi
    apt-get install --yes openmpi-bin libopenmpi-dev libclang-dev clang
fi
launch=(mpirun)
# More ranks than cores are no mistake here, and containers run as root.
if mpirun --version | grep -q "Open MPI"; then launch+=(--oversubscribe --allow-run-as-root); fi
# Four processes need no thread per core each.
export RAYON_NUM_THREADS=${RAYON_NUM_THREADS:-1}

# The path of a test program, from cargo's messages.
build() {
    cargo test --no-run --message-format=json "$@" |
        python3 -c 'import json, sys
for line in sys.stdin:
    message = json.loads(line)
    if message.get("executable") and message["target"]["name"] == sys.argv[1]: print(message["executable"])' "$name"
}

name=mpi program=$(name=mpi build -p vision-core --features mpi --test mpi)
for ranks in 2 4; do
    for test in calls training mismatch leaves; do
        echo "== $test on $ranks ranks"
        "${launch[@]}" -n "$ranks" "$program" "$test"
    done
    # Ranks that waited in vain end without MPI_Finalize, which mpirun reports.
    echo "== late on $ranks ranks"
    output=$("${launch[@]}" -n "$ranks" "$program" late 2>&1) || true
    echo "$output"
    if grep -q panicked <<<"$output"; then exit 1; fi
done

echo "== training of a recipe"
cargo test -p vision-train --features cli,mpi --test processes -- --ignored mpirun
echo "all tests over MPI passed"
