"""Decoding is bounded, fitted pictures keep what a camera sees where its intrinsics say."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.images import MAX_PIXELS, Fit, decode, encode_jpeg, encode_png, load, read_header

SIZES = st.tuples(st.integers(8, 400), st.integers(8, 400))


def picture(height: int, width: int) -> np.ndarray:
    rows, columns = np.indices((height, width))
    return np.stack([255 * rows / height, 255 * columns / width, 0 * rows + 99], axis=2).astype(np.uint8)


@given(SIZES, SIZES)
def test_the_crop_is_the_largest_centred_one_of_the_wanted_aspect(size, wanted):
    fit = Fit.of(size, wanted)
    assert fit.width / fit.height == pytest.approx(wanted[1] / wanted[0])
    assert fit.left == pytest.approx(size[1] - fit.left - fit.width)
    assert fit.top == pytest.approx(size[0] - fit.top - fit.height)
    assert min(fit.left, fit.top) == pytest.approx(0, abs=1e-9)
    assert fit.left >= -1e-9
    assert fit.top >= -1e-9


@given(SIZES, SIZES)
def test_intrinsics_send_the_crop_onto_the_new_image(size, wanted):
    K = np.array([[300.0, 0, 11], [0, 310, 7], [0, 0, 1]])
    fit = Fit.of(size, wanted)
    fitted = fit.intrinsics(K, wanted)
    corners = np.array([[fit.left, fit.top, 1.0], [fit.left + fit.width, fit.top + fit.height, 1.0]])
    rays = np.linalg.solve(K, corners.T)
    pixels = (fitted @ rays).T
    np.testing.assert_allclose(pixels[:, :2], [[0, 0], [wanted[1], wanted[0]]], atol=1e-9 * max(wanted))


@settings(max_examples=30, deadline=None)
@given(st.tuples(st.integers(24, 300), st.integers(24, 300)), st.tuples(st.integers(8, 64), st.integers(8, 64)))
def test_a_ramp_stays_where_the_intrinsics_say(size, wanted):
    """A pixel's colour tells where it came from, through scaled decoding, cropping and resampling."""
    image = picture(*size)
    fit = Fit.of(size, wanted)
    found = load(encode_png(image), wanted).astype(float)
    for axis in (0, 1):
        extent = (fit.height, fit.width)[axis]
        places = (np.arange(wanted[axis]) + 0.5) * extent / wanted[axis] + (fit.top, fit.left)[axis] - 0.5
        wide = np.expand_dims(255 / size[axis] * places, 1 - axis)
        # A fifth of a pixel, and what rounding to eight bits twice may cost.
        np.testing.assert_allclose((found[..., axis] - wide)[2:-2, 2:-2], 0, atol=1.5 + 0.2 * 255 / size[axis])


@pytest.mark.parametrize("size", [(512, 384), (375, 499), (101, 77)])
@pytest.mark.parametrize("wanted", [(128, 128), (64, 48), (33, 21)])
def test_scaled_jpeg_decoding_agrees_with_decoding_in_full(size, wanted):
    image = picture(*size)
    scaled = load(encode_jpeg(image, 98), wanted).astype(int)
    full = load(encode_png(image), wanted).astype(int)
    assert np.abs(scaled - full).max() <= 6
    assert np.abs(scaled - full).mean() < 1


def test_an_image_of_the_right_size_is_not_touched():
    image = np.random.default_rng(0).integers(0, 255, (40, 30, 3)).astype(np.uint8)
    np.testing.assert_array_equal(load(encode_png(image), (40, 30)), image)


def test_masks_have_one_channel():
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 255
    fitted = load(encode_png(mask), (16, 16), channels=1)
    assert fitted.shape == (16, 16)
    assert fitted[:, :7].max() == 0
    assert fitted[:, 9:].min() == 255


def test_a_bomb_is_refused_by_its_header():
    bomb = bytearray(encode_png(np.zeros((4, 4), np.uint8)))
    bomb[16:24] = (50_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    with pytest.raises(ValueError, match=f"over the limit of {MAX_PIXELS}|decompression bomb"):
        read_header(bytes(bomb))


@pytest.mark.parametrize("keep", [10, 60, 400])
@pytest.mark.parametrize("encode", [encode_jpeg, encode_png])
def test_truncated_images_are_errors_not_grey_pixels(encode, keep):
    data = encode(np.random.default_rng(1).integers(0, 255, (64, 64, 3)).astype(np.uint8))
    with pytest.raises(ValueError, match=r"image|neither"):
        decode(data[:keep])


def test_alpha_is_dropped_where_colour_is_asked_for():
    rgba = np.random.default_rng(2).integers(0, 255, (8, 8, 4)).astype(np.uint8)
    np.testing.assert_array_equal(decode(encode_png(rgba)), rgba[..., :3])
    np.testing.assert_array_equal(decode(encode_png(rgba), channels=4), rgba)
