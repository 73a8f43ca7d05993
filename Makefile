# Two commands do all the set-up on a fresh Debian or Ubuntu: `make run` and `make test`.
BIN := .venv/bin
# Without a terminal nobody can type a password.
SUDO := $(shell test "$$(id -u)" = 0 || { test -t 0 && echo sudo || echo sudo -n; })
EXAMPLES := examples/socket_test examples/emfile
PROGRAMS := $(patsubst tests/programs/%.c,tests/programs/bin/%,$(wildcard tests/programs/*.c))
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: run test check quick setup bench lint picture clean

run: setup
	@.ci/demo

test: .venv/tested $(EXAMPLES) $(PROGRAMS)
	$(BIN)/python -m pytest --durations=10 $(PYTEST_ARGS)

# The inner loop: no root, no kernel, no VM.
check: .venv/tested
	@$(MAKE) -s -j2 lint quick

# Half of what the app's tests take is waiting: two workers a core.
quick: .venv/tested
	$(BIN)/python -m pytest -q -n $$((2 * $$(nproc))) --dist worksteal tests/unit tests/app $(PYTEST_ARGS)

bench: .venv/tested $(EXAMPLES) $(PROGRAMS)
	$(BIN)/python tests/bench.py

# The README's: docs/app.svg, of a bundled recording.
picture: .venv/installed
	$(BIN)/python docs/picture.py

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: .venv/installed $(EXAMPLES)

# bcc is the distribution's, never PyPI's. A lack that cannot be mended without root is said and
# left: replay and report need none of this.
.venv/system: Makefile
	@mkdir -p .venv
	@$(MAKE) -s packages PACKAGES="python3-bpfcc python3-venv gcc libc6-dev"
	@touch $@

.venv/system-test: .venv/system
	@$(MAKE) -s packages PACKAGES="tmux strace bpftrace curl sudo openssh-server nginx-light \
		qemu-system-x86 busybox-static cpio kmod"
	@touch $@

.PHONY: packages
packages:
	@missing=; for p in $(PACKAGES); do \
		dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; \
	done; \
	test -z "$$missing" || { \
		echo "sockstep: installing$$missing"; \
		export DEBIAN_FRONTEND=noninteractive; \
		install="$(SUDO) apt-get install -y -qq --no-install-recommends $$missing"; \
		$$install >/dev/null 2>&1 || { $(SUDO) apt-get update -qq && $$install >/dev/null; } || \
		echo "sockstep: not installed, as that needs root:$$missing (sudo apt-get install$$missing)"; \
	}

# The first Python that is new enough and can make a virtual environment.
.venv/installed: pyproject.toml .venv/system
	@for p in python3.13 python3.12 python3.11 python3; do \
		$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
		p=; \
	done; \
	test -n "$$p" || { echo "sockstep: needs Python 3.11 or newer, with its venv module"; exit 1; }; \
	$$p -m venv .venv
	@$(BIN)/pip install -q -e .
	@$(BIN)/python -m compileall -q recordings probes tui  # a VM cannot keep what it compiles
	@touch $@

.venv/tested: .venv/installed .venv/system-test
	@$(BIN)/pip install -q -e '.[test,lint]'
	@touch $@

# Where no compiler could be installed, all the rest still works.
examples/%: examples/%.c
	@if command -v $(CC) >/dev/null; then set -x; $(CC) -O1 -Wall -o $@ $<; \
	else echo "sockstep: there is no C compiler: $@ is not built"; fi

tests/programs/bin/%: tests/programs/%.c
	@mkdir -p $(@D)
	$(CC) -O1 -Wall -pthread -o $@ $<

clean:
	rm -rf .venv $(EXAMPLES) tests/programs/bin
