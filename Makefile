# Variables given as `make TARGET NAME=value` reach the scripts through the environment.
CONF ?= conf/embedded.yaml
DATASET ?= movielens-1m
BENCHMARKS := $(patsubst benchmarks/%.py,bench-%,$(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)))
RUN := scripts/with_env.sh
# Two processes, each with a Spark session of its own, which a test spends most of its time waiting for.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup nightly generate-log test test-all lint format airflow test-production test-airflow ui history data cluster cluster-stop audit soak bench clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-zA-Z%-]+:.*## / { sub("%", "NAME", $$1); printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup:  ## make .venv ready: pinned packages, Horovod, a self-check (PYTHON=, HOROVOD_GPU_OPERATIONS=NCCL)
	@scripts/setup.sh

nightly: setup  ## the whole nightly run (CONF=, DATE=YYYY-MM-DD, ARGS="key.sub=value …", MASTER=, DRIVER_MEMORY=)
	@scripts/submit.sh nightly --config $(CONF) $(if $(DATE),--date $(DATE)) $(ARGS)

generate-log: setup  ## write the embedded interaction log alone (CONF=, ARGS=)
	@scripts/submit.sh generate_log --config $(CONF) $(if $(DATE),--date $(DATE)) $(ARGS)

job-%: setup  ## any other of jobs/NAME.py (the variables of nightly)
	@scripts/submit.sh $* --config $(CONF) $(if $(DATE),--date $(DATE)) $(ARGS)

test: lint  ## lint, and every test but the slow ones (ARGS= of pytest)
	@$(RUN) pytest $(PARALLEL) -m "not slow" $(ARGS)

test-all: lint  ## lint, and every test (ARGS= of pytest)
	@$(RUN) pytest $(PARALLEL) $(ARGS)

lint: setup  ## ruff, mypy and the import contract
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(RUN) lint-imports

format: setup  ## let ruff put the code into shape
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

airflow: setup  ## Airflow on the loopback interface with the DAGs; prints the login (PORT=8080, MASTER=, RECSYS_CONFIG=)
	@scripts/airflow.sh start

test-production: setup  ## two nights at once through MLflow on a real PostgreSQL, and what else conf/prod promises
	@$(RUN) pytest tests/test_production.py $(ARGS)

test-airflow: setup  ## the DAGs' tests in Airflow's own environment, with nights run by it (ARGS= of pytest)
	@scripts/airflow.sh test $(ARGS)

ui: setup  ## the MLflow UI on the runs of this checkout (PORT=5000)
	@$(RUN) python scripts/ui.py --port $(or $(PORT),5000)

history: setup  ## the Spark history server on the event logs of spark.event_log (DIR=build/spark-events, PORT=18080, DAYS=30)
	@scripts/history.sh

data: setup  ## download a public data set into data/ (DATASET=movielens-100k, -1m or -32m)
	@$(RUN) python -m recsys_spark.log.public $(DATASET)

cluster: setup  ## a Spark master and two workers on this machine (PORT=7077, WORKERS=2, WORKER_CORES=1, WORKER_MEMORY=2g)
	@$(RUN) scripts/cluster.sh start

cluster-stop:  ## stop them
	@scripts/cluster.sh stop

audit:  ## hold every pinned package against PyPI's advisories (needs PyPI itself)
	@scripts/audit.sh $(ARGS)

soak: setup  ## nights with faults one after the other; tables in build/soak (SEED=1, NIGHTS=14, ARGS="--only NAME --keep")
	@$(RUN) env PYTHONPATH=tests python -m soak --seed $(or $(SEED),1) --nights $(or $(NIGHTS),14) $(ARGS)

bench: $(BENCHMARKS)  ## every benchmark; results in build/bench

bench-%: setup  ## benchmarks/NAME.py alone; result in build/bench/NAME.json (ARGS=)
	@mkdir -p build/bench
	@$(RUN) python benchmarks/$*.py --out build/bench/$*.json $(ARGS)

clean:  ## remove caches and what packaging left; keeps .venv, data, tables and runs
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	@rm -rf build/lib build/bdist.* build/bench build/setup.log spark-warehouse metastore_db derby.log
	@find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
