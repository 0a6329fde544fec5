"""Where a position in the sky lies on an image: the zenithal projections of Calabretta and Greisen (2002). Pure.

Written out here because the libraries that know all projections take more memory than the whole voter.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import asin, atan2, cos, degrees, hypot, isfinite, pi, radians, sin, sqrt, tan
from typing import Any, Self

_Projection = Callable[[float, float, float, float], tuple[float, float] | None]
"""From native longitude and latitude and two parameters to the plane, radians to degrees; None where it can not."""
_EDGE = 1e-9


class NotKnown(ValueError):
    """The header says nothing of positions, or in a way that is not known here; the message says which."""


def _zenithal(phi: float, radius: float) -> tuple[float, float]:
    return degrees(radius * sin(phi)), degrees(-radius * cos(phi))


def _azp(phi: float, theta: float, mu: float, gamma: float) -> tuple[float, float] | None:
    slant = radians(gamma)
    below = mu + sin(theta) + cos(theta) * cos(phi) * tan(slant)
    # What is beyond the limb, as seen from the point of projection, is not on the map.
    if below < _EDGE or (abs(mu) > 1 and sin(theta) < -1 / mu):
        return None
    radius = (mu + 1) * cos(theta) / below
    return degrees(radius * sin(phi)), degrees(-radius * cos(phi) / cos(slant))


def _tan(phi: float, theta: float, _p1: float, _p2: float) -> tuple[float, float] | None:
    return None if theta < _EDGE else _zenithal(phi, cos(theta) / sin(theta))


def _sin(phi: float, theta: float, xi: float, eta: float) -> tuple[float, float] | None:
    if theta < 0:
        return None
    lift = 1 - sin(theta)
    return degrees(cos(theta) * sin(phi) + xi * lift), degrees(-cos(theta) * cos(phi) + eta * lift)


def _stg(phi: float, theta: float, _p1: float, _p2: float) -> tuple[float, float] | None:
    below = 1 + sin(theta)
    return None if below < _EDGE else _zenithal(phi, 2 * cos(theta) / below)


def _arc(phi: float, theta: float, _p1: float, _p2: float) -> tuple[float, float] | None:
    return _zenithal(phi, pi / 2 - theta)


def _zea(phi: float, theta: float, _p1: float, _p2: float) -> tuple[float, float] | None:
    return _zenithal(phi, sqrt(max(2 * (1 - sin(theta)), 0)))


_PROJECTIONS: dict[str, _Projection] = {
    "AZP": _azp, "TAN": _tan, "SIN": _sin, "STG": _stg, "ARC": _arc, "ZEA": _zea,
}  # fmt: skip


def _number(header: Mapping[str, Any], name: str, default: float) -> float:
    value = header.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise NotKnown(f"{name} is no number")
    return float(value)


@dataclass(frozen=True, slots=True)
class Wcs:
    """A map from the sky to the pixels of an image."""

    projection: str
    parameters: tuple[float, float]
    pole: tuple[float, float, float]
    """Right ascension and declination of the native pole, and the native longitude of the celestial one; radians."""
    reference: tuple[float, float]
    """The pixel that the plane's origin falls on, the first one's centre being 1."""
    inverse: tuple[float, float, float, float]
    """From degrees in the plane to pixels."""

    @classmethod
    def of(cls, header: Mapping[str, Any]) -> Self:
        """Read a FITS header. Raises NotKnown."""
        kinds = [str(header.get(f"CTYPE{axis}", "")).strip() for axis in (1, 2)]
        projection = kinds[0][-3:]
        if not kinds[0].startswith("RA---") or kinds[1] != f"DEC--{projection}":
            raise NotKnown(f"its axes are {kinds[0] or 'unnamed'} and {kinds[1] or 'unnamed'}, not RA and DEC")
        if projection not in _PROJECTIONS:
            raise NotKnown(f"the projection {projection} is not known here")
        if "CD1_1" in header or "CD2_2" in header:
            m = [_number(header, name, 0) for name in ("CD1_1", "CD1_2", "CD2_1", "CD2_2")]
        else:
            turn = radians(_number(header, "CROTA2", 0))
            turned = {"PC1_1": cos(turn), "PC2_2": cos(turn)}
            step = [_number(header, f"CDELT{axis}", 1) for axis in (1, 2)]
            if turn and step[0]:
                turned |= {"PC1_2": -sin(turn) * step[1] / step[0], "PC2_1": sin(turn) * step[0] / step[1]}
            m = [
                step[row - 1] * _number(header, f"PC{row}_{column}", turned.get(f"PC{row}_{column}", 0))
                for row in (1, 2)
                for column in (1, 2)
            ]
        determinant = m[0] * m[3] - m[1] * m[2]
        if not determinant:
            raise NotKnown("its pixels have no size")
        south = _number(header, "CRVAL2", 0)
        return cls(
            projection,
            (_number(header, "PV2_1", 0), _number(header, "PV2_2", 0)),
            (
                radians(_number(header, "CRVAL1", 0)),
                radians(south),
                radians(_number(header, "LONPOLE", 0 if south >= 90 else 180)),
            ),
            (_number(header, "CRPIX1", 0), _number(header, "CRPIX2", 0)),
            (m[3] / determinant, -m[1] / determinant, -m[2] / determinant, m[0] / determinant),
        )

    def pixel(self, ra: float, dec: float) -> tuple[float, float] | None:
        """Tell where a position in degrees lies, the first pixel's centre being (1, 1); None where it is not shown."""
        alpha, delta = radians(ra), radians(dec)
        pole_alpha, pole_delta, pole_phi = self.pole
        away = alpha - pole_alpha
        phi = pole_phi + atan2(
            -cos(delta) * sin(away), sin(delta) * cos(pole_delta) - cos(delta) * sin(pole_delta) * cos(away)
        )
        height = sin(delta) * sin(pole_delta) + cos(delta) * cos(pole_delta) * cos(away)
        theta = asin(max(-1.0, min(1.0, height)))
        plane = _PROJECTIONS[self.projection](phi, theta, *self.parameters)
        if plane is None:
            return None
        a, b, c, d = self.inverse
        x, y = plane
        return self.reference[0] + a * x + b * y, self.reference[1] + c * x + d * y

    def outline(self, ra: float, dec: float, major: float, minor: float, angle: float) -> list[tuple[float, float]]:
        """Give the pixels of an ellipse around a position: semi-axes in degrees, angle from north to east in degrees.

        Small ones only: what is as large as the sky would need more than its tangent. Empty where it is not shown.
        """
        turn, points = radians(angle), []
        stretch = max(abs(cos(radians(dec))), 1e-6)
        for step in range(24):
            along, across = major * cos(step * pi / 12), minor * sin(step * pi / 12)
            north, east = along * cos(turn) - across * sin(turn), along * sin(turn) + across * cos(turn)
            point = self.pixel(ra + east / stretch, max(-90.0, min(90.0, dec + north)))
            if point is None or not isfinite(hypot(*point)):
                return []
            points.append(point)
        return points
