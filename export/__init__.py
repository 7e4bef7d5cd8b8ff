"""From the original's checkpoints to a bundle: graphs, GGUF, quantisation and the comparison with the original.

It uses torch, which the runtime never does. It reads files and never the network.
"""

import os

from .. import engines as engines  # switches ONNX Runtime's telemetry off before anything here imports it

# Hugging Face's libraries would otherwise ask their hub about files that are all here.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
