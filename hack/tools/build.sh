#!/usr/bin/env bash
# Builds the named tools from their modules into out/bin, unless they are there
# in the pinned version already.
set -euo pipefail
cd "$(dirname "$0")/../.."
bin=$PWD/out/bin
stamps=$bin/.built
mkdir -p "$stamps"
export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false"

kubernetes=v1.34.4
ldflags="-s -w -X k8s.io/component-base/version.gitVersion=$kubernetes -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=34 -X k8s.io/component-base/version.gitTreeState=clean"

# pinned prints the version of a tool and how to build it: "module DIR PACKAGE"
# from a module below hack/tools, or "install PACKAGE@VERSION".
pinned() {
	case $1 in
	kube-apiserver | kube-controller-manager | kube-scheduler | kubelet | kube-proxy | kubectl)
		echo "$kubernetes module kubernetes k8s.io/kubernetes/cmd/$1" ;;
	etcd) echo "v3.6.5 module etcd go.etcd.io/etcd/server/v3" ;;
	helm) echo "v3.22.0 install helm.sh/helm/v3/cmd/helm" ;;
	coredns) echo "v1.15.0 install github.com/coredns/coredns" ;;
	versitygw) echo "v1.0.14 install github.com/versity/versitygw/cmd/versitygw" ;;
	# The first version that keeps connections, as object stores do; only the bench
	# needs it, and its sessions are stricter than the tests' STS.
	versitygw-keepalive) echo "v1.8.0 install github.com/versity/versitygw/cmd/versitygw" ;;
	rclone) echo "v1.75.1 install github.com/rclone/rclone" ;;
	golangci-lint) echo "v2.15.0 install github.com/golangci/golangci-lint/v2/cmd/golangci-lint" ;;
	*) echo "build.sh: unknown tool $1" >&2; exit 1 ;;
	esac
}

for tool in "$@"; do
	[ "$tool" = hadoop ] && { hack/tools/hadoop.sh; continue; } # jars, not a module
	spec=$(pinned "$tool")
	read -r version how where package <<<"$spec"
	[ -x "$bin/$tool" ] && [ "$(cat "$stamps/$tool" 2>/dev/null)" = "$version" ] && continue
	echo "building $tool $version from its module"
	case $how in
	module) go build -C "hack/tools/$where" -mod=mod -ldflags "$ldflags" -o "$bin/$tool" "$package" ;;
	install)
		dir=$(mktemp -d)
		GOBIN=$dir go install -ldflags "-s -w" "$where@$version"
		mv "$dir/"* "$bin/$tool"
		rmdir "$dir"
		;;
	esac
	echo "$version" >"$stamps/$tool"
done
