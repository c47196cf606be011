#!/usr/bin/env bash
# Writes deep copies, apply configurations and CRDs from the API types, and the
# table of metrics from the code that registers them. With --verify it writes
# nothing and fails when one of them is stale.
#
# The generators run on a copy, so that the tree is never half generated, and a
# file that nothing generates any more goes.
set -euo pipefail
cd "$(dirname "$0")/.."
gen=sigs.k8s.io/controller-tools/cmd/controller-gen@v0.19.0
crds=charts/millrace/crds
configurations=apis/applyconfiguration
metrics=docs/metrics.md
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r --parents go.mod go.sum apis $metrics "$copy/"
rm -rf "${copy:?}/$configurations"
(
	cd "$copy"
	go run $gen object:headerFile=/dev/null paths=./apis/data/... paths=./apis/cache/...
	go run $gen applyconfiguration:headerFile=/dev/null paths=./apis/data/... paths=./apis/cache/...
	go run $gen crd:maxDescLen=300,generateEmbeddedObjectMeta=true paths=./apis/data/... paths=./apis/cache/... output:crd:dir=$crds
	gofmt -w apis
)
go run ./hack/generate-bounds "$copy/$crds"/*.yaml
go run ./hack/generate-metrics "$copy/$metrics"
deepcopies=$(cd "$copy" && find apis -name 'zz_generated.*.go')
if [ "${1:-}" = --verify ]; then
	for made in $crds $configurations $deepcopies $metrics; do
		diff -ru "$made" "$copy/$made" || { echo "$made is stale: run make generate and commit" >&2; exit 1; }
	done
	exit
fi
for made in $crds $configurations; do
	rm -rf "$made"
	cp -r "$copy/$made" "$made"
done
for made in $deepcopies $metrics; do
	cp "$copy/$made" "$made"
done
