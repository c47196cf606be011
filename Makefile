# Millrace. `make help` lists what can be made. Everything made goes to out/.

GO        ?= go
OUT       := $(CURDIR)/out
BIN       := $(OUT)/bin
IMAGES    := $(OUT)/images
TOOLS     := kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy etcd kubectl helm coredns versitygw hadoop rclone
COMMANDS  := cache csi-node manager millrace rclone-client scheduler
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
CLUSTER   := $(BIN)/localcluster
export PATH := $(BIN):$(PATH)
export KUBEBUILDER_ASSETS := $(BIN)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: prerequisites
prerequisites:
	@hack/prerequisites.sh

.PHONY: tools
tools: prerequisites ## build the pinned tools and Kubernetes itself from their modules
	@hack/tools/build.sh $(TOOLS)

.PHONY: build
build: ## build Millrace's own binaries into out/bin
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o $(BIN)/ $(COMMANDS:%=./cmd/%)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w" -o $(BIN)/ ./e2e/localcluster/cmd/localcluster ./e2e/localcluster/cmd/pause ./e2e/stage/cmd/stage ./e2e/demo/cmd/demo ./e2e/bench/cmd/bench

.PHONY: cache-rclone
cache-rclone: tools build ## build the cache engine with rclone's sources, and its image
	@mkdir -p $(IMAGES)
	CGO_ENABLED=0 $(GO) build -C cmd/cache-rclone -mod=mod -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o $(BIN)/cache-rclone .
	@$(CLUSTER) image -o $(IMAGES)/cache-rclone.tar --image-name docker.io/local/cache-rclone:dev --file $(BIN)/cache-rclone:/bin/cache --entrypoint /bin/cache

.PHONY: images
images: tools build ## pack the binaries into container images (out/images)
	@mkdir -p $(IMAGES)
	@for c in $(filter-out rclone-client,$(COMMANDS)) stage; do $(CLUSTER) image -o $(IMAGES)/$$c.tar --image-name docker.io/local/$$c:dev --file $(BIN)/$$c:/bin/$$c --entrypoint /bin/$$c || exit 1; done
	@$(CLUSTER) image -o $(IMAGES)/versitygw.tar --image-name docker.io/local/versitygw:dev --file $(BIN)/versitygw:/bin/versitygw --entrypoint /bin/versitygw
	@$(CLUSTER) image -o $(IMAGES)/rclone-client.tar --image-name docker.io/local/rclone-client:dev --entrypoint /bin/rclone-client \
		--file $(BIN)/rclone-client:/bin/rclone-client --file $(BIN)/rclone:/bin/rclone --file /usr/bin/fusermount3:/bin/fusermount3 \
		--file /etc/ssl/certs/ca-certificates.crt:/etc/ssl/certs/ca-certificates.crt \
		$$(ldd /usr/bin/fusermount3 | grep -o '/[^ ]*' | sed 's|.*|--file &:&|')

.PHONY: alluxio-image
alluxio-image: tools build ## pack a real Alluxio, with Java and the commands of its class, into an image
	@hack/tools/alluxio.sh jre
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o $(BIN)/alluxio ./cmd/alluxio
	@mkdir -p $(IMAGES)
	@if [ ! -e $(IMAGES)/alluxio.tar ] || [ -n "$$(find $(OUT)/alluxio $(BIN)/alluxio -type f ! -name .lock -newer $(IMAGES)/alluxio.tar)" ]; then \
		$(CLUSTER) image -o $(IMAGES)/alluxio.tar --image-name docker.io/local/alluxio:dev --base $(OUT)/alluxio/jre.tar --file $(OUT)/alluxio/lib:/opt/alluxio/lib --file $(BIN)/alluxio:/usr/local/bin/alluxio --entrypoint /usr/local/bin/alluxio; fi

.PHONY: demo
demo: images ## the whole story on a local cluster, from nothing to a cached copy
	@$(BIN)/demo

.PHONY: demo-down
demo-down: cluster-down ## stop the demo's cluster and leave nothing behind

.PHONY: cluster-up
cluster-up: images ## start a local cluster of three nodes with Millrace installed
	@$(BIN)/demo --only-install

.PHONY: cluster-down
cluster-down: ## stop the local cluster and leave nothing behind
	@mkdir -p $(BIN)
	@test -x $(CLUSTER) || CGO_ENABLED=0 $(GO) build -o $(CLUSTER) ./e2e/localcluster/cmd/localcluster
	@$(CLUSTER) down

.PHONY: test
test: images alluxio-image ## run everything: unit, API, file system, S3, CSI and the suite on a local cluster
	$(GO) test -race -timeout 20m $$($(GO) list ./... | grep -v /e2e/)
	$(GO) test -C cmd/cache-rclone -mod=mod -race -timeout 20m ./...
	$(GO) test -timeout 35m -count=1 -p 1 ./e2e/...

.PHONY: verify
verify: prerequisites ## check that what is generated is fresh, that the code is formatted and lints
	@hack/verify.sh

.PHONY: generate
generate: ## write deep copies, CRDs, apply configurations and the protocol's code
	@hack/generate.sh
	@$(GO) run ./hack/protogen runtime/wire/wirepb/wire.proto

.PHONY: lint
lint: ## run the linters
	@hack/tools/build.sh golangci-lint
	@$(BIN)/golangci-lint run --allow-parallel-runners ./...

.PHONY: bench
bench: prerequisites build ## measure against the local disk, raw sockets and other caches (ratios of one run)
	@hack/tools/build.sh versitygw versitygw-keepalive
	@hack/tools/peers.sh
	@$(BIN)/bench

.PHONY: scale
scale: prerequisites tools build ## measure the manager with 5,000 Datasets (out/scale.json)
	@$(GO) run ./e2e/scale/cmd/scale

.PHONY: clean
clean: cluster-down ## remove out/
	rm -rf $(OUT)
