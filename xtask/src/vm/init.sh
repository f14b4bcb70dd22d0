#!/bin/busybox sh
# The first and only process of the guest: mounts, runs what it is told, says how it ended.
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs -o mode=1777 none /tmp
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/netns /run/lock
ip link set lo up
depmod
# As on every host with Docker; nothing loads it by itself.
modprobe br_netfilter
echo "weft-vm: Linux $(uname -r)"
cd /weft
export PATH=/usr/sbin:/usr/bin HOME=/tmp TMPDIR=/tmp RUST_BACKTRACE=0
export WEFT_BIN=/weft/weft WEFT_PROBE=/weft/weft-probe WEFT_PATIENCE=6
failed=0
. /weft/plan
echo "weft-vm: finished, $failed failed"
poweroff -f
