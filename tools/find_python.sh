#!/bin/sh
# Prints the path of a Python that can make the environment: 3.11 (which the shipped results were
# made with) or 3.12, able to create virtual environments. Usage: find_python.sh [PREFERRED]
# A candidate is run, not only looked up: version managers leave stubs that exist and fail.

fits() {
    "$1" -c 'import sys, venv, ensurepip
sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1
}

if [ -n "$1" ]; then
    if fits "$1"; then echo "$1"; exit 0; fi
    echo "PYTHON=$1 is not a Python 3.11 or 3.12 with venv: name another, or leave PYTHON out" >&2
    exit 1
fi
# The environment's own, so that it is not remade when another Python comes to the path first. What
# is left of a deleted one may run too, but cannot make another.
ours=
[ -f .venv/pyvenv.cfg ] && ours=.venv/bin/python
for candidate in $ours \
    $(which -a python3.11 2>/dev/null) $(which -a python3.12 2>/dev/null) \
    $(which -a python3 python 2>/dev/null) \
    "$HOME"/.pyenv/versions/3.1[12].*/bin/python; do
    if fits "$candidate"; then echo "$candidate"; exit 0; fi
done
echo "threeregime needs Python 3.11 or 3.12 with its venv module: install one" \
    "(python.org, apt install python3.11-venv, brew install python@3.11) or name one: make PYTHON=..." >&2
exit 1
