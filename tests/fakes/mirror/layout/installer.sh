#!/bin/sh
#
# NAME:  Miniforge3
# VER:   @VERSION@
# PLAT:  linux-@MACHINE@
#
# Everything after the last line of this script is an archive.

set -eu
unset LD_LIBRARY_PATH

THIS_FILE=$0
PREFIX=${HOME:-/opt}/miniforge3
BATCH=0
FORCE=0
KEEP_PKGS=0
SKIP_SCRIPTS=0
TEST=0
UPDATE=0
HEADER_BYTES=@HEADER@
PAYLOAD_BYTES=@PAYLOAD@
PAYLOAD_SHA256=@PAYLOAD_SHA256@

usage() {
    cat <<EOF
usage: $0 [options]

Installs Miniforge3 @VERSION@

-b           run install in batch mode (without manual intervention),
             it is expected the license terms (if any) are agreed upon
-f           no error if install prefix already exists
-h           print this help message and exit
-k           do not clear the package cache after installation
-p PREFIX    install prefix, defaults to $PREFIX, must not contain spaces
-s           skip running pre/post-link/install scripts
-u           update an existing installation
-t           run package tests after installation
EOF
}

fail() {
    printf 'ERROR: %s\n' "$1" >&2
    exit 1
}

while getopts "bifhkp:sumt" option; do
    case $option in
        b) BATCH=1 ;;
        i) BATCH=0 ;;
        f) FORCE=1 ;;
        h) usage; exit 2 ;;
        k) KEEP_PKGS=1 ;;
        m) : ;;
        p) PREFIX=$OPTARG ;;
        s) SKIP_SCRIPTS=1 ;;
        u) FORCE=1; UPDATE=1 ;;
        t) TEST=1 ;;
        *) printf "ERROR: did not recognize option '%s', please try -h\n" "$option" >&2; exit 1 ;;
    esac
done

if ! head -c 1 "$THIS_FILE" >/dev/null 2>&1; then
    fail "the installer cannot be read: $THIS_FILE"
fi
size=$(($(wc -c <"$THIS_FILE")))
header=$(printf '%s' "$HEADER_BYTES" | sed 's/^0*//')
payload=$(printf '%s' "$PAYLOAD_BYTES" | sed 's/^0*//')
if [ "$size" -ne $((header + payload)) ]; then
    fail "size of $THIS_FILE should be $((header + payload)) bytes, is $size"
fi

if [ "$BATCH" = 0 ]; then
    if [ "$(uname -m)" != "@MACHINE@" ]; then
        printf 'WARNING: this machine is not @MACHINE@. Continue? [yes|no] '
        read -r answer
        [ "$answer" = yes ] || exit 2
    fi
    printf 'Do you accept the license terms? [yes|no] '
    read -r answer
    [ "$answer" = yes ] || fail "the license terms were not accepted"
fi

case $PREFIX in
    *\ *) fail "Cannot install into directories with spaces" ;;
esac
if [ -e "$PREFIX" ] && [ "$FORCE" = 0 ]; then
    printf "ERROR: File or directory already exists: '%s'\n" "$PREFIX" >&2
    printf 'If you want to update an existing installation, use the -u option.\n' >&2
    exit 1
fi
if ! mkdir -p "$PREFIX" 2>/dev/null; then
    fail "Could not create directory: '$PREFIX'"
fi
PREFIX=$(cd "$PREFIX" && pwd)
printf 'PREFIX=%s\n' "$PREFIX"

unpack() {
    tail -c "+$((header + 1))" "$THIS_FILE"
}

printf 'Unpacking payload ...\n'
if [ "$(unpack | sha256sum | cut -d' ' -f1)" != "$PAYLOAD_SHA256" ]; then
    fail "the payload's checksum does not match"
fi
if [ "$UPDATE" = 1 ]; then
    cp -f "$PREFIX/conda-meta/history" "$PREFIX/conda-meta/.history" 2>/dev/null || :
    rm -f "$PREFIX"/conda-meta/conda-[0-9]*.json "$PREFIX"/conda-meta/mamba-[0-9]*.json "$PREFIX"/conda-meta/python-[0-9]*.json
fi
printf '\nInstalling base environment...\n\n'
unpack | tar -xzf - -C "$PREFIX" --no-same-owner
if [ -f "$PREFIX/conda-meta/.history" ]; then
    cat "$PREFIX/conda-meta/history" >>"$PREFIX/conda-meta/.history"
    mv -f "$PREFIX/conda-meta/.history" "$PREFIX/conda-meta/history"
fi
if [ "$KEEP_PKGS" = 0 ]; then
    rm -rf "$PREFIX"/pkgs/*.conda
fi
if [ "$SKIP_SCRIPTS" = 0 ]; then
    mkdir -p "$PREFIX/envs"
fi
printf 'installation finished.\n'
if [ "$TEST" = 1 ]; then
    "$PREFIX/bin/conda" --version
fi
if [ "$BATCH" = 0 ]; then
    printf 'Run conda init to put conda on your PATH.\n'
fi
exit 0
# end of the script
