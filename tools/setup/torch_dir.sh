#!/bin/bash
# Prints the folder of the TorchConfig.cmake to build against: $Torch_DIR, else one in $CMAKE_PREFIX_PATH, else that of
# the wheel, which it installs.
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ -n "${Torch_DIR:-}" ]; then
  [ -f "$Torch_DIR/TorchConfig.cmake" ] || { echo "torch: Torch_DIR=$Torch_DIR holds no TorchConfig.cmake" >&2; exit 1; }
  realpath "$Torch_DIR"
  exit
fi
IFS=':;' read -ra prefixes <<< "${CMAKE_PREFIX_PATH:-}"
for prefix in "${prefixes[@]}"; do
  if [ -f "$prefix/share/cmake/Torch/TorchConfig.cmake" ]; then
    realpath "$prefix/share/cmake/Torch"
    exit
  fi
done
tools/setup/python.sh torch >&2
realpath build/venv/lib/python3*/site-packages/torch/share/cmake/Torch
