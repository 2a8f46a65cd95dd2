# The two images of the pipeline. They hold the packages that it imports and nothing of the pipeline itself: its sources
# travel with each registration, so an edit of the code needs no new image, and no image is older than the code in it.
#
#   make images
#
# builds both under the names that GDSD_CPU_IMAGE and GDSD_GPU_IMAGE give them, and runs a task in each. By hand:
#
#   docker build --target cpu -t REGISTRY/gdsd:cpu .
#   docker build --target gpu -t REGISTRY/gdsd:gpu .
#
# A pip configuration that the build needs, such as a company's index, is a secret of the build and stays out of the
# image: --secret id=pip,src=FILE.

# Debian or Ubuntu with Python 3.11 or 3.12, its venv and pip (22.3 or newer).
ARG BASE=python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b

FROM ${BASE} AS build
# Wheels only, so that no stage needs a compiler to install them, and only those whose hashes are in images/lock, which
# `make lock` writes. It names every package that another one needs. pip works on the environment from outside.
ENV PIP_PYTHON=/opt/venv/bin/python PIP_ONLY_BINARY=:all: PIP_REQUIRE_HASHES=1 PIP_NO_DEPS=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv --without-pip /opt/venv

# Torch is a stage and a layer of its own, so that a change of another package neither builds nor moves it anew.
FROM build AS cpu-torch
COPY images/lock/torch-cpu.txt ./
# Empty: from where the other packages come, if the builds of both kinds lie there.
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip install ${TORCH_CPU_INDEX:+--extra-index-url "$TORCH_CPU_INDEX"} -r torch-cpu.txt \
    && /opt/venv/bin/python -c "import torch; assert torch.version.cuda is None, torch.__version__"

FROM build AS gpu-torch
COPY images/lock/torch-gpu.txt ./
# Empty: from where the other packages come. There the build without a label is the one with CUDA. Another index has
# another build: make lock TORCH_GPU_INDEX=... first.
ARG TORCH_GPU_INDEX=
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip install ${TORCH_GPU_INDEX:+--extra-index-url "$TORCH_GPU_INDEX"} -r torch-gpu.txt \
    && /opt/venv/bin/python -c "import torch; assert torch.version.cuda, torch.__version__"

# The tools and data sets of the dependency groups stay out: code answers may read what is installed in an image.
FROM build AS packages
COPY images/lock/packages.txt images/lock/tracking.txt images/lock/quantization.txt images/quiet.pth ./
# Optional dependencies of pyproject.toml that the image has too, such as: tracking.
ARG EXTRAS=
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    for name in packages $EXTRAS; do cat "$name.txt" >> requirements.txt || exit; done \
    && python3 -m pip install -r requirements.txt && cp quiet.pth /opt/venv/lib/python3*/site-packages

FROM build AS materials
COPY images/lock/materials.txt images/materials.py ./
RUN --mount=type=secret,id=pip,target=/etc/pip.conf --mount=type=cache,target=/root/.cache/pip \
    python3 -m pip install -r materials.txt

FROM ${BASE} AS run
ENV PATH=/opt/venv/bin:$PATH HOME=/home/flyte PYTHONUNBUFFERED=1
# No pip, no package of the base's own Python (the environment is /opt/venv, and the list of materials names what is
# there), and no file by which a user becomes another one: hostile code may have them in reach.
# Sources are unpacked into the working folder by `pyflyte run`, into /root by `pyflyte register`: here these are one.
RUN find / -xdev \( -path '*-packages/pip' -o -path '*-packages/pip-*' -o -path '*/bin/pip' -o -path '*/bin/pip[0-9]*' \
        -o -path '*/python3*/ensurepip' -o -path '*/share/python-wheels' \
        -o -path '*/usr/local/lib/python3*/site-packages/*' -o -path '*/usr/local/bin/wheel' \) -prune -exec rm -rf {} + \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} + \
    && useradd --create-home --uid 1000 flyte && chown flyte:flyte /root
WORKDIR /root

FROM run AS cpu-whole
# Confines the code of answers, which is verified on this image. No compiler here: it would be in their reach.
RUN apt-get update && apt-get install -y --no-install-recommends bubblewrap && rm -rf /var/lib/apt/lists/*
COPY --from=cpu-torch /opt/venv /opt/venv
COPY --from=packages /opt/venv /opt/venv

FROM run AS gpu-whole
# For `compile: true`: Triton and torch compile small programs against Python's headers when a network is first read.
RUN headers="$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')" \
    && if [ ! -e "$headers/Python.h" ]; then set -- python3-dev; fi \
    && apt-get update && apt-get install -y --no-install-recommends g++ "$@" && rm -rf /var/lib/apt/lists/*
COPY --from=gpu-torch /opt/venv /opt/venv
COPY --from=packages /opt/venv /opt/venv

FROM materials AS cpu-materials
RUN --mount=type=bind,from=cpu-whole,target=/image \
    python3 -m pip --python /image/opt/venv/bin/python check && /opt/venv/bin/python materials.py /image > list.json

FROM materials AS gpu-materials
RUN --mount=type=bind,from=gpu-whole,target=/image \
    python3 -m pip --python /image/opt/venv/bin/python check && /opt/venv/bin/python materials.py /image > list.json

FROM cpu-whole AS cpu
COPY --from=cpu-materials /build/list.json /opt/materials.cdx.json
# Where the sources of this file are, and which commit they were at.
ARG SOURCE=
ARG REVISION=
LABEL org.opencontainers.image.source=$SOURCE org.opencontainers.image.revision=$REVISION \
    org.opencontainers.image.licenses=LicenseRef-of-each-package
# As a number, or a cluster that runs nothing as root cannot tell that this is not root.
USER 1000:1000

FROM gpu-whole AS gpu
COPY --from=gpu-materials /build/list.json /opt/materials.cdx.json
ARG SOURCE=
ARG REVISION=
LABEL org.opencontainers.image.source=$SOURCE org.opencontainers.image.revision=$REVISION \
    org.opencontainers.image.licenses=LicenseRef-of-each-package
USER 1000:1000
