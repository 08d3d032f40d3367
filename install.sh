#!/bin/sh
# `make install`, or `sh install.sh` where there is no make: installs Gantry into .venv, and ends in a sentence where it
# cannot. PYTHON=... names another Python, the argument another folder.
PYTHON=${PYTHON:-python3}
VENV=${1:-.venv}
NEEDS=8 # GB of an installed .venv and of what pip unpacks meanwhile
AGAIN="then type make install again"

cd "$(dirname "$0")" || exit 1
was_there=
[ -e "$VENV" ] && was_there=yes

# Ends with a sentence. A half-made environment goes; one that was there before stays, without a new stamp.
fail() {
    [ -n "$was_there" ] || rm -rf "$VENV"
    printf '\n%s.\n' "$1" >&2
    exit 1
}

# Runs a command, shows what it says, and keeps it in $said: no file, since the disk may be full.
run() {
    said=$(
        {
            "$@" 2>&1
            echo "exit code $?"
        } | while IFS= read -r line; do
            printf '%s\n' "$line"
            case $line in "exit code "*) ;; *) printf '%s\n' "$line" >&2 ;; esac
        done
    )
    case $said in *"exit code 0") return 0 ;; *) return 1 ;; esac
}

has() {
    printf '%s\n' "$said" | grep -Eiq "$1"
}

# Prints what to do about what the last command said; nothing where that is not known.
advice() {
    if has 'no space left on device|disk quota exceeded'; then
        echo "The disk is full: free $NEEDS GB here and in ${TMPDIR:-/tmp} (TMPDIR=/folder names another for what pip unpacks), $AGAIN"
    elif has 'proxyerror|connect to proxy|tunnel connection failed|proxy authentication'; then
        echo "pip does not get through the proxy: export HTTPS_PROXY=http://user:password@host:port (or unset HTTPS_PROXY HTTP_PROXY ALL_PROXY where there is none), $AGAIN"
    elif has 'certificate.verify.failed|sslcertverificationerror|sslerror'; then
        echo "pip does not trust the certificate of its index, which a proxy may have replaced: export PIP_CERT=/path/to/its/certificate.pem, $AGAIN"
    elif has 'ssl module .*is not available'; then
        echo "$PYTHON was built without SSL, so that pip cannot fetch anything: name another with make install PYTHON=/path/to/python3.11"
    elif has 'newconnectionerror|establish a new connection|name resolution|name or service not known|nodename nor servname|network is unreachable|connection (refused|reset|broken|aborted)|timed out|timeout|max retries exceeded'; then
        echo "pip does not reach its package index: check the network; behind a proxy, export HTTPS_PROXY=http://host:port; with an index of your own, export PIP_INDEX_URL=https://...; $AGAIN"
    elif has 'do not match the hashes'; then
        echo "A package arrived damaged: type $VENV/bin/pip cache purge, $AGAIN"
    elif has 'no matching distribution|could not find a version|requires a different python'; then
        echo "Not every package of constraints.txt is to be had for Python $version on this machine ($(uname -sm)): try another with make install PYTHON=python3.11"
    elif has 'permission denied|read-only file system|operation not permitted'; then
        echo "A folder cannot be written to, see above: give yourself the right to (without sudo), or copy the checkout to a folder of your own, $AGAIN"
    elif has 'exit code 137|memoryerror|cannot allocate memory'; then
        echo "The installation was ended, mostly for lack of memory: close other programs, $AGAIN"
    fi
}

trap 'fail "Stopped; make install begins again"' INT TERM HUP
command -v "$PYTHON" >/dev/null 2>&1 ||
    fail "There is no $PYTHON here: install Python 3.11 or newer, or name it with make install PYTHON=/path/to/python3.11"
version=$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])') ||
    fail "$PYTHON does not run: name Python 3.11 or newer with make install PYTHON=/path/to/python3.11"
"$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "Gantry needs Python 3.11 or newer, and $PYTHON is Python $version: name a newer one with make install PYTHON=python3.11"

free=$(df -Pk . 2>/dev/null | awk 'NR == 2 { print int($4 / 1048576) }')
[ -n "$was_there" ] || [ "${free:-$NEEDS}" -ge "$NEEDS" ] ||
    echo "This disk has $free GB free; an installation takes up to $NEEDS GB" >&2
echo "Installing into $VENV: some minutes, once"

renew=
[ -z "$was_there" ] || "$VENV/bin/python" -c '' 2>/dev/null || renew=--clear # its Python has gone, or never came
if ! run "$PYTHON" -m venv $renew "$VENV"; then
    if has 'ensurepip|no module named venv'; then
        fail "$PYTHON cannot make environments: install what it lacks (Debian, Ubuntu: sudo apt install python$version-venv), or name another with make install PYTHON=/path/to/python3.11"
    fi
    known=$(advice)
    fail "${known:-$PYTHON -m venv $VENV failed, see above; make install begins again}"
fi
if ! run "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,dev]'; then
    known=$(advice)
    fail "${known:-pip failed, see above; make install begins again}"
fi
touch "$VENV/.installed"
