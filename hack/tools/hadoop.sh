#!/usr/bin/env bash
# Fetches the jars of a Hadoop NameNode and DataNode into out/hadoop/lib, unless
# those that the pom names are there already.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=$(sha256sum <hack/tools/hadoop/pom.xml) # the pom pins every version
mkdir -p out/hadoop
exec 9>out/hadoop/.lock
flock 9
[ "$(cat out/hadoop/version 2>/dev/null)" = "$version" ] && exit 0
command -v mvn >/dev/null || { echo "millrace: Maven is missing: hack/prerequisites.sh installs it" >&2; exit 1; }
echo "fetching hadoop"
rm -rf out/hadoop/lib
mvn -q -B -f hack/tools/hadoop/pom.xml dependency:copy-dependencies -DoutputDirectory="$PWD/out/hadoop/lib" >/dev/null
echo "$version" >out/hadoop/version
