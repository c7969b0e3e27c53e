# Samples from one base model and its adapters with vLLM, on NVIDIA's GPUs.
#
# The pattern of all images: docs/images.md. From the root of the repository: `task images -- sample-vllm`.
# A digest behind the tag (@sha256:…) holds it to the byte.
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS builder
RUN python -m venv --without-pip /opt/venv
COPY tools/pins/sample-vllm.txt /pins/
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --requirement /pins/sample-vllm.txt \
    && pip --python /opt/venv/bin/python check
COPY services /app/services
COPY events /app/events
COPY sdk /app/sdk
RUN python -m compileall -q --invalidation-mode=unchecked-hash /app

FROM ${BASE}
# Triton compiles its launchers when it first runs.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY --from=builder /opt/venv /opt/venv
COPY --from=builder /app /app
ENV PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/app:/app/sdk \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    USER=rekindle \
    HOME=/tmp
WORKDIR /app
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/opt/venv/bin/python", "-m", "services.sample.app"]
