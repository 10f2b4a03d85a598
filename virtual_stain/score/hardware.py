"""What the processor or GPU can do. No TensorFlow is loaded for it, but its knowledge of GPUs is used where it is."""

from __future__ import annotations

import sys
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_AMPERE = 8  # first NVIDIA generation with bfloat16 units


def multiplies_bfloat16(cpu_info: Path = _CPU_INFO) -> bool:
    """Whether the device multiplies bfloat16 in hardware: AMX or AVX-512 BF16, or a GPU from Ampere on.

    Without them bfloat16 is emulated, and slower than float32.
    """
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None:
        gpus = tensorflow.config.list_physical_devices("GPU")
        if gpus:
            details = tensorflow.config.experimental.get_device_details(gpus[0])
            return bool(details.get("compute_capability", (0, 0))[0] >= _AMPERE)
    try:
        text = cpu_info.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False  # not Linux: nothing is known about the processor
    flags = next((line.split() for line in text.splitlines() if line.startswith("flags")), [])
    return "amx_bf16" in flags or "avx512_bf16" in flags
