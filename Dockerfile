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
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS build
# Wheels only, so that no stage needs a compiler to install them. pip works on the environment from outside.
ENV PIP_PYTHON=/opt/venv/bin/python PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all: PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
COPY pyproject.toml constraints.txt images/quiet.pth ./
# Optional dependencies of pyproject.toml that the image has too, such as: tracking.
ARG EXTRAS=
# The tools and data sets of the dependency groups stay out: code answers may read what is installed in an image.
RUN python3 -m venv --without-pip /opt/venv && cp quiet.pth /opt/venv/lib/python3*/site-packages && python3 -c "import tomllib; import os; \
project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extra = [project['optional-dependencies'][name] for name in os.environ.get('EXTRAS', '').split()]; \
print(*sum(extra, project['dependencies']), sep='\n')" > requirements.txt

FROM build AS cpu-packages
# Empty: from where the other packages come, if the builds of both kinds lie there.
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    python3 -m pip install --no-deps ${TORCH_CPU_INDEX:+--index-url "$TORCH_CPU_INDEX"} \
        "$(grep '^torch==' constraints.txt)+cpu" \
    && python3 -m pip install -c constraints.txt -r requirements.txt \
    && /opt/venv/bin/python -c "import torch; assert torch.version.cuda is None, torch.__version__"

FROM build AS gpu-packages
# Empty: from where the other packages come. There the build without a label is the one with CUDA; it brings its own
# libraries of CUDA, and says which.
ARG TORCH_GPU_INDEX=
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    torch="$(grep '^torch==' constraints.txt)" \
    && python3 -m pip install --no-deps ${TORCH_GPU_INDEX:+--index-url "$TORCH_GPU_INDEX"} \
        "$([ -n "$TORCH_GPU_INDEX" ] && echo "$torch" || echo "$torch" | sed 's/==/===/')" \
    && python3 -m pip install -c constraints.txt -r requirements.txt \
    && /opt/venv/bin/python -c "import torch; assert torch.version.cuda, torch.__version__"

FROM ${BASE} AS run
ENV PATH=/opt/venv/bin:$PATH HOME=/home/flyte PYTHONUNBUFFERED=1
# Sources are unpacked into the working folder by `pyflyte run`, into /root by `pyflyte register`: here these are one.
RUN useradd --create-home --uid 1000 flyte && chown flyte:flyte /root
WORKDIR /root

FROM run AS cpu
# Confines the code of answers, which is verified on this image. No compiler here: it would be in their reach.
RUN apt-get update && apt-get install -y --no-install-recommends bubblewrap && rm -rf /var/lib/apt/lists/*
COPY --from=cpu-packages /opt/venv /opt/venv
# As a number, or a cluster that runs nothing as root cannot tell that this is not root.
USER 1000:1000

FROM run AS gpu
# For `compile: true`: Triton and torch compile small programs against Python's headers when a network is first read.
RUN headers="$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')" && apt-get update \
    && apt-get install -y --no-install-recommends g++ $([ -e "$headers/Python.h" ] || echo python3-dev) \
    && rm -rf /var/lib/apt/lists/*
COPY --from=gpu-packages /opt/venv /opt/venv
USER 1000:1000
