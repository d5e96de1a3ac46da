#!/bin/sh
# Stands in for QEMU in tests of what watches over it: does what the environment says, whatever its arguments are.
eval "$FAKE_QEMU"
