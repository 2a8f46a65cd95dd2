# The two images of the pipeline. Both have the pinned packages of constraints.txt; the sources travel with each registration,
# so an edit of the code needs no new image.
#
#   docker build --target cpu -t REGISTRY/gdsd:cpu .
#   docker build --target gpu -t REGISTRY/gdsd:gpu .
#
# Then register with GDSD_CPU_IMAGE and GDSD_GPU_IMAGE set to these names.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS base
ENV PYTHONUNBUFFERED=1 PATH=/opt/venv/bin:$PATH
RUN python3 -m venv /opt/venv && useradd --create-home --uid 1000 flyte
COPY constraints.txt /tmp/constraints.txt
WORKDIR /home/flyte/run

FROM base AS cpu
# Confines the code of answers, which is judged on this image.
RUN apt-get update && apt-get install -y --no-install-recommends bubblewrap && rm -rf /var/lib/apt/lists/*
# The CPU build of torch has its own index; everything else comes from the ordinary one.
ARG TORCH_INDEX=
RUN if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-cache-dir --index-url "$TORCH_INDEX" "$(grep '^torch==' /tmp/constraints.txt)"; \
    fi && pip install --no-cache-dir -r /tmp/constraints.txt
RUN chown flyte:flyte /home/flyte/run
USER flyte

FROM base AS gpu
# torch==2.13.0 from the ordinary index is the CUDA build and brings its own CUDA libraries.
RUN pip install --no-cache-dir -r /tmp/constraints.txt
RUN chown flyte:flyte /home/flyte/run
USER flyte
