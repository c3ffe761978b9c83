#!/bin/bash
# Installs what the runner's programs need. Root only.

if [ "$(id -u)" -ne 0 ]; then
    echo "Need to run with sudo privilege"
    exit 1
fi

first_of() {
    local package
    for package in "$@"; do
        if apt-get install -y --no-install-recommends "$package" >/dev/null 2>&1; then
            return 0
        fi
    done
    echo "None of these could be installed: $*"
    exit 1
}

if command -v apt-get >/dev/null 2>&1; then
    apt-get update || exit 1
    apt-get install -y --no-install-recommends libkrb5-3 zlib1g || exit 1
    first_of liblttng-ust1t64 liblttng-ust1 liblttng-ust0
    first_of libssl3t64 libssl3 libssl1.1 libssl1.0.2 libssl1.0.0
    first_of libicu80 libicu79 libicu78 libicu77 libicu76 libicu75 libicu74 libicu73 libicu72 libicu71 libicu70 \
        libicu69 libicu68 libicu67 libicu66 libicu65 libicu63 libicu60 libicu57 libicu55 libicu52
elif command -v dnf >/dev/null 2>&1; then
    dnf install -y lttng-ust openssl-libs krb5-libs zlib libicu || exit 1
else
    echo "Unknown distribution"
    exit 1
fi
