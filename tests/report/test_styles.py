from itertools import combinations

import numpy as np
import pytest

from mipp.report.styles import DARK, LIGHT

EYES = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                   [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                     [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                   [0.004733, 0.691367, 0.303900]],
}  # fmt: skip
"""What is left of linear RGB: Machado, Oliveira and Fernandes 2009, severity 1."""

XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip


def linear(colour):
    rgb = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    xyz = XYZ @ np.clip(rgb, 0, 1) / np.array([0.95047, 1, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one, two):
    low, high = sorted(XYZ[1] @ linear(colour) for colour in (one, two))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK])
@pytest.mark.parametrize("eye", EYES)
def test_colours_are_apart_for_every_kind_of_eye(palette, eye):
    seen = [lab(np.array(EYES[eye]) @ linear(colour)) for colour in palette]
    nearest = min(np.linalg.norm(a - b) for a, b in combinations(seen, 2))
    # in CIELAB units, of which about 2 can be told apart side by side
    assert nearest > (30 if eye == "usual" else 13)


@pytest.mark.parametrize(("palette", "ground"), [(LIGHT, "#ffffff"), (DARK, "#14161a")])
def test_every_colour_stands_out_from_its_ground(palette, ground):
    assert min(contrast(colour, ground) for colour in palette) >= 3  # WCAG 2.2, 1.4.11
