#!/bin/bash
# build.sh PRESET [TARGET…]: configures build/PRESET where a setting changed, then builds it.
# CMAKE_ARGS adds to the configuration; JOBS is the number of compilers at once.
set -euo pipefail
cd "$(dirname "$0")/../.."
preset=$1
shift

tools/setup/packages.sh
torch_dir=$(tools/setup/torch_dir.sh)

settings="$torch_dir ${CMAKE_ARGS:-} $(cat CMakePresets.json)"
stamp=build/$preset/.configured
if [ "$(cat "$stamp" 2>/dev/null)" != "$settings" ]; then
  rm -f "build/$preset/CMakeCache.txt"  # a stale cache would keep the libraries found before
  cmake --preset "$preset" -DTorch_DIR="$torch_dir" ${CMAKE_ARGS:-}
  echo "$settings" > "$stamp"
fi

# A compiler takes up to 1.5 GB.
memory_jobs=$(awk '/MemAvailable/ { print int($2 / 1572864) }' /proc/meminfo)
jobs=$(nproc)
if [ "$memory_jobs" -lt "$jobs" ]; then jobs=$((memory_jobs > 1 ? memory_jobs : 1)); fi
cmake --build --preset "$preset" --parallel "${JOBS:-$jobs}" ${*:+--target "$@"}
