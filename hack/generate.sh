#!/usr/bin/env bash
# Writes deep copies, apply configurations and CRDs from the API types. With
# --verify it writes nothing and fails when one of them is stale.
set -euo pipefail
cd "$(dirname "$0")/.."
gen=sigs.k8s.io/controller-tools/cmd/controller-gen@v0.19.0
outputs="apis charts/millrace/crds"
if [ "${1:-}" = --verify ]; then
	before=$(mktemp -d)
	trap 'rm -rf "$before"' EXIT
	cp -r --parents $outputs "$before/"
fi
go run $gen object:headerFile=/dev/null paths=./apis/data/... paths=./apis/cache/...
go run $gen applyconfiguration:headerFile=/dev/null paths=./apis/data/... paths=./apis/cache/...
go run $gen crd:maxDescLen=300 paths=./apis/data/... paths=./apis/cache/... output:crd:dir=charts/millrace/crds
gofmt -w apis
if [ "${1:-}" = --verify ]; then
	for dir in $outputs; do
		diff -ru "$before/$dir" "$dir" || { echo "$dir is stale: run make generate and commit" >&2; rm -rf "$dir"; cp -r "$before/$dir" "$dir"; exit 1; }
	done
fi
