#!/usr/bin/env bash
# Installs what was built into new environments outside of the clone, and runs the demo there.
# Usage: scripts/test_package.sh DIST CONSTRAINTS, with the Python to use in $PYTHON.
set -euo pipefail

dist="$(realpath "$1")" constraints="$(realpath "$2")"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
for file in "$dist"/*.whl "$dist"/*.tar.gz; do
    echo "== $(basename "$file")"
    "$PYTHON" -m venv --clear venv
    venv/bin/python -m pip install --quiet --disable-pip-version-check -c "$constraints" "$file"
    venv/bin/mipp --version
    venv/bin/mipp demo
done
