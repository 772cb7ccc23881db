"""What every test starts from: no network, and one thread a process, so that processes share the machine well."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import cv2
import torch
from hypothesis import settings

from tests.support.windows import windows_files  # noqa: F401

torch.set_num_threads(1)
cv2.setNumThreads(1)
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")
