# Two virtual environments: .venv serves (no torch in it), .venv-dev develops. Each is made on first use and brought
# up to date when pyproject.toml or constraints.txt change. `make help` lists what there is.

# Set these on the command line: make serve PORT=9000 DATA=some/dir PYTHON=python3.12
PYTHON = python3
HOST = 127.0.0.1
PORT = 8080
DATA = data
# make bench AGAINST=main~3 CONFIG=policy.toml AGAINST_CONFIG=other.toml ROUNDS=3 SECONDS=1
AGAINST =
CONFIG =
AGAINST_CONFIG =
ROUNDS =
SECONDS =

RUN = .venv/bin/python
DEV = .venv-dev/bin/python
SCRIPTS = .ci/run $(wildcard deploy/*.sh)

# What the tests cover whole. Each is reported by itself: one that matches no file is an error, not a pass.
COVERED = guards/* service/decision/decide.py

.DEFAULT_GOAL = help
.PHONY: help serve drive train test covered check bench soak chaos clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-7s %s\n", $$1, $$2 }' Makefile

serve: .venv/.installed ## serve the bundled policy (HOST=127.0.0.1 PORT=8080 DATA=data; REDIS_URL in the environment)
	@exec .venv/bin/actd serve policy.toml --host "$(HOST)" --port "$(PORT)" --data "$(DATA)"

drive: .venv/.installed ## play a control loop against what `make serve` serves
	@exec $(RUN) examples/autoscaler/drive.py --url "http://$(HOST):$(PORT)"

train: .venv-dev/.installed ## train the bundled policy again and compare its return with the committed one's
	@exec $(DEV) -m examples.autoscaler.train --check

test: .venv-dev/.installed ## run the tests, then hold guards/ and service/decision/decide.py to 100 % branch coverage
	$(DEV) -m pytest -m "not soak and not chaos" --cov --cov-report=
	@$(MAKE) --no-print-directory covered

covered:
	set -ef; for each in $(COVERED); do $(DEV) -m coverage report --show-missing --include="$$each" --fail-under=100; done

check: .venv-dev/.installed ## ruff, mypy --strict, import direction, hadolint, compose schema, shell syntax
	$(DEV) -m ruff check
	$(DEV) -m ruff format --check
	$(DEV) -m mypy
	$(DEV) -m pytest -q tests/test_imports.py
	.venv-dev/bin/hadolint Dockerfile
	.venv-dev/bin/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	set -e; for script in $(SCRIPTS); do bash -n "$$script"; done

LENGTH = $(if $(ROUNDS),--rounds "$(ROUNDS)") $(if $(SECONDS),--seconds "$(SECONDS)")
BENCH = $(LENGTH) $(if $(AGAINST),--against "$(AGAINST)") $(if $(CONFIG),--config "$(CONFIG)")
BENCH += $(if $(AGAINST_CONFIG),--against-config "$(AGAINST_CONFIG)")

bench: .venv/.installed .venv-dev/.installed ## latency and CPU of /act beside bare uvicorn and FastAPI, and of the guards: 10 minutes (needs wrk; AGAINST=commit)
	@$(RUN) -m loadtests.bench $(BENCH)
	@exec $(DEV) -m tests.service.cost $(LENGTH)

soak: .venv-dev/.installed ## run the tests that take long; then change guards/ in every small way: its tests must notice
	$(DEV) -m pytest -m soak
	$(DEV) -m tests.mutation

chaos: .venv-dev/.installed ## run the tests that kill processes many times
	$(DEV) -m pytest -m chaos

clean: ## remove the virtual environments and caches; data stays
	rm -rf .venv .venv-dev build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The mark is written last and taken away first, so a half-built environment is never taken for a whole one: it is made anew.
# `--without-pip` and `--python` because a fresh Debian has pip but no ensurepip.

define make-venv
@command -v $(PYTHON) > /dev/null || { echo "There is no $(PYTHON) here: install Python 3.11 or newer, or name one: make PYTHON=python3.11"; exit 1; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "actd needs Python 3.11 or newer and $(PYTHON) is older: name another, as in make PYTHON=python3.11"; exit 1; }
@$(PYTHON) -c 'import pip, re, sys; sys.exit([int(n) for n in re.findall("[0-9]+", pip.__version__)[:2]] < [22, 3])' 2> /dev/null || { echo "actd is installed with pip 22.3 or newer and $(PYTHON) has none or an older one: install it (Debian: python3-pip)."; exit 1; }
@test -f $@ && $(@D)/bin/python -c '' || $(PYTHON) -m venv --clear --without-pip $(@D)
@rm -f $@
endef

INSTALL = $(PYTHON) -m pip --disable-pip-version-check --python $(@D)/bin/python install

.venv/.installed: pyproject.toml constraints.txt
	$(make-venv)
	$(INSTALL) --constraint constraints.txt --editable .
	@touch $@

# torch goes first and alone, so that nothing that depends on it chooses a build; TORCH_INDEX_URL says where from.
.venv-dev/.installed: pyproject.toml constraints.txt
	$(make-venv)
	$(INSTALL) --no-deps $(if $(TORCH_INDEX_URL),--index-url "$(TORCH_INDEX_URL)") "$$(grep '^torch==' constraints.txt)"
	@$(DEV) -c 'import runpy, sys, sysconfig; sys.exit(runpy.run_path(sysconfig.get_path("purelib") + "/torch/version.py")["cuda"] is not None)' || { echo "This torch is a CUDA build of several GB: set TORCH_INDEX_URL to the address of PyTorch's own CPU index."; exit 1; }
	$(INSTALL) --constraint constraints.txt --editable ".[dev]"
	@touch $@
