# Each target is one or two commands that can be typed by hand; the work is in tools/, site.yml and playbooks/.
# ARGS goes to ansible-playbook: make testbed ARGS="-e testbed_name=other"
SHELL := /bin/bash
export PATH := $(CURDIR)/.venv/bin:$(PATH)
ARGS ?=
# Apart, since modules of Ansible are no package and may be namesakes.
TYPED := planner_app/planner_app tools $(patsubst %,roles/common/%,module_utils filter_plugins library action_plugins callback_plugins inventory_plugins)
.DEFAULT_GOAL := help
.PHONY: help host env testbed check lint types unit test teardown clean-cache

help: ## print this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

host: ## install what this host lacks (Debian, root); says so elsewhere
	@tools/prepare-host

env: ## make .venv from uv.lock
	@tools/prepare-env

testbed: host env ## put the testbed up, or bring it up to date
	ansible-playbook site.yml $(ARGS)

check: env ## the fast tests: lint, types, unit
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint unit types

lint:
	ruff check
	ruff format --check
	tools/role_readmes.py --check
	ansible-lint -q

types:
	for part in $(TYPED); do mypy $$part || exit; done

unit:
	pytest -q -n 4

test: host check ## all tests, on a real testbed of their own
	@tools/prepare-host tests/host-packages.txt
	pytest -q tests/image tests/browser
	molecule test -s testbed
	molecule test -s large
	molecule test -s openstack

teardown: env ## remove the testbed (CONFIRM=yes answers the question)
	ansible-playbook playbooks/teardown.yml $(if $(CONFIRM),-e confirm=$(CONFIRM)) $(ARGS)

clean-cache: env ## drop what was built and downloaded
	ansible-playbook playbooks/clean_cache.yml $(ARGS)
