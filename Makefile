# Every target may be the first thing run in a fresh clone. What they fetch and build goes into .cache and bin.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test ordinary bucket check bench build generate lint race

export PATH := $(CURDIR)/.cache/go/bin:$(CURDIR)/.cache/gobin:$(CURDIR)/.cache/venv/bin:$(CURDIR)/.cache/node/node_modules/.bin:$(PATH)
export TARN_BIN := $(CURDIR)/bin/tarn

GO_DIRS := cmd internal api sdk test bench
PYTHON_DIR := sdk/python

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: build ## Install what is missing, build, and show a pipeline from empty folder to published tables
	@examples/flights/demo

build: ## Build bin/tarn
	@tools/setup
	CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o internal/runtime/process/initprogram/bin/tarn-init ./cmd/tarn-init
	go build -o bin/tarn ./cmd/tarn

test: build ## Run every test
	@tools/setup dev
	go vet -tags fault ./...
	gotestsum --format pkgname-and-test-fails -- -tags fault -timeout 20m ./...
	pytest -q -rs $(PYTHON_DIR)

ordinary: build ## As root: run the demo at level full and as an ordinary user, compare, and test sandboxes and CLI as that user
	@tools/ordinary

bucket: build ## Run the demo with its data in a bucket of an S3 server, and compare
	@tools/setup dev
	@tools/bucket

check: ## What to run before a commit: vet, the rules of the house, fast tests
	@tools/setup dev
	go vet ./...
	gotestsum --format pkgname-and-test-fails -- -short ./internal/...

race: ## Run the Go unit tests of what is concurrent under the race detector
	@tools/setup dev
	gotestsum --format pkgname-and-test-fails -- -race -short -tags fault ./internal/base/... ./internal/blob/... ./internal/lake/... ./internal/runtime/... ./internal/meta/...

bench: build ## Run all benchmarks on less data; each prints its figure and a ratio
	go run ./bench -short all

generate: ## Write generated files again: API, error table, Python reference
	@tools/setup dev
	cd api/proto && buf generate
	go generate ./...
	python $(PYTHON_DIR)/reference.py

lint: ## Check form and types of Go, Python and the API
	@tools/setup dev
	@out=$$(gofumpt -l $(wildcard $(GO_DIRS)) | grep -v '^api/gen/' || true); [[ -z "$$out" ]] || { echo "gofumpt -w these:"; echo "$$out"; exit 1; }
	staticcheck -tags fault ./...
	cd api/proto && buf lint
	cd $(PYTHON_DIR) && ruff check . && ruff format --check . && mypy && pyright
