# Three images out of one file:
#   pipeline      every step of the pipeline, and Triton beside it for the parity gate
#   serving-cpu   Triton from the nvidia-pytriton wheel with our compiled backend, and redis-server for the online store
#   gateway       the HTTP gateway: Feast's online store, the item tables, a gRPC client
# `make images` builds them. None holds CUDA, a build host's pip configuration, or a package cache.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN groupadd --gid 10001 leanrec \
 && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --shell /usr/sbin/nologin leanrec

# Triton: three packages, without nvidia-pytriton's own dependencies.
FROM base AS serving-environment
COPY requirements/serving.lock /requirements/
RUN python -m venv --without-pip /opt/leanrec/serving \
 && python -m pip --python /opt/leanrec/serving/bin/python install --no-cache-dir --no-compile \
      --no-deps --require-hashes -r /requirements/serving.lock \
 # The wheel carries Python stubs for other Pythons than this image's.
 && cd /opt/leanrec/serving/lib/python3.11/site-packages/pytriton/tritonserver/python_backend_stubs \
 && find . -mindepth 1 -maxdepth 1 ! -name 3.11 -exec rm -r {} +
# The backend that runs graphs inside Triton; the compiler stays behind in this stage.
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends g++
COPY leanrec/__init__.py leanrec/errors.py leanrec/files.py /build/leanrec/
COPY serving /build/serving
RUN cd /build && /opt/leanrec/serving/bin/python -m serving.build_backend --python /opt/leanrec/serving/bin/python

FROM base AS pipeline-environment
COPY requirements/pipeline.lock /requirements/
# torch apart from the lock: the CPU build, under the version the lock's packages were tested with.
ARG TORCH=torch==2.13.0
RUN python -m venv --without-pip /opt/leanrec/pipeline \
 && python -m pip --python /opt/leanrec/pipeline/bin/python install --no-cache-dir --no-compile \
      --no-deps --require-hashes -r /requirements/pipeline.lock \
 && python -m pip --python /opt/leanrec/pipeline/bin/python install --no-cache-dir --no-compile --no-deps "${TORCH}"
# The MovieLens source fetches its wheel by pip; Python carries one.
RUN /opt/leanrec/pipeline/bin/python -m ensurepip --default-pip >/dev/null

FROM base AS gateway-environment
COPY requirements/gateway.lock /requirements/
RUN python -m venv --without-pip /opt/leanrec/gateway \
 && python -m pip --python /opt/leanrec/gateway/bin/python install --no-cache-dir --no-compile \
      --no-deps --require-hashes -r /requirements/gateway.lock

FROM base AS serving-cpu
# Debian keeps redis-server patched within one version; its own user and configuration stay unused.
RUN apt-get update -qq \
 && apt-get install -y -qq --no-install-recommends redis-server \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log
COPY --from=serving-environment /opt/leanrec/serving /opt/leanrec/serving
COPY leanrec/__init__.py leanrec/errors.py leanrec/files.py /opt/leanrec/code/leanrec/
COPY serving /opt/leanrec/code/serving
ARG VERSION
ARG REVISION=unknown
LABEL org.opencontainers.image.title="LeanRec serving (CPU)" \
      org.opencontainers.image.description="Triton with LeanRec's ONNX Runtime backend" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/leanrec/serving/bin:$PATH PYTHONPATH=/opt/leanrec/code HOME=/tmp
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000 8001 8002
ENTRYPOINT ["python", "-m", "serving.embedded"]
CMD ["--repository", "/models", "--host", "0.0.0.0", "--allow-empty"]

FROM base AS gateway
COPY --from=gateway-environment /opt/leanrec/gateway /opt/leanrec/gateway
COPY leanrec /opt/leanrec/code/leanrec
COPY serving /opt/leanrec/code/serving
ARG VERSION
ARG REVISION=unknown
LABEL org.opencontainers.image.title="LeanRec gateway" \
      org.opencontainers.image.description="Recommendations over HTTP: user rows, Triton, titles, feedback events" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/leanrec/gateway/bin:$PATH PYTHONPATH=/opt/leanrec/code HOME=/tmp
WORKDIR /tmp
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["python", "-m", "serving.gateway"]
CMD ["/configuration/run.yaml"]

FROM base AS pipeline
COPY --from=serving-environment /opt/leanrec/serving /opt/leanrec/serving
COPY --from=pipeline-environment /opt/leanrec/pipeline /opt/leanrec/pipeline
COPY leanrec /opt/leanrec/code/leanrec
COPY components /opt/leanrec/code/components
COPY pipelines /opt/leanrec/code/pipelines
COPY feature_repo /opt/leanrec/code/feature_repo
COPY serving /opt/leanrec/code/serving
COPY configs /opt/leanrec/code/configs
RUN printf '#!/bin/sh\nexec python -c "from leanrec.cli import main; main()" "$@"\n' > /usr/local/bin/leanrec \
 && chmod 0755 /usr/local/bin/leanrec
ARG VERSION
ARG REVISION=unknown
LABEL org.opencontainers.image.title="LeanRec pipeline" \
      org.opencontainers.image.description="The steps of LeanRec's pipeline, from raw events to a release" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
ENV PATH=/opt/leanrec/pipeline/bin:$PATH PYTHONPATH=/opt/leanrec/code HOME=/tmp \
    LEANREC_SERVING_PYTHON=/opt/leanrec/serving/bin/python GX_ANALYTICS_ENABLED=false
WORKDIR /workspace
USER 10001:10001
ENTRYPOINT ["leanrec"]
CMD ["--help"]
