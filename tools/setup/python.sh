#!/bin/bash
# python.sh PART…: a private Python environment, build/venv, with the named parts:
#   torch      the PyTorch wheel, whose libtorch the build links: $TORCH_SPEC, from $TORCH_INDEX_URL or pip's own index
#   reference  diffusers, peft and transformers, to make reference data and to be measured against
#   format     the pinned clang-format
# A part is installed again only when its pins changed. $PYTHON names the interpreter (3.11 or later).
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=build/venv

if ! $venv/bin/python -c '' 2>/dev/null; then
  python=${PYTHON:-$(python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo python3 || echo python3.11)}
  echo "python: making $venv with $python"
  rm -rf $venv && mkdir -p build
  "$python" -m venv $venv || { rm -rf $venv; echo "python: '$python -m venv' failed; PYTHON=… names another" >&2; exit 1; }
fi

# part NAME PINS PIP-ARGUMENT…: runs pip install where PINS are not those of the last run.
part() {
  local stamp=$venv/.$1 pins=$2
  [ "$(cat "$stamp" 2>/dev/null)" != "$pins" ] || return 0
  echo "python: installing $1"
  if ! $venv/bin/python -m pip install --disable-pip-version-check "${@:3}"; then
    echo "python: pip could not install $1; PYTHON, TORCH_SPEC and TORCH_INDEX_URL choose others (see CONTRIBUTING.md)" >&2
    exit 1
  fi
  echo "$pins" > "$stamp"
}

torch() {
  local spec=${TORCH_SPEC:-torch==2.13.0} index=${TORCH_INDEX_URL:-}
  part torch "$spec $index" ${index:+--index-url "$index"} "$spec"
}
pinned() { part "$1" "$(cat "tools/setup/requirements-$1.txt")" --quiet -r "tools/setup/requirements-$1.txt"; }

for name in "$@"; do
  case $name in
    torch) torch ;;
    reference) torch && pinned reference ;;  # torch first: a dependency on it must not choose the build
    format) pinned format ;;
    *) echo "python: no part $name" >&2; exit 2 ;;
  esac
done
