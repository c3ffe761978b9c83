#!/bin/bash
# Configures the runner, or with "remove" as the first word unconfigures it.

if [ "$(id -u)" -eq 0 ] && [ -z "$RUNNER_ALLOW_RUNASROOT" ]; then
    echo "Must not run with sudo"
    exit 1
fi

hint() {
    echo "$1"
    echo "Execute sudo ./bin/installdependencies.sh to install any missing dependencies."
    exit 1
}

# The paths are relative to the working directory on purpose: that is how the real script looks.
if ! command -v ldd >/dev/null 2>&1; then
    hint "Can not find 'ldd'. Please install 'ldd' and try again."
fi
for library in libcoreclr.so libSystem.Security.Cryptography.Native.OpenSsl.so libSystem.IO.Compression.Native.so; do
    if ldd "./bin/$library" 2>/dev/null | grep -q "not found"; then
        ldd "./bin/$library"
        hint "Dependencies is missing for .NET Core 6.0"
    fi
done

ldconfig=$(command -v ldconfig || echo /sbin/ldconfig)
if [ ! -x "$ldconfig" ]; then
    hint "Can not find 'ldconfig'. Please install 'ldconfig' and try again."
fi
if ! "$ldconfig" -NXv "${LD_LIBRARY_PATH//:/ }" 2>/dev/null | grep -q libicu && ! "$ldconfig" -p | grep -q libicu; then
    hint "Libicu's dependencies is missing for .NET Core 6.0"
fi

root=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
cd "$root" || exit 1
# shellcheck source=/dev/null
source ./env.sh

if [ "$1" = "remove" ]; then
    ./bin/Runner.Listener "$@"
else
    ./bin/Runner.Listener configure "$@"
fi
