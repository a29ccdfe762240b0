# One image for every role of the cluster (docker-compose.yml): Ray head, workers, sweeps and the tracking server.
FROM python:3.11-slim AS uv
COPY constraints.txt /
RUN pip install --no-cache-dir -c /constraints.txt --target /uv uv

FROM python:3.11-slim
ENV PATH=/opt/venv/bin:$PATH VIRTUAL_ENV=/opt/venv PYTHONUNBUFFERED=1
WORKDIR /app
# Packages in a layer of their own (some 6 GB, most of it torch's CUDA libraries), which a change of the code leaves as it is;
# compiled here, as containers whose root is read-only would compile them again in every process.
# UV_INDEX=https://download.pytorch.org/whl/cpu UV_INDEX_STRATEGY=unsafe-best-match gives torch without them.
ARG UV_INDEX= UV_INDEX_STRATEGY=first-index
RUN --mount=from=uv,source=/uv,target=/uv --mount=source=pyproject.toml,target=pyproject.toml \
    --mount=source=constraints.txt,target=constraints.txt \
    uv=/uv/bin/uv && $uv venv -q /opt/venv \
    && $uv pip install -q --no-cache --compile-bytecode -c constraints.txt -r pyproject.toml --extra cluster
COPY . .
# An ordinary user. New volumes take their owner from these folders, so nothing has to be made writable by root later.
RUN --mount=from=uv,source=/uv,target=/uv /uv/bin/uv pip install -q --no-cache --no-deps --no-build-isolation -e . && python -m compileall -q . \
    && useradd --uid 1000 --create-home fishernet && mkdir /results /data /artifacts && chown fishernet: /results /data /artifacts
USER fishernet
