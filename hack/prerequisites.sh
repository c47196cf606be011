#!/usr/bin/env bash
# Says what this machine lacks for a local cluster, and installs what Debian has.
set -euo pipefail
die() { echo "millrace: $*" >&2; exit 1; }
[ "$(uname -s)" = Linux ] || die "a Linux machine is needed: the cluster's nodes are namespaces of this kernel"
[ "$(id -u)" = 0 ] || die "run as root: nodes need namespaces, mounts and network interfaces"
[ -e /dev/fuse ] || die "/dev/fuse is missing: load the kernel module fuse (modprobe fuse)"
command -v go >/dev/null || die "Go 1.26 or later is missing: install it and put it on the PATH"
missing=()
need() { command -v "$1" >/dev/null || [ -x "$1" ] || missing+=("$2"); }
need /usr/bin/containerd containerd
need /usr/sbin/runc runc
need /usr/lib/cni/bridge containernetworking-plugins
need /usr/sbin/iptables iptables
need /usr/sbin/nft nftables
need /usr/sbin/conntrack conntrack
need /usr/bin/busybox busybox-static
need ip iproute2
need nsenter util-linux
need git git
need mount mount
if [ ${#missing[@]} -gt 0 ]; then
	command -v apt-get >/dev/null || die "missing: ${missing[*]}; install them with your package manager"
	echo "millrace: installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
