"""The trunk of the concept extractor Ψ: tapped maps of f, brought to one resolution and fused.

VisCoIN paper, section 3.2 and appendix C: each tap through a convolution to the deepest tap's resolution, concatenated,
one more 3x3 convolution. FLINT shares it ("same taps and depth of Ψ", appendix C.3).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class FusedTaps(nn.Module):
    """Tapped maps [B, C_i, H_i, W_i] to fused maps [B, taps · channels, H_last, W_last]."""

    def __init__(self, shapes: list[tuple[int, int]], channels: int) -> None:
        """Make the convolutions for taps of the given (channels, resolution)."""
        super().__init__()
        deepest = shapes[-1][1]
        self.taps = nn.ModuleList()
        for c_in, resolution in shapes:
            stride = max(1, resolution // deepest)
            # 5x5 stride 4, 3x3 stride 2, 3x3 stride 1 at 256 px, as in the public code.
            kernel = stride + 1 if stride > 1 else 3
            self.taps.append(nn.Conv2d(c_in, channels, kernel, stride, kernel // 2))
        self.channels = channels * len(shapes)
        self.fuse = nn.Conv2d(self.channels, self.channels, 3, padding=1)

    def forward(self, maps: tuple[Tensor, ...]) -> Float[Tensor, "B _c _h _w"]:
        """Return the fused maps."""
        tapped = [tap(m).relu() for tap, m in zip(self.taps, maps, strict=True)]
        deepest = tapped[-1].shape[-2:]
        # Strides that do not divide leave a border row too many; pooling brings it to the same grid.
        tapped = [t if t.shape[-2:] == deepest else nn.functional.adaptive_avg_pool2d(t, deepest) for t in tapped]
        return self.fuse(torch.cat(tapped, 1)).relu()


@torch.no_grad()
def tap_shapes(classifier: nn.Module, channels: int, size: int, device: torch.device) -> list[tuple[int, int]]:
    """Return (channels, resolution) of each tap of f for images of `size` pixels."""
    maps = classifier(torch.zeros(1, channels, size, size, device=device)).maps
    return [(m.shape[1], m.shape[2]) for m in maps]
