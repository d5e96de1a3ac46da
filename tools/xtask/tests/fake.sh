#!/bin/sh
# Every program that the commands start, under its own name: writes down how it was called, and does as little as will do.
echo "${0##*/} $*" >>"$FAKE_LOG"
case "${0##*/}" in
id) echo "$FAKE_UID" ;;
sudo)
    [ "$1" = -n ] && shift
    exec "$@"
    ;;
env)
    shift
    exec "$@"
    ;;
apt-get)
    [ -n "$FAKE_BROKEN" ] && exit 100
    [ "$1" = install ] && /bin/ln -s "$FAKE_SH" "$FAKE_BIN/qemu-system-x86_64"
    exit 0
    ;;
qemu-system-x86_64) echo "QEMU emulator version ${FAKE_VERSION:-8.2.2} (Debian)" ;;
rustup) exit "${FAKE_RUSTUP:-0}" ;;
git) exit "${FAKE_GIT:-0}" ;;
cargo)
    case "$*" in
    metadata*)
        package() { echo "{\"name\": \"$1\", \"features\": {$2}, \"rust_version\": \"1.88\"}"; }
        echo "{\"packages\": [$(package acpi-dmar), $(package p2m), $(package rdm-layout), $(package xen-abi), $(package xen-iommu '"one": [], "two": []')]}"
        ;;
    *--package\ explore*)
        echo "${FAKE_EXPLORE:-broken: toast}"
        [ -z "$FAKE_EXPLORE" ] && exit 1
        ;;
    esac
    exit "${FAKE_CARGO:-0}"
    ;;
esac
