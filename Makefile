# Commands of the workspace; `make help` lists them. Each installs what it needs and is quick the second time.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON := .venv/bin/python
PACKAGES := core/yoban plugins/postgres/yoban_postgres plugins/mysql/yoban_mysql plugins/s3/yoban_s3
TYPED := $(PACKAGES) deploy docs .ci/summary.py
# Tests to run and further arguments for pytest: make test-unit ARGS="-k registry"
ARGS ?=
# Whose story the demo tells, and what the bench measures: postgres or mysql
ENGINE ?= postgres

.PHONY: help
help: ## List the commands
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' \
	  | while IFS=$$'\t' read -r name text; do printf '  make %-14s %s\n' "$$name" "$$text"; done

.PHONY: venv
venv: ## Make .venv from requirements.lock (hashes checked) with the four distributions, editable
	@.ci/bootstrap venv

.PHONY: check
check: venv ## Check format, lint, strict types and import contracts
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy $(TYPED)
	.venv/bin/lint-imports --no-logo

.PHONY: format
format: venv ## Format everything and mend what the linter can mend
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

.PHONY: test
test: venv ## Run all tests on real servers and the lab cluster, with coverage and a summary
	@.ci/bootstrap packages test
	@$(PYTHON) -m deploy.lab build --images
	@.ci/test $(ARGS)

.PHONY: test-unit
test-unit: venv ## Run the quick tests: unit and contract, without the cluster
	@$(PYTHON) -m pytest -q -m "not lab" tests/unit tests/contract $(ARGS)

.PHONY: lab
lab: venv ## Bring up the lab cluster: a real three-node Kubernetes on this machine
	@.ci/bootstrap packages test
	@$(PYTHON) -m deploy.lab up

.PHONY: lab-down
lab-down: venv ## Take the lab cluster down and leave nothing of it
	@$(PYTHON) -m deploy.lab down

.PHONY: image
image: venv ## Build the operator image
	@.ci/bootstrap packages test
	@$(PYTHON) -m deploy.lab images yoban:dev

.PHONY: demo
demo: venv ## Show the whole story: create, archive, back up, ruin, restore, compare; ENGINE=mysql tells it of MySQL
	@.ci/bootstrap packages test
	@$(PYTHON) -m deploy.demo --engine $(ENGINE)

.PHONY: demo-down
demo-down: venv ## Remove what the demo made
	@$(PYTHON) -m deploy.demo down

.PHONY: bench
bench: venv ## Measure archive, replay, backup, restore and memory, side by side with a tuned pgBackRest; or ENGINE=mysql
	@.ci/bootstrap packages test bench
	@$(PYTHON) -m deploy.lab build
	@$(PYTHON) -m tests.bench$(if $(filter-out postgres,$(ENGINE)),.$(ENGINE)) $(ARGS)

.PHONY: bench-runtime
bench-runtime: venv ## Measure yoban.runtime side by side with kopf and client-go on a real API server
	@.ci/bootstrap packages test
	@$(PYTHON) -m deploy.lab build etcd kube-apiserver
	@$(PYTHON) -m tests.bench.runtime $(ARGS)

.PHONY: crds
crds: venv ## Generate the definitions (deploy/crds, the chart's copy) and docs/reference/fields.md from the models
	@$(PYTHON) -m yoban.model.generate

.PHONY: docs
docs: venv ## Generate docs/reference: fields, settings, metrics, conditions, values of the chart
	@$(PYTHON) -m yoban.model.generate
	@$(PYTHON) -m docs.generate

.PHONY: lock
lock: ## Write requirements.lock anew; ARGS=--upgrade takes newer versions
	@.ci/lock $(ARGS)

.PHONY: build
build: venv ## Build wheels and source distributions of the four distributions into dist/
	@for package in core plugins/postgres plugins/mysql plugins/s3; do \
	  $(PYTHON) -m build --no-isolation --outdir dist $$package; done
