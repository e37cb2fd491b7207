#!/bin/sh
# Makes .venv hold what requirements.lock says and this checkout, editable. Safe to run again.
# A torch that is already in .venv is never replaced: everything else is resolved around it.
set -eu
cd "$(dirname "$0")/.."
venv=.venv

find_python() {
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$candidate" && return
    done
    echo "setup: needs Python 3.11 or newer (set PYTHON=/path/to/python)" >&2
    exit 2
}

if [ ! -x $venv/bin/python ]; then
    "$(find_python)" -m venv $venv || {
        echo "setup: could not make $venv; on Debian: apt-get install python3-venv" >&2
        exit 2
    }
fi

# uv takes seconds where pip takes minutes, but reads none of pip's settings: hand over those that matter.
setting() { $venv/bin/python -m pip config get "global.$1" 2>/dev/null || true; }
uv=$(command -v uv || true)
[ -n "$uv" ] || { $venv/bin/python -m pip install -q uv >/dev/null 2>&1 && uv=$venv/bin/uv || true; }
if [ -n "$uv" ]; then
    links=${PIP_FIND_LINKS:-$(setting find-links)}
    index=${PIP_INDEX_URL:-$(setting index-url)}
    [ -z "$links" ] || export UV_FIND_LINKS="${UV_FIND_LINKS:-$links}"
    [ -z "$index" ] || export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$index}"
    # Bytecode now, or every worker that starts compiles for itself where the folder is not writable or writing is off.
    install() { "$uv" pip install --python $venv/bin/python --compile-bytecode "$@"; }
else
    install() { $venv/bin/python -m pip install "$@"; }
fi

lock=requirements.lock
present=$($venv/bin/python -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true)
if [ -n "$present" ] && [ "${present%%+*}" != "$(sed -n 's/^torch==//p' $lock)" ]; then
    echo "setup: keeping torch $present, which is already in $venv"
    mkdir -p build
    echo "torch==$present" >build/torch.txt
    grep -v -E '^(torch|torchvision)==' $lock >build/rest.txt
    install -q -r build/rest.txt -c build/torch.txt
    install -q torchvision -c build/torch.txt
else
    install -q -r $lock
fi
install -q --no-deps -e .
