"""Which image each role gets, and what its pods ask for unless a configuration names machines.

The image names carry no registry: set GDSD_CPU_IMAGE and GDSD_GPU_IMAGE (registry, name and tag) before registering.
"""

import os
from dataclasses import dataclass

from flytekit import Resources


@dataclass(frozen=True)
class Role:
    """An image and the resources of a pod."""

    image: str
    requests: Resources
    limits: Resources


CPU = Role(
    image=os.environ.get("GDSD_CPU_IMAGE") or "gdsd:cpu",
    requests=Resources(cpu="2", mem="4Gi"),
    limits=Resources(cpu="4", mem="8Gi"),
)
GPU = Role(
    image=os.environ.get("GDSD_GPU_IMAGE") or "gdsd:gpu",
    requests=Resources(cpu="4", mem="16Gi", gpu="1"),
    limits=Resources(cpu="8", mem="32Gi", gpu="1"),
)
# A dynamic task names the images of what it launches, and it does so in a pod, without the environment of registration.
IMAGES = {"GDSD_CPU_IMAGE": CPU.image, "GDSD_GPU_IMAGE": GPU.image}
