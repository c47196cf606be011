#!/usr/bin/env bash
# Fetches into out/alluxio, unless they are there already: lib, the jars that the
# pom names, and, with the argument "jre", jre.tar, a Debian with a Java that
# runs them.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=out/alluxio
mkdir -p $out
exec 9>$out/.lock
flock 9

version=$(sha256sum <hack/tools/alluxio/pom.xml) # the pom pins every version
if [ "$(cat $out/version 2>/dev/null)" != "$version" ]; then
	command -v mvn >/dev/null || { echo "millrace: Maven is missing: hack/prerequisites.sh installs it" >&2; exit 1; }
	echo "fetching alluxio"
	rm -rf $out/lib
	# One of two loggers, and nothing of other systems.
	mvn -q -B -f hack/tools/alluxio/pom.xml dependency:copy-dependencies -DoutputDirectory="$PWD/$out/lib" \
		-DexcludeArtifactIds=log4j-slf4j-impl >/dev/null
	rm -f $out/lib/*-osx-* $out/lib/*-windows-* $out/lib/*-aarch_64.jar $out/lib/*-linux-aarch_64-fedora.jar
	echo "$version" >$out/version
fi

[ "${1:-}" = jre ] || exit 0
packages=openjdk-17-jre-headless,libfuse2
if [ "$(cat $out/jre.version 2>/dev/null)" != "bookworm $packages" ]; then
	command -v mmdebstrap >/dev/null || { echo "millrace: mmdebstrap is missing: hack/prerequisites.sh installs it" >&2; exit 1; }
	echo "making a Debian with Java"
	# A Java without documentation still links to its manual.
	mmdebstrap --quiet --variant=minbase --include=$packages \
		--essential-hook='mkdir -p "$1/usr/share/man/man1"' \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/i18n/*' \
		bookworm $out/jre.new.tar
	mv $out/jre.new.tar $out/jre.tar
	echo "bookworm $packages" >$out/jre.version
fi
