"""The names of the number formats that networks compute in; known without PyTorch, which has the formats themselves."""

from typing import Literal, get_args

Precision = Literal["auto", "half", "fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DTYPE_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}  # name here -> name in PyTorch
