"""Adapters to the libraries that do the arithmetic, one file each: arrays, ints and bytes in and out.

Every other package of SkinGPT Edge imports this one first, so this is where ONNX Runtime's telemetry is
switched off: its official wheels (since 1.29) write a device id and open connections when they are imported,
and only this variable, set before the import, prevents it.
"""

import os
import sys
import warnings

if "onnxruntime" in sys.modules and os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
    warnings.warn(
        "onnxruntime was imported before skingpt_edge, with its telemetry on: "
        "set ORT_DISABLE_TELEMETRY=1 in the environment, or import skingpt_edge first",
        RuntimeWarning,
        stacklevel=2,
    )
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
