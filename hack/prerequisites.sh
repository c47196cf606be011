#!/usr/bin/env bash
# Says what this machine lacks for a local cluster, and installs what Debian has.
set -euo pipefail
die() { echo "millrace: $*" >&2; exit 1; }
[ "$(uname -s)" = Linux ] || die "a Linux machine is needed: the cluster's nodes are namespaces of this kernel"
[ "$(id -u)" = 0 ] || die "run as root: nodes need namespaces, mounts and network interfaces"
[ -e /dev/fuse ] || die "/dev/fuse is missing: load the kernel module fuse (modprobe fuse)"
command -v go >/dev/null || die "Go 1.26 or later is missing: install it and put it on the PATH"
missing=()
need() { command -v "$1" >/dev/null || [ -e "$1" ] || missing+=("$2"); }
need /usr/bin/containerd containerd
need /usr/sbin/runc runc
need /usr/lib/cni/bridge containernetworking-plugins
need /usr/sbin/iptables iptables
need /usr/sbin/nft nftables
need /usr/sbin/conntrack conntrack
need /usr/bin/busybox busybox-static
need /usr/sbin/apache2 apache2-bin
need /usr/sbin/nginx nginx-light
need /usr/bin/caddy caddy
need /usr/sbin/sshd openssh-server
need python3 python3
need ip iproute2
need nsenter util-linux
need curl curl
need openssl openssl
need gcc gcc # the race detector's
need /usr/include/stdlib.h libc6-dev
need git git
need java openjdk-17-jre-headless
need mvn maven
need mmdebstrap mmdebstrap # the Debian of an image with Java
need mount mount
need mkfs.ext4 e2fsprogs
need sshfs sshfs
need /usr/bin/fusermount3 fuse3
need /etc/ssl/certs/ca-certificates.crt ca-certificates
need ssh-keygen openssh-client
need rsync rsync
need sqlite3 sqlite3
if [ ${#missing[@]} -gt 0 ]; then
	command -v apt-get >/dev/null || die "missing: ${missing[*]}; install them with your package manager"
	echo "millrace: installing ${missing[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# The servers are for tests, which start their own: packages start none, now
	# or when the machine starts next.
	rules=/usr/sbin/policy-rc.d
	if [ ! -e $rules ]; then
		trap 'rm -f $rules' EXIT
		printf '#!/bin/sh\nexit 101\n' >$rules
		chmod +x $rules
	fi
	apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
	for package in "${missing[@]}"; do
		case $package in
		nginx-light) systemctl disable nginx ;;
		caddy) systemctl disable caddy ;;
		openssh-server) systemctl disable ssh ;;
		esac
	done >/dev/null 2>&1 || true
fi
