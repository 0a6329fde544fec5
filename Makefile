# Each target is one or two commands that can be typed by hand; the work is in tools/, site.yml and playbooks/.
# ARGS goes to ansible-playbook: make testbed ARGS="-e testbed_name=other"
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
export PATH := $(CURDIR)/.venv/bin:$(PATH)
ARGS ?=
# How many parts of `make test` run beside one another: the longest, on the testbed, mostly waits for jobs and restarts.
LANES ?= 2
PARTS := test-testbed test-programs test-openstack test-large
# Whether two testbeds at once have room: many hosts allow root 128 instances of inotify, and each wants 8 GiB.
ROOM := $(shell test $$(cat /proc/sys/fs/inotify/max_user_instances) -ge 256 && awk '/^MemAvailable/ {exit $$2 < 16 * 2^20}' /proc/meminfo && echo yes)
# Lines of parts that run at the same time say whose they are.
said_by = 2>&1 | sed -u 's/^/$(1): /'
# Apart, since modules of Ansible are no package and may be namesakes.
TYPED := planner_app/planner_app tools $(patsubst %,roles/common/%,module_utils filter_plugins library action_plugins callback_plugins inventory_plugins lookup_plugins)
.DEFAULT_GOAL := help
.PHONY: help host env testbed check lint types unit test $(PARTS) teardown clean-cache

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
	@$(MAKE) --no-print-directory -j$(LANES) LARGE_AFTER=$(if $(ROOM),,test-testbed) $(PARTS)

test-testbed:
	molecule test -s testbed $(call said_by,testbed)

# The others leave the processor to it where there is not enough for both.
test-programs:
	nice pytest -q tests/image tests/browser $(call said_by,programs)

test-large: $(LARGE_AFTER)

test-openstack test-large: test-%:
	nice molecule test -s $* $(call said_by,$*)

teardown: env ## remove the testbed (CONFIRM=yes answers the question)
	ansible-playbook playbooks/teardown.yml $(if $(CONFIRM),-e confirm=$(CONFIRM)) $(ARGS)

clean-cache: env ## drop what was built and downloaded
	ansible-playbook playbooks/clean_cache.yml $(ARGS)
