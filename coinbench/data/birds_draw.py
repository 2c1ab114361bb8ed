"""The renderer of `birds`: part values and nuisances in, pixels or coverage out; own drawing, numpy only.

Shapes are signed distances, so every edge is anti-aliased where it is drawn; the drawing is made at least twice
as large as asked for and reduced by a box filter. Pixels pass through +, -, *, /, sqrt and floor only, which
IEEE 754 fixes to the last bit: no image depends on the chunk it was drawn in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, UInt8

RENDERER_VERSION = 1
"""Raised whenever a pixel can change."""

PARTS: dict[str, tuple[str, ...]] = {
    "body colour": ("red", "blue", "yellow", "green", "brown"),
    "wing pattern": ("plain", "bars", "spots", "dark"),
    "head cap": ("none", "black", "white"),
    "beak shape": ("short", "long", "hooked"),
    "beak colour": ("yellow", "red", "black"),
    "eye colour": ("black", "red", "blue"),
    "tail shape": ("short", "long", "forked", "fan"),
}
"""Each part with its values; a factor is a position in the tuple."""
NEUTRAL = -1
"""A factor that draws a part as none of its values: with the mean of their colours and measures."""
PART_NAMES = tuple(PARTS)
BODY, WING, CAP, BEAK_SHAPE, BEAK_COLOUR, EYE, TAIL = range(len(PARTS))

NUISANCES = (
    *("tilt", "scale", "x", "y", "head x", "head y", "tail angle"),
    *("sky hue", "sky saturation", "ground hue", "ground value", "horizon", "slope"),
    *("brightness", "warmth", "light side"),
)
"""What a drawing depends on besides its parts; each is a number in [0, 1)."""

_CREAM = (0.99, 0.97, 0.90)
_INK = (0.10, 0.10, 0.13)
_LEG = (0.36, 0.25, 0.20)


def _table(*rows: tuple[float, ...]) -> np.ndarray:
    """Return one row per value, in the order of PARTS, and their mean as the last one, which NEUTRAL picks."""
    return np.array([*rows, np.mean(rows, axis=0)])


_BODY_COLOURS = _table(
    (0.86, 0.15, 0.16),
    (0.15, 0.38, 0.88),
    (0.98, 0.80, 0.10),
    (0.16, 0.60, 0.26),
    (0.50, 0.31, 0.18),
)
_CAP_COLOURS = np.array([_INK, _INK, (1.0, 1.0, 1.0), np.mean([_INK, (1.0, 1.0, 1.0)], axis=0)])
_CAP_SHOWN = np.array([0, 1, 1, 2 / 3])
_WING_SHOWN = np.array([0, 1, 1, 0, 1 / 2]), np.array([0, 0, 0, 1, 1 / 4])
"""How much of the pattern, and of the dark coat, each value shows."""
_BEAK_COLOURS = _table((1.0, 0.80, 0.05), (0.88, 0.10, 0.16), _INK)
_EYE_COLOURS = _table(_INK, (0.93, 0.08, 0.08), (0.05, 0.55, 1.0))
# Length, half-width at the head, bulge of the profile, droop at the tip.
_BEAKS = _table((0.105, 0.052, 0.2, 0.01), (0.205, 0.040, 0.0, 0.0), (0.135, 0.064, 1.4, 0.105))
# Length, half-width at the root and at the end, depth of the notch (negative: rounded).
_TAILS = _table(
    *((0.15, 0.055, 0.072, -0.02), (0.29, 0.045, 0.040, -0.02)),
    *((0.26, 0.040, 0.125, 0.17), (0.20, 0.045, 0.165, -0.06)),
)

_CHUNK = 1 << 17
"""Pixels drawn at once: the arrays of a chunk stay in a core's cache."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """One coat of paint: where, how much, which colour, and whose part it shows."""

    rows: slice
    columns: slice
    alpha: np.ndarray
    colour: tuple[np.ndarray, np.ndarray, np.ndarray]
    parts: tuple[int, ...] = ()


