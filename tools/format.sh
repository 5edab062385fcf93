#!/bin/bash
# Formats our C++ files with the pinned clang-format; with --check it changes nothing and fails where it would.
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup/python.sh format

folders=()
for folder in include src tests examples bench fuzz; do
  if [ -d $folder ]; then folders+=($folder); fi
done
mode=(-i)
if [ "${1:-}" = --check ]; then mode=(--dry-run --Werror); fi
find "${folders[@]}" \( -name '*.h' -o -name '*.cpp' \) -print0 | xargs -0 build/venv/bin/clang-format "${mode[@]}"
