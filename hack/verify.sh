#!/usr/bin/env bash
# Fails when something generated is stale, unformatted or does not lint.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { echo "verify: $*"; }
step "gofmt"
unformatted=$(git ls-files '*.go' | xargs gofmt -l)
[ -z "$unformatted" ] || { echo "not formatted: $unformatted" >&2; exit 1; }
step "go.mod is tidy"
go mod tidy -diff
step "generated API code"
hack/generate.sh --verify
step "generated protocol code"
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cp runtime/wire/wirepb/wire.proto "$tmp/"
go run ./hack/protogen "$tmp/wire.proto"
for f in wire.pb.go wire_grpc.pb.go; do
	diff -u "runtime/wire/wirepb/$f" "$tmp/$f" || { echo "runtime/wire/wirepb/$f is stale: run make generate" >&2; exit 1; }
done
step "go vet"
go vet ./...
step "lint"
make --no-print-directory lint
