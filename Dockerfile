# What docker-compose.yml runs: the repository and its locked dependencies. State is in a volume.
FROM python:3.11-slim
RUN apt-get update && apt-get install --yes --no-install-recommends git libgomp1 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /perennial
# as orchestration/lib/commands.py sets them: no library reports its use
ENV GX_ANALYTICS_ENABLED=false DBT_SEND_ANONYMOUS_USAGE_STATS=false DO_NOT_TRACK=1 \
    FEAST_USAGE=False MLFLOW_DISABLE_TELEMETRY=true HF_HUB_DISABLE_TELEMETRY=1 \
    PYTHONWARNINGS=ignore:sqlglot:UserWarning
COPY requirements.lock .
RUN pip install --no-cache-dir -r requirements.lock
COPY . .
RUN useradd --create-home perennial \
    && mkdir -p /var/perennial/dagster \
    && cp dagster.team.yaml /var/perennial/dagster/dagster.yaml \
    && dbt parse --quiet --project-dir dbt_project --profiles-dir dbt_project \
    && chown -R perennial /perennial /var/perennial
USER perennial
