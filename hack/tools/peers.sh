#!/usr/bin/env bash
# Builds or installs the caches that `make bench` compares with, into out/. One
# that cannot be had is named, and left out of the table.
set -uo pipefail
cd "$(dirname "$0")/../.."
bin=$PWD/out/bin
mkdir -p "$bin"

failed() { echo "millrace: $1 cannot be had here: the table goes without it" >&2; }

# debian installs a package unless its program is there.
debian() {
	command -v "$1" >/dev/null && return
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null || failed "$2"
}

# juicefs has replace lines, so that it builds only from its own folder; drivers
# that the table does not use are left out.
juicefs() {
	local version=v1.3.1 dir
	[ -x "$bin/juicefs" ] && [ "$(cat "$bin/.built/juicefs" 2>/dev/null)" = $version ] && return
	echo "building juicefs $version from its module"
	dir=$(mktemp -d)
	(
		set -e
		module=$(go mod download -json github.com/juicedata/juicefs@$version | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
		cp -r "$module/." "$dir"
		chmod -R u+w "$dir"
		CGO_ENABLED=1 go build -C "$dir" -trimpath -buildvcs=false -ldflags "-s -w" -o "$bin/juicefs" \
			-tags nogateway,nowebdav,nocos,nobos,nohdfs,noibmcos,noobs,nooss,noqingstor,nosftp,noswift,noazure,nogs,noufile,nob2,nonfs,nodragonfly,nosqlite,nomysql,nopg,notikv,noetcd .
		echo $version >"$bin/.built/juicefs"
	) || failed juicefs
	rm -rf "$dir"
}

mkdir -p "$bin/.built"
debian gcc gcc
debian gcc libc6-dev
debian s3fs s3fs
debian redis-server redis-server
debian java openjdk-17-jre-headless
debian mvn maven
[ -e /usr/lib/x86_64-linux-gnu/libfuse.so.2 ] || [ -e /lib/x86_64-linux-gnu/libfuse.so.2 ] || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libfuse2 >/dev/null || failed libfuse2
debian fusermount fuse
hack/tools/build.sh rclone || failed rclone
juicefs
hack/tools/alluxio.sh || failed alluxio
