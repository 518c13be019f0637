# perennial: `make run` runs a whole night, `make test` passes the tests; `make help` lists the rest.
PYTHON ?= python3
SHOP ?= demo
PORT ?= 3000
MODEL ?= recommender
BIN := .venv/bin
READY := .venv/.ready

# What a person gives reaches a command as one word of data, never as a piece of shell.
export SHOP PORT MODEL DATA SCALE NIGHT FROM TO TRIALS SECONDS EPSILON
export PERSON := $(value USER)
unexport USER

.DEFAULT_GOAL := help
.PHONY: help setup run test test-faults lint types ui bench check-shop backfill search backup restore forget rotate-key share rollback lock clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: $(READY) ## make .venv from the lock

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "perennial needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up .venv from requirements.lock (a few minutes, once)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	@touch $@

run: $(READY) ## run one whole night: SHOP=demo SCALE=small|default|large DATA=folder NIGHT=YYYY-MM-DD
	@$(BIN)/python -m orchestration run --shop "$$SHOP" $(if $(DATA),--data "$$DATA") \
	  $(if $(SCALE),--scale "$$SCALE") $(if $(NIGHT),--night "$$NIGHT") $(if $(FORCE),--force) \
	  $(if $(REBUILD),--rebuild)

test: $(READY) ## lint, types and all tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-faults: $(READY) ## the long tests: kills, full disks, whole nights again and again
	@$(BIN)/python -m pytest -m faults --numprocesses 2

lint: $(READY) ## mend what the linter can mend
	@$(BIN)/ruff check --fix . && $(BIN)/ruff format .

ui: $(READY) ## Dagster's webserver and daemon, with the nightly schedule on
	@$(BIN)/python -m orchestration ui --port "$$PORT"

bench: $(READY) ## run benchmarks/
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

check-shop: $(READY) ## check a shop's mapping against its raw files: SHOP=name
	@$(BIN)/python -m ingest.check_shop "$$SHOP" $(if $(DATA),--data "$$DATA")

backfill: $(READY) ## run a range of nights as one run: SHOP=name FROM=YYYY-MM-DD TO=YYYY-MM-DD
	@$(if $(and $(FROM),$(TO)),,$(error name both days: make backfill SHOP=name FROM=2026-06-01 TO=2026-06-30))\
	  $(BIN)/python -m orchestration backfill --shop "$$SHOP" --from "$$FROM" --to "$$TO"

search: $(READY) ## look for better settings of the recommender: SHOP=name TRIALS=20 SECONDS=1800
	@$(BIN)/python -m orchestration search --shop "$$SHOP" $(if $(NIGHT),--night "$$NIGHT") \
	  $(if $(TRIALS),--trials "$$TRIALS") $(if $(SECONDS),--seconds "$$SECONDS")

backup: $(READY) ## the whole state of a shop in one encrypted file: SHOP=name TO=folder
	@$(if $(TO),,$(error name the folder: make backup SHOP=name TO=folder))\
	  $(BIN)/python -m orchestration backup --shop "$$SHOP" --to "$$TO" \
	  $(if $(PLAIN),--plain) $(if $(SECRETS),--secrets)

restore: $(READY) ## back to a kept night, or to a backup: SHOP=name NIGHT=YYYY-MM-DD or FROM=file
	@$(if $(NIGHT)$(FROM),,$(error name a kept night or a backup: NIGHT=2026-06-30 or FROM=file))\
	  $(BIN)/python -m orchestration restore --shop "$$SHOP" \
	  $(if $(NIGHT),--night "$$NIGHT") $(if $(FROM),--from "$$FROM")

forget: $(READY) ## erase a person everywhere and prove it: SHOP=name USER=<the shop's own id>
	@$(if $(filter command,$(origin USER)),,$(error name the person: make forget SHOP=name USER=id))\
	  $(BIN)/python -m privacy forget --shop "$$SHOP" --user "$$PERSON"

rotate-key: $(READY) ## another pseudonym for every shopper: SHOP=name, then make run
	@$(BIN)/python -m privacy rotate-key --shop "$$SHOP"

share: $(READY) ## aggregates with noise for people outside the house: SHOP=name EPSILON=1
	@$(BIN)/python -m privacy share --shop "$$SHOP" $(if $(EPSILON),--epsilon "$$EPSILON")

rollback: $(READY) ## go back to the model before: SHOP=name MODEL=recommender
	@$(BIN)/python -m ml.registry rollback --models "$${PERENNIAL_VAR:-var}/$$SHOP/models" "$$MODEL"

lock: ## resolve pyproject.toml anew and write requirements.lock
	@rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	@.venv-lock/bin/pip install --quiet ".[dev,team,share,bench]"
	@{ head -2 requirements.lock; .venv-lock/bin/pip freeze --exclude perennial \
	  | grep -viE '^(nvidia-|triton|cuda-)' | sed 's/+cpu//'; } > requirements.new
	@mv requirements.new requirements.lock && rm -rf .venv-lock

clean: ## delete all run state under var/
	@rm -rf var
