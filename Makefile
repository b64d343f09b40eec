# The targets a newcomer guesses. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help venv native lint types layers unit storage interop crash controlplane controlplane-test compatibility test demo bench generated lock clean
.PHONY: image cluster cluster-down cluster-demo cluster-bench cluster-test e2e

help:  ## what can be done here
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml requirements.lock requirements-test.lock setup.py proto/*/*/*.proto agent/native/*.c agent/native/*.h
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock -r requirements-test.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

venv: $(VENV)/.installed  ## .venv with the pinned libraries, the native module and the `lighter` command

lint: venv  ## ruff and buf: style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/buf lint proto
	$(BIN)/buf format --exit-code --diff proto

types: venv  ## mypy --strict
	$(BIN)/mypy

layers: venv  ## import-linter: who may import whom
	$(BIN)/lint-imports

unit: venv  ## unit and property tests
	@hack/tool helm >/dev/null
	@hack/tool grpcurl >/dev/null
	@hack/system-packages prometheus
	hack/again "-n 2" $(BIN)/pytest tests/unit

storage: venv  ## storage tests against real servers on loopback
	hack/again "-n 2" $(BIN)/pytest tests/storage

interop: venv  ## against a live kopia, both ways
	@hack/tool kopia >/dev/null
	hack/again "-n 2" $(BIN)/pytest tests/interop

crash: venv  ## die, fail, cancel at any point (CRASH_SEED=n repeats a run)
	$(BIN)/pytest tests/crash -n 2

controlplane: venv  ## the agent on a real API server, with CSI and Velero (VELERO=1.17 or 1.16); kubelet and scheduler are played
	@hack/system-packages etcd-server
	$(BIN)/pytest tests/controlplane -n 3 --dist loadfile

controlplane-test: venv  ## the same without what takes longest: what continuous integration runs
	@hack/system-packages etcd-server
	hack/again "-n 3 --dist loadfile" $(BIN)/pytest tests/controlplane -m "not slow"

compatibility: venv  ## docs/compatibility.md from the last results of the tiers that have run here
	$(BIN)/python -m hack.checks_docs

test: lint types layers unit storage interop crash controlplane-test cluster-test  ## everything that has to pass

image: venv  ## the agent's container image, without Docker; prints where it is
	hack/image agent

cluster: venv  ## a real Kubernetes node with Velero and the agent (AGENT=stock for Velero's own); docs/cluster.md
	hack/cluster up $(if $(AGENT),--agent $(AGENT))

cluster-down:  ## end it, and forget what it kept
	hack/cluster down --purge

cluster-demo: cluster  ## the whole story on a real cluster: back up, lose, restore a shop
	hack/cluster run $(BIN)/python -m hack.node.demo

cluster-bench: cluster  ## our agent beside Velero's own on the same cluster (ROW="small many", ROUNDS=n)
	ROW="$(ROW)" ROUNDS=$(ROUNDS) hack/cluster run $(BIN)/python -m hack.node.compare

cluster-test: venv  ## end to end on the real cluster: what continuous integration runs
	hack/e2e

e2e: venv  ## end to end on the real cluster: all of it
	hack/e2e all

demo: venv  ## the whole story on real data (VOLUME=/path, STORE=s3)
	$(BIN)/python -m hack.demo

bench: venv  ## beside kopia and restic on the same data (ROW=small, STORE=s3, ROUNDS=n); ROW=agents: what many agents ask of an API server
	$(BIN)/python -m hack.bench $(addprefix --row ,$(ROW)) $(if $(STORE),--store $(STORE)) $(if $(ROUNDS),--rounds $(ROUNDS))

generated: venv  ## files that are made from code: references, dashboard, rules for Prometheus' operator
	for name in cli_docs config_docs metrics_docs permissions_docs troubleshooting_docs dashboard prometheus_rule; do $(BIN)/python -m hack.$$name; done

lock: venv  ## resolve the pinned versions anew
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --no-header --python-version 3.11 --extra tracing pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --quiet --universal --no-header --python-version 3.11 --extra test -c requirements.lock pyproject.toml requirements-build.in -o requirements-test.lock

clean:  ## remove what the targets above made
	rm -rf $(VENV) build dist *.egg-info agent/_native*.so agent/control/v1
