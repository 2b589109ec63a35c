"""Which device and which number format to compute in."""

from __future__ import annotations

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def resolve_device(device: str) -> torch.device:
    """`auto` is CUDA where there is one, else the CPU. Raises ValueError for a device that is unknown or not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: expected auto, cpu or cuda, got {device!r}") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={device!r}: no CUDA device is available; use device='auto' or 'cpu'")
    return chosen


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the hardware multiplies it, else float32. Raises ValueError for another name."""
    if precision == "auto":
        return torch.bfloat16 if has_bfloat16(device) else torch.float32
    if precision not in DTYPES:
        raise ValueError(f"precision: expected auto, {', '.join(DTYPES)}, got {precision!r}")
    return DTYPES[precision]


def has_bfloat16(device: torch.device) -> bool:
    """Whether `device` has bfloat16 instructions (emulation is slower than float32 and does not count)."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu":
        return False
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check is not None and check() for check in checks)