def draw(
    factors: Int[np.ndarray, "n parts"],
    nuisances: Float[np.ndarray, "n nuisances"],
    mirrored: Bool[np.ndarray, "n"],
    size: int,
) -> UInt8[np.ndarray, "n {size} {size} 3"]:
    """Draw birds.

    Args:
        factors: a position in the values of each of PARTS, or NEUTRAL.
        nuisances: a number in [0, 1) for each of NUISANCES.
        mirrored: birds that face left.
        size: H = W in pixels.
    """
    out = np.empty((len(factors), size, size, 3), dtype=np.uint8)
    for chunk, scene in _scenes(factors, nuisances, size):
        canvas = scene.background()
        for layer in scene.layers():
            view = canvas[:, :, layer.rows, layer.columns]
            for channel, colour in zip(view, layer.colour, strict=True):
                channel += layer.alpha * (colour - channel)
        canvas *= scene.light
        reduced = _reduce(canvas, size)
        out[chunk] = (np.clip(reduced, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 3, 0)
    out[mirrored] = out[mirrored, :, ::-1]
    return out


def coverage(
    factors: Int[np.ndarray, "n parts"],
    nuisances: Float[np.ndarray, "n nuisances"],
    mirrored: Bool[np.ndarray, "n"],
    size: int,
) -> Float32[np.ndarray, "n parts {size} {size}"]:
    """Return which share of each pixel shows paint that a part decides on. Arguments as for `draw`.

    What lies behind other paint does not count. Exactly 0 where the part's value cannot change the pixel, unless
    another value reaches further.
    """
    out = np.empty((len(factors), len(PARTS), size, size), dtype=np.float32)
    for chunk, scene in _scenes(factors, nuisances, size):
        shown = np.zeros((len(PARTS), *scene.shape), dtype=np.float32)
        for layer in scene.layers():
            view = shown[:, :, layer.rows, layer.columns]
            for part, channel in enumerate(view):
                channel += layer.alpha * (np.float32(part in layer.parts) - channel)
        out[chunk] = _reduce(shown, size).swapaxes(0, 1)
    out[mirrored] = out[mirrored, :, :, ::-1]
    return out


def _scenes(factors: np.ndarray, nuisances: np.ndarray, size: int) -> Iterator[tuple[slice, _Scene]]:
    # At least 64 px: an eye must be some pixels wide where it is drawn, whatever remains of it.
    large = size * max(2, -(-64 // size))
    step = max(1, _CHUNK // large**2)
    for start in range(0, len(factors), step):
        chunk = slice(start, min(start + step, len(factors)))
        yield chunk, _Scene(factors[chunk], nuisances[chunk], large)


def _reduce(planes: Float32[np.ndarray, "c n S S"], size: int) -> Float32[np.ndarray, "c n {size} {size}"]:
    factor = planes.shape[-1] // size
    # Strided views added up: four times faster than `mean` over axes of length 2.
    rows = planes[:, :, ::factor].copy()
    for i in range(1, factor):
        rows += planes[:, :, i::factor]
    total = rows[..., ::factor].copy()
    for i in range(1, factor):
        total += rows[..., i::factor]
    return total * np.float32(1 / factor**2)


def _cells(values: np.ndarray) -> np.ndarray:
    """Return one number per image, shaped to meet pixel arrays [n, h, w]."""
    return np.asarray(values, dtype=np.float32)[:, None, None]


def _rgb(colours: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Split [n, 3] or [3] into three arrays shaped to meet pixel arrays."""
    r, g, b = np.atleast_2d(colours).T
    return _cells(r), _cells(g), _cells(b)


def _hsv(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray | float) -> np.ndarray:
    """Return [n, 3] from hue, saturation and value in [0, 1]."""
    turn = (hue[:, None] + np.array([0.0, 2 / 3, 1 / 3])) * 6 % 6
    strength = np.clip(np.abs(turn - 3) - 1, 0, 1)
    return np.reshape(value, (-1, 1)) * (1 - saturation[:, None] * (1 - strength))


def _blend(a: tuple, b: tuple, share: np.ndarray) -> tuple:
    return tuple(x + share * (y - x) for x, y in zip(a, b, strict=True))


def _shade(colour: tuple, factor: np.ndarray | float) -> tuple:
    return tuple(channel * factor for channel in colour)


def _ellipse(x: np.ndarray, y: np.ndarray, rx: float, ry: float) -> np.ndarray:
    """Return the distance to an ellipse, to first order at its edge."""
    x, y = x * (1 / rx), y * (1 / ry)
    xx, yy = x * x, y * y
    k = np.sqrt(xx + yy)
    slope = np.sqrt(xx * (1 / rx**2) + yy * (1 / ry**2))
    return k * (k - 1) / np.maximum(slope, 1e-3)


class _Scene:
    """A chunk of birds. The bird's own frame: origin at the body's centre, x forward, y down, about 0.9 long."""

    def __init__(self, factors: np.ndarray, nuisances: np.ndarray, size: int) -> None:
        self.size = size
        self.shape = (len(factors), size, size)
        self.factors = factors
        u = dict(zip(NUISANCES, nuisances.T, strict=True))
        self.scale = _cells(0.88 + 0.16 * u["scale"])
        self.x = _cells(0.495 + 0.06 * (u["x"] - 0.5))
        self.y = _cells(0.505 + 0.08 * (u["y"] - 0.5))
        # Half-angle tangents instead of angles: sine and cosine are then exact on every machine.
        self.turn = _turn(0.22 * (u["tilt"] - 0.5))
        self.tail_turn = _turn(0.13 + 0.26 * (u["tail angle"] - 0.5))
        self.head = (
            _cells(0.165 + 0.03 * (u["head x"] - 0.5)),
            _cells(-0.165 + 0.04 * (u["head y"] - 0.5)),
        )
        self.sky = _hsv(0.08 + 0.66 * u["sky hue"], 0.06 + 0.22 * u["sky saturation"], 0.86)
        self.ground = _hsv(
            0.06 + 0.36 * u["ground hue"],
            np.full(len(factors), 0.34),
            0.52 + 0.24 * u["ground value"],
        )
        self.horizon = _cells(0.60 + 0.14 * u["horizon"])
        self.slope = _cells(0.16 * (u["slope"] - 0.5))
        warmth = 0.12 * (u["warmth"] - 0.5)
        tint = np.stack([1 + warmth, np.ones_like(warmth), 1 - warmth])
        self.light = ((0.89 + 0.19 * u["brightness"]) * tint).astype(np.float32)[:, :, None, None]
        self.side = _cells(1.2 * (u["light side"] - 0.5))

    def background(self) -> Float32[np.ndarray, "3 n S S"]:
        """Paint sky, hill, ground and the bird's shadow; no part touches them."""
        size = self.size
        at = (np.arange(size, dtype=np.float32) + 0.5) / size
        x, y = at[None, None, :], at[None, :, None]
        sky = _blend(_rgb(self.sky), _rgb(np.ones(3)), np.clip(y / self.horizon, 0, 1) ** 2 * 0.4)
        canvas = np.empty((3, *self.shape), dtype=np.float32)
        for channel, colour in zip(canvas, sky, strict=True):
            channel[...] = colour
        # A rounded hill, then the ground: bluish and pale far away.
        bow = (x - 0.5 - 2 * self.slope) ** 2
        hill = np.clip((y - self.horizon + 0.07 - 0.35 * bow) * size, 0, 1)
        ground = np.clip((y - self.horizon - self.slope * (x - 0.5)) * size, 0, 1)
        far = _rgb(0.45 * self.ground + 0.55 * self.sky)
        near = _shade(_rgb(self.ground), 1.12 - 0.5 * (y - self.horizon))
        foot = self.y + 0.345 * self.scale
        d = _ellipse((x - self.x) / self.scale, (y - foot) / self.scale, 0.26, 0.045)
        shadow = ground * np.clip(0.5 - d * 18, 0, 1) * 0.32
        for channel, colour_far, colour_near in zip(canvas, far, near, strict=True):
            channel += hill * (colour_far - channel)
            channel += ground * (colour_near - channel)
            channel *= 1 - shadow
        return canvas

    def layers(self) -> Iterator[_Layer]:
        """Yield the bird's layers from back to front."""
        yield from self._legs()
        yield self._tail()
        yield self._body()
        yield from self._wing()
        yield self._cap()
        yield self._beak()
        yield from self._eye()

    def _window(self, x: np.ndarray | float, y: np.ndarray | float, radius: float):
        """Return rows, columns and the bird's coordinates in the box that holds a disc in all its images."""
        cos, sin = self.turn
        near_x = self.x + self.scale * (cos * x - sin * y)
        near_y = self.y + self.scale * (sin * x + cos * y)
        reach = self.scale * radius + 1 / self.size
        columns, rows = (
            slice(
                int(np.clip(np.floor((near - reach).min() * self.size), 0, self.size)),
                int(np.clip(np.ceil((near + reach).max() * self.size), 0, self.size)),
            )
            for near in (near_x, near_y)
        )
        at = (np.arange(self.size, dtype=np.float32) + 0.5) / self.size
        px = (at[None, None, columns] - self.x) / self.scale
        py = (at[None, rows, None] - self.y) / self.scale
        return rows, columns, cos * px + sin * py, cos * py - sin * px

    def _cover(self, distance: np.ndarray) -> np.ndarray:
        """Return the share of each pixel inside a shape."""
        return np.clip(0.5 - distance * (self.scale * self.size), 0, 1)

    def _legs(self) -> Iterator[_Layer]:
        rows, columns, x, y = self._window(0.0, 0.25, 0.20)
        # Legs stand upright whatever the body does: undo the turn.
        cos, sin = self.turn
        x, y = cos * x - sin * y, sin * x + cos * y
        across = np.minimum(np.abs(x + 0.055), np.abs(x - 0.055)) - 0.0125
        leg = np.maximum(across, np.abs(y - 0.25) - 0.10)
        toe = np.minimum(np.abs(x + 0.035), np.abs(x - 0.075)) - 0.034
        foot = np.maximum(toe, np.abs(y - 0.345) - 0.0125)
        yield _Layer(rows, columns, self._cover(np.minimum(leg, foot)), _rgb(np.array(_LEG)))

    def _tail(self) -> _Layer:
        length, root, end, notch = (_cells(c) for c in _TAILS[self.factors[:, TAIL]].T)
        rows, columns, x, y = self._window(-0.19, 0.04, 0.38)
        cos, sin = self.tail_turn
        x, y = x + 0.17, y - 0.02
        along, across = sin * y - cos * x, np.abs(cos * y + sin * x)
        taper = (end - root) / length
        edge = (across - root - taper * along) / np.sqrt(1 + taper * taper)
        steep = notch / end
        tip = (along - length + notch - steep * across) / np.sqrt(1 + steep * steep)
        # Cut short of the last point: a prong's tip would be thinner than a pixel.
        d = np.maximum(np.maximum(edge, tip), np.maximum(-along, along - length + np.minimum(notch, 0.025)))
        # Feathers: darker lines that spread with the tail.
        spread = 3 * across / np.maximum(root + taper * along, 0.02)
        line = np.abs(spread - np.floor(spread) - 0.5) * 2
        colour = _shade(self._base(0.70), 1.06 - 0.26 * line * line)
        return _Layer(rows, columns, self._cover(d), colour, (BODY, TAIL))

    def _base(self, factor: float) -> tuple:
        return _rgb(_BODY_COLOURS[self.factors[:, BODY]] * factor)

    def _body(self) -> _Layer:
        rows, columns, x, y = self._window(0.03, -0.03, 0.36)
        # The trunk leans forward by about 20 degrees.
        tx, ty = 0.94 * x - 0.34 * y, 0.34 * x + 0.94 * y
        trunk = _ellipse(tx, ty - 0.01, 0.245, 0.175)
        hx, hy = x - self.head[0], y - self.head[1]
        head = np.sqrt(hx * hx + hy * hy) - 0.138
        near = np.maximum(0.09 - np.abs(trunk - head), 0) * (1 / 0.09)
        d = np.minimum(trunk, head) - near * near * (0.09 / 4)
        belly = np.clip(0.5 - _ellipse(x - 0.10, y - 0.11, 0.17, 0.11) * 14, 0, 1) * 0.62
        colour = _blend(self._base(1.0), _rgb(np.array(_CREAM)), belly)
        rim = np.clip(-d * 22, 0, 1)
        light = (0.92 - 0.55 * y + self.side * x * 0.45) * (0.72 + 0.28 * rim)
        return _Layer(rows, columns, self._cover(d), _shade(colour, light), (BODY,))

    def _wing(self) -> Iterator[_Layer]:
        rows, columns, x, y = self._window(-0.055, 0.0, 0.21)
        x, y = x + 0.055, y - 0.005
        along, across = 0.93 * x - 0.37 * y, 0.37 * x + 0.93 * y
        # An egg that narrows towards the tail.
        d = _ellipse(along, across / (1 + 1.9 * along).clip(0.4), 0.185, 0.112)
        rim = np.clip(-d * 30, 0, 1)
        alpha = self._cover(d)
        yield _Layer(rows, columns, alpha, _shade(self._base(0.70), 0.72 + 0.28 * rim), (BODY, WING))
        value = self.factors[:, WING]
        bars = np.abs(along * 10 - np.floor(along * 10) - 0.5) * 0.1 - 0.025
        row = across * 11 + 0.5
        number = np.floor(row)
        odd = number - 2 * np.floor(number * 0.5)
        column = along * 9 + 0.5 * odd
        du, dv = (column - np.floor(column) - 0.5) * (1 / 9), (row - number - 0.5) * (1 / 11)
        spots = np.sqrt(du * du + dv * dv) - 0.031
        shown = np.where(_cells(value) == 1, bars, spots)
        pattern = self._cover(np.maximum(shown, d + 0.016)) * _cells(_WING_SHOWN[0][value])
        yield _Layer(rows, columns, pattern, _rgb(np.array(_CREAM)), (WING,))
        dark = alpha * _cells(_WING_SHOWN[1][value])
        yield _Layer(rows, columns, dark, _shade(_rgb(np.array(_INK)), 0.9 + 0.9 * rim), (WING,))

    def _cap(self) -> _Layer:
        head_x, head_y = self.head
        rows, columns, x, y = self._window(head_x, head_y - 0.08, 0.17)
        x, y = x - head_x, y - head_y
        d = _ellipse(x + 0.004, y + 0.012, 0.148, 0.146)
        cut = 0.97 * y - 0.24 * x + 0.052
        d = np.maximum(d, cut)
        value = self.factors[:, CAP]
        rim = 0.68 + 0.32 * np.clip(-d * 26, 0, 1)
        colour = _shade(_rgb(_CAP_COLOURS[value]), rim)
        return _Layer(rows, columns, self._cover(d) * _cells(_CAP_SHOWN[value]), colour, (CAP,))

    def _beak(self) -> _Layer:
        factors = self.factors
        length, width, bulge, droop = (_cells(c) for c in _BEAKS[factors[:, BEAK_SHAPE]].T)
        head_x, head_y = self.head
        rows, columns, x, y = self._window(head_x + 0.21, head_y + 0.05, 0.16)
        x, y = x - head_x - 0.112, y - head_y - 0.022
        part = x / length
        middle = y - droop * part * part
        half = width * (1 - part) * (1 + bulge * part) + 0.006
        slope = width / length * (1 + bulge)
        d = np.maximum((np.abs(middle) - half) / np.sqrt(1 + slope * slope), np.maximum(-x, x - length))
        mouth = np.clip(1 - np.abs(middle - 0.004) * 110, 0, 1)
        colour = _rgb(_BEAK_COLOURS[factors[:, BEAK_COLOUR]])
        light = (1 - 1.6 * middle.clip(-0.05, 0.08)) * (1 - 0.35 * mouth)
        return _Layer(rows, columns, self._cover(d), _shade(colour, light), (BEAK_SHAPE, BEAK_COLOUR))

    def _eye(self) -> Iterator[_Layer]:
        x, y = self.head[0] + 0.040, self.head[1] - 0.008
        rows, columns, px, py = self._window(x, y, 0.075)
        px, py = px - x, py - y
        d = np.sqrt(px * px + py * py)
        gleam = np.sqrt((px + 0.016) ** 2 + (py + 0.018) ** 2)
        iris = _rgb(_EYE_COLOURS[self.factors[:, EYE]])
        white, ink = _rgb(np.array(_CREAM)), _rgb(np.array(_INK))
        for distance, colour in (
            (d - 0.073, ink),
            (d - 0.067, white),
            (d - 0.050, iris),
            (d - 0.018, ink),
            (gleam - 0.012, white),
        ):
            yield _Layer(rows, columns, self._cover(distance), colour, (EYE,))


def _turn(half_tangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cosine and sine of the angle whose half has this tangent."""
    t = half_tangent
    return _cells((1 - t * t) / (1 + t * t)), _cells(2 * t / (1 + t * t))
