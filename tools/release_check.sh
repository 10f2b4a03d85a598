#!/usr/bin/env bash
# Is this tree ready for a tag? Builds wheel and sdist, installs the wheel in a fresh environment, and runs the whole way.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-.venv/bin/python}"
place="$(mktemp -d)"
trap 'rm -rf "$place"' EXIT
version="$("$python" -c 'from virtual_stain.version import __version__; print(__version__)')"
grep -q "^## $version" CHANGELOG.md || { echo "CHANGELOG.md: expected a heading '## $version'." >&2; exit 3; }
grep -q "^version: $version$" CITATION.cff || { echo "CITATION.cff: expected 'version: $version'." >&2; exit 3; }
echo "1/4 building wheel and sdist of $version"
"$python" -m pip install --quiet --disable-pip-version-check build -c constraints.txt
"$python" -m build --outdir "$place/dist" . >"$place/build.log" 2>&1 || { cat "$place/build.log" >&2; exit 1; }
ls -l "$place/dist"
echo "2/4 a fresh environment"
"$python" -m venv "$place/venv"
echo "3/4 installing the wheel with the tested versions"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check -c constraints.txt "$place"/dist/*.whl
echo "4/4 vstain demo --small, away from the sources"
cd "$place"
"$place/venv/bin/vstain" --version
"$place/venv/bin/vstain" demo --small --out "$place/demo"
echo "release-check: $version installs from its wheel and goes the whole way"
