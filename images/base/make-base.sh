#!/bin/sh
# Make a base image's root file system from Debian packages, where no image registry answers.
# Usage: make-base.sh ROOTFS.tar     then: docker import ROOTFS.tar NAME
# The packages come from wherever this machine's apt gets its own; root is not needed (mmdebstrap --mode=auto).
set -eu
exec mmdebstrap --mode=auto --variant=minbase --format=tar \
  --include=python3,ca-certificates,g++,libpython3-dev \
  --dpkgopt=force-unsafe-io \
  --dpkgopt='path-exclude=/usr/share/man/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' \
  --dpkgopt='path-exclude=/usr/share/locale/*' \
  bookworm "$1"
