"""Decoding against a formula or the array that was encoded, and against PIL's."""

import functools
import io
import re
import struct

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from transforms.decode import ORIENTATION, DamagedImage, LazyJpeg, decode, decode_lazily

# Smooth, so that JPEG at quality 100 keeps it within a few levels; no two of its
# corners are alike.
ROWS, COLUMNS = np.mgrid[0:40, 0:64]
PICTURE = np.stack([6 * ROWS, 4 * COLUMNS, 255 - 3 * ROWS - 2 * COLUMNS], -1)
PICTURE = PICTURE.astype(np.uint8)
# Rounding of the transform and of the colours; chroma is not subsampled.
JPEG = {"format": "JPEG", "quality": 100, "subsampling": 0}
LEVELS = 3


def encode(image, **options):
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, **options)
    return file.getvalue()


def grey_of(picture):
    return (picture @ [0.299, 0.587, 0.114])[..., None]  # ITU-R BT.601, as JPEG has it


def assert_close(found, expected, levels):
    assert found.dtype == np.uint8 and found.shape == expected.shape
    assert np.abs(found - expected.astype(float)).max() <= levels


@pytest.mark.parametrize(
    "options", [JPEG, JPEG | {"progressive": True}, {"format": "WEBP", "quality": 100}]
)
def test_lossy(options):
    data = encode(PICTURE, **options)
    levels = LEVELS if options["format"] == "JPEG" else 12  # WebP halves the chroma
    assert_close(decode(data, 3), PICTURE, levels)
    assert_close(decode(data, 1), grey_of(PICTURE), levels)


def test_usual_jpeg_has_the_pixels_that_pil_finds():
    for subsampling in (0, 1, 2):
        data = encode(PICTURE, **JPEG | {"subsampling": subsampling, "quality": 80})
        expected = np.asarray(Image.open(io.BytesIO(data)))
        np.testing.assert_array_equal(decode(data, 3), expected)


def test_jpeg_of_grey_and_of_rgb():
    grey = PICTURE[..., 1]
    for channels in (1, 3):
        expected = np.repeat(grey[..., None], channels, -1)
        assert_close(decode(encode(grey, **JPEG), channels), expected, LEVELS)
    data = encode(PICTURE, **JPEG, keep_rgb=True)
    assert_close(decode(data, 3), PICTURE, LEVELS)
    assert_close(decode(data, 1), grey_of(PICTURE), LEVELS)


def test_lossless():
    for options in ({"format": "PNG"}, {"format": "WEBP", "lossless": True}):
        np.testing.assert_array_equal(decode(encode(PICTURE, **options), 3), PICTURE)
    grey = PICTURE[..., 1]
    data = encode(grey, format="PNG")
    np.testing.assert_array_equal(decode(data, 1)[..., 0], grey)
    np.testing.assert_array_equal(decode(data, 3), np.stack([grey] * 3, -1))
    data = encode(PICTURE, format="PNG")
    assert_close(decode(data, 1), grey_of(PICTURE), 1)


def test_transparency_is_dropped():
    alpha = (4 * COLUMNS).astype(np.uint8)[..., None]
    data = encode(np.concatenate([PICTURE, alpha], -1), format="PNG")
    np.testing.assert_array_equal(decode(data, 3), PICTURE)
    grey = PICTURE[..., 1:2]
    data = encode(np.concatenate([grey, alpha], -1), format="PNG")
    np.testing.assert_array_equal(decode(data, 1), grey)


@pytest.mark.parametrize("transparency", [None, 3, bytes([0, 100, 255])])
def test_palette(transparency):
    indices = ((ROWS + COLUMNS) % 5).astype(np.uint8)
    palette = np.array([[255, 0, 0], [0, 255, 0], [9, 8, 7], [0, 0, 255], [1, 2, 3]])
    image = Image.fromarray(indices)
    image.putpalette(palette.astype(np.uint8).tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    data = encode(image, format="PNG", **options)
    np.testing.assert_array_equal(decode(data, 3), palette[indices])


def test_two_colours():
    black_and_white = (ROWS + COLUMNS) % 3 == 0
    data = encode(Image.fromarray(black_and_white), format="PNG")
    np.testing.assert_array_equal(decode(data, 1)[..., 0], 255 * black_and_white)


def test_sixteen_bits():
    deep = (ROWS * 1600 + COLUMNS * 17).astype(np.uint16)
    data = encode(Image.fromarray(deep), format="PNG")
    np.testing.assert_array_equal(decode(data, 1)[..., 0], deep >> 8)
    np.testing.assert_array_equal(decode(data, 3), np.stack([deep >> 8] * 3, -1))
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    data = encode(Image.fromarray(deep[::-1, ::-1]), format="PNG", exif=exif)
    np.testing.assert_array_equal(decode(data, 1)[..., 0], deep >> 8)


def test_sixteen_bits_of_which_the_upper_eight_are_empty_are_levels():
    low = PICTURE[..., 1].astype(np.uint16)
    for data in (encode(low, format="PNG"), tiff(low, "<u2")):
        np.testing.assert_array_equal(decode(data, 1)[..., 0], low)
    inverted = tiff(low, "<u2", t262=0)
    np.testing.assert_array_equal(decode(inverted, 1)[..., 0], 255 - low)
    low[0, 0] = 256  # one larger value, and they are 16 bits
    assert decode(encode(low, format="PNG"), 1).max() == 1
    dark = netpbm("P5", low % 4, 1023)  # it says which value is white
    assert decode(dark, 1).max() == 0


def netpbm(kind, values, maximum):
    header = f"{kind} {values.shape[1]} {values.shape[0]} {maximum}\n".encode()
    if kind == "P2":
        return header + b" ".join(str(v).encode() for v in values.ravel())
    return header + values.astype(">u2").tobytes()


@pytest.mark.parametrize("kind", ["P2", "P5"])
@pytest.mark.parametrize("maximum", [65535, 1023, 4095])
def test_pgm_of_more_than_eight_bits(kind, maximum):
    values = (ROWS * 64 + COLUMNS) * maximum // (40 * 64 - 1)
    found = decode(netpbm(kind, values, maximum), 1)[..., 0]
    np.testing.assert_array_equal(found, np.round(values / maximum * 65535) // 256)
    assert found.min() == 0 and found.max() == 255


def tiff(values, kind, **tags):
    """A TIFF of one strip, little-endian; tags may replace those of grey values."""
    data = values.astype(kind).tobytes() if isinstance(values, np.ndarray) else values
    entries = {256: 64, 257: 40, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: 40}
    entries |= {279: len(data)} | {int(tag[1:]): value for tag, value in tags.items()}
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, value)
        for tag, value in sorted(entries.items())
    )
    return struct.pack("<2sHI", b"II", 42, 8 + len(data)) + data + directory + bytes(4)


def test_tiff_of_12_and_16_bits_and_of_white_as_zero():
    values = ROWS * 1600 + COLUMNS * 17
    found = decode(tiff(values, "<u2"), 1)[..., 0]
    np.testing.assert_array_equal(found, values >> 8)
    found = decode(tiff(values, "<u2", t262=0), 1)[..., 0]
    np.testing.assert_array_equal(found, (65535 - values) >> 8)
    first, second = values.reshape(-1, 2).T >> 4  # two values in three bytes
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], -1)
    found = decode(tiff(packed.astype(np.uint8), "u1", t258=12), 1)[..., 0]
    np.testing.assert_array_equal(found, values >> 8)


@pytest.mark.parametrize("kind", ["int32", "float32"])
def test_integers_and_floats_are_levels_or_refused(kind):
    levels = PICTURE[..., 1].astype(kind)
    found = decode(encode(levels, format="TIFF"), 1)[..., 0]
    np.testing.assert_array_equal(found, PICTURE[..., 1])
    assert decode(encode(0 * levels, format="TIFF"), 1).max() == 0
    refused = [levels * 257, levels - 1]
    if kind == "float32":
        refused += [levels / 255, np.where(ROWS == 3, np.nan, levels)]
    for values in refused:
        with pytest.raises(DamagedImage, match="from .* to .* levels 0..255"):
            decode(encode(values.astype(kind), format="TIFF"), 3)


def test_cmyk_and_ycck_with_and_without_adobes_marker():
    ink = np.stack([4 * ROWS, 3 * COLUMNS, 2 * ROWS + COLUMNS, 2 * COLUMNS], -1)
    ink = ink.astype(np.uint8)  # cyan, magenta, yellow, black; 255 is full
    expected = (255 - ink[..., :3]) * ((255 - ink[..., 3:]) / 255.0)
    # A level of ink is at most a level of colour, and black multiplies.
    levels = 2 * LEVELS
    inverted = encode(Image.fromarray(ink, "CMYK"), **JPEG)
    assert_close(decode(inverted, 3), expected, levels)
    assert_close(decode(inverted, 1), grey_of(expected), levels)

    def without_marker(data):
        at = data.index(b"\xff\xee")
        return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]

    plain = without_marker(encode(Image.fromarray(255 - ink, "CMYK"), **JPEG))
    assert_close(decode(plain, 3), expected, levels)

    # YCCK (Adobe's Technical Note 5116): YCbCr of 255 minus what would be stored, which
    # is 255 - ink; black as before.
    r, g, b = np.moveaxis(ink[..., :3].astype(float), -1, 0)
    y = 0.299 * r + 0.587 * g + 0.114 * b
    ycc = [y, 128 + (b - y) / 1.772, 128 + (r - y) / 1.402]
    stored = np.stack([*ycc, 255 - ink[..., 3]], -1).round().clip(0, 255)
    # PIL stores 255 minus what it is given, and declares plain CMYK.
    data = encode(Image.fromarray((255 - stored).astype(np.uint8), "CMYK"), **JPEG)
    at = data.index(b"Adobe") + 11
    assert data[at] == 0
    data = data[:at] + b"\2" + data[at + 1 :]
    assert_close(decode(data, 3), expected, 3 * levels)  # chroma weighs up to 1.8


# By EXIF's definition: where row 0 and column 0 of what is stored lie in the scene.
ORIENTATIONS = {
    1: PICTURE,  # top, left
    2: PICTURE[:, ::-1],  # top, right
    3: PICTURE[::-1, ::-1],  # bottom, right
    4: PICTURE[::-1],  # bottom, left
    5: PICTURE.transpose(1, 0, 2),  # left, top
    6: PICTURE.transpose(1, 0, 2)[::-1],  # right, top
    7: PICTURE.transpose(1, 0, 2)[::-1, ::-1],  # right, bottom
    8: PICTURE.transpose(1, 0, 2)[:, ::-1],  # left, bottom
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("options", [JPEG, {"format": "PNG"}])
def test_exif_orientation(orientation, options):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encode(ORIENTATIONS[orientation], exif=exif, **options)
    assert_close(decode(data, 3), PICTURE, LEVELS)


def exif_of(orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("options", [JPEG, {"format": "WEBP", "lossless": True}])
def test_unreadable_exif_is_ignored(options):
    data = encode(PICTURE, exif=exif_of(6), **options)
    data = data.replace(b"MM\0*", b"XX\0*")
    assert b"XX" in data
    assert_close(decode(data, 3), PICTURE, LEVELS)


def inserted(data, *segments):
    """Puts segments (marker, content) at the front of a JPEG."""
    added = b"".join(
        b"\xff" + bytes([marker]) + (2 + len(content)).to_bytes(2) + content
        for marker, content in segments
    )
    return data[:2] + added + data[2:]


# A scan's marker in other segments: of IPTC, of a comment, of a thumbnail's JPEG.
COMMENT, IPTC, OTHER = (0xFE, b"\xff\xda"), (0xED, b"8BIM\xff\xda"), (0xE1, b"\xff\xda")


@pytest.mark.parametrize("segments", [(COMMENT,), (IPTC,), (OTHER, IPTC, COMMENT)])
def test_bytes_like_a_scan_do_not_hide_the_orientation(segments):
    for orientation, stored in ORIENTATIONS.items():
        data = encode(stored, exif=exif_of(orientation), **JPEG)
        data = inserted(data, *segments)
        assert_close(decode(data, 3), PICTURE, LEVELS)
        filled = data[:2] + b"\xff\xff" + data[2:]  # markers may be padded
        assert_close(decode(filled, 3), PICTURE, LEVELS)


def test_bytes_like_exif_turn_nothing():
    exif = exif_of(6).tobytes()
    for marker in (0xFE, 0xE2, 0xED):
        data = inserted(encode(PICTURE, **JPEG), (marker, exif))
        assert_close(decode(data, 3), PICTURE, LEVELS)


@pytest.mark.parametrize("form", ['="%d"', ">%d<"])
@pytest.mark.parametrize("options", [JPEG, {"format": "WEBP", "lossless": True}])
def test_orientation_in_xmp_alone(form, options):
    for orientation, stored in ORIENTATIONS.items():
        xmp = f"<x:xmpmeta tiff:Orientation{form % orientation}/>".encode()
        assert_close(decode(encode(stored, xmp=xmp, **options), 3), PICTURE, LEVELS)


# The modes that PIL saves in a container, and whether it has an orientation.
CONTAINERS = {
    "JPEG": ("1 L RGB RGBX CMYK YCbCr", True),
    "PNG": ("1 L LA P RGB RGBA I;16 I;16B", True),
    "WEBP": ("1 L LA P PA RGB RGBA RGBa RGBX CMYK YCbCr HSV LAB I F I;16 I;16B", True),
    "TIFF": ("1 L LA P PA RGB RGBA RGBX CMYK YCbCr LAB I F I;16 I;16B", True),
    "AVIF": ("1 L LA P PA RGB RGBA RGBa RGBX CMYK YCbCr HSV LAB I F I;16 I;16B", True),
    "BMP": ("1 L P RGB RGBA", False),
    "GIF": ("1 L LA P RGB RGBA I F I;16 I;16B", False),
    "PPM": ("1 L RGB RGBA I F I;16", False),
}
MODES = "1 L LA La P PA RGB RGBA RGBa RGBX CMYK YCbCr HSV LAB I I;16 I;16B F".split()


@functools.cache
def small(mode):
    """A small image in a mode of PIL; of more than eight bits it uses all levels."""
    rows, columns = np.mgrid[0:12, 0:20]
    image = Image.fromarray(PICTURE[::3, ::3][:12, :20])
    if mode in ("La", "RGBa"):
        return image.convert(mode[:-1] + "A").convert(mode)
    if mode.startswith("I;16"):
        values = 5000 * rows + 400 * columns + rows
        kind = ">u2" if mode == "I;16B" else "<u2"
        return Image.frombytes(mode, image.size, values.astype(kind).tobytes())
    if mode in ("I", "F"):
        return Image.fromarray((20 * rows + columns).astype(mode.lower() + "4"))
    if mode == "LAB":
        return Image.frombytes("LAB", image.size, image.tobytes())
    if mode in ("P", "PA"):
        return image.convert("RGBA").quantize(9).convert(mode)
    return image.convert(mode)


def expected_by_pil(data, channels):
    """PIL's own way; of 16 bits, the upper eight."""
    opened = Image.open(io.BytesIO(data))
    if opened.format == "JPEG" and channels == 1:
        opened.draft("L", None)  # Y, not a grey computed from RGB
    image = ImageOps.exif_transpose(opened)
    if opened.mode.startswith("I;16") or (opened.mode, opened.format) == ("I", "PPM"):
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if "transparency" in image.info:
        image = image.convert("RGBA")  # otherwise PIL warns
    if image.mode == "LAB":  # PIL has no direct way to grey
        image = image.convert("RGB")
    image = image.convert("L" if channels == 1 else "RGB")
    return np.asarray(image).reshape(*image.size[::-1], channels)


@pytest.mark.parametrize("container", CONTAINERS)
def test_every_mode_and_orientation_is_pils(container):
    saved, (held, turns) = [], CONTAINERS[container]
    for mode in MODES:
        for orientation in range(1, 9) if turns else (1,):
            exif = {"exif": exif_of(orientation)} if turns else {}
            try:
                data = encode(small(mode), format=container, **exif)
            except (OSError, ValueError) as error:
                assert re.search(
                    "cannot write mode|not supported|wrong mode", str(error)
                )
                break
            for channels in (1, 3):
                expected = expected_by_pil(data, channels)
                assert expected.shape[0] == (20 if orientation > 4 else 12)
                np.testing.assert_array_equal(
                    decode(data, channels), expected, f"{mode} {orientation}"
                )
        else:
            saved.append(mode)
    assert sorted(saved) == sorted(held.split())


def damaged(data):
    """Names and bytes of ways in which a disk or a network can damage a file."""
    for share in (0.0, 0.02, 0.5):
        yield f"the first {share:.0%}", data[: int(share * len(data))]
    yield "no file", b"<html>404</html>"


@pytest.mark.parametrize("picture", [PICTURE, PICTURE[..., 1]], ids=["colour", "grey"])
@pytest.mark.parametrize("options", [JPEG, JPEG | {"progressive": True}])
def test_damaged_jpeg(picture, options):
    data = encode(picture, **options)
    for what, bad in [*damaged(data), ("all but a byte", data[:-1])]:
        for channels in (1, 3):
            with pytest.raises(DamagedImage):
                decode(bad, channels)
                pytest.fail(what)
    # Cut in the middle, with the marker that ends a JPEG: libjpeg fills up with grey.
    with pytest.raises(DamagedImage, match="premature end"):
        decode(data[: len(data) // 2] + b"\xff\xd9", 3)


@pytest.mark.parametrize("name", ["PNG", "WEBP"])
def test_damaged_others(name):
    for what, bad in damaged(encode(PICTURE, format=name)):
        with pytest.raises(DamagedImage):
            decode(bad, 3)
            pytest.fail(what)


@pytest.mark.parametrize("name", ["PNG", "JPEG"])
def test_a_machine_without_memory_is_no_damaged_image(monkeypatch, name):
    def full(*_, **__):
        raise MemoryError

    data = encode(PICTURE, format=name, exif=exif_of(6))
    monkeypatch.setattr(Image.Image, "getexif", full)
    with pytest.raises(MemoryError):
        decode(data, 3)
    monkeypatch.setattr(Image, "open", full)
    with pytest.raises(MemoryError):
        decode(data, 3)


def test_bytes_after_the_last_pixel_do_no_harm():
    data = encode(PICTURE, **JPEG)
    expected = decode(data, 3)
    for unusual in (data + b"more", data[:-2] + b"more" * 9 + b"\xff\xd9"):
        np.testing.assert_array_equal(decode(unusual, 3), expected)


def test_a_jpeg_that_claims_too_many_pixels_is_refused_as_pil_does():
    data = encode(PICTURE, **JPEG)
    at = data.index(b"\xff\xc0") + 5
    with pytest.raises(DamagedImage, match="DecompressionBomb"):
        decode_lazily(data[:at] + b"\xff\0\xff\0" + data[at + 4 :], 3)


def test_arrays():
    np.testing.assert_array_equal(decode(PICTURE, 3), PICTURE)
    grey = PICTURE[..., :1]
    np.testing.assert_array_equal(decode(grey, 3), np.repeat(grey, 3, -1))
    assert_close(decode(PICTURE, 1), grey_of(PICTURE), 1)


GRAIN = PICTURE // 2 + np.random.default_rng(0).integers(0, 100, PICTURE.shape, "u1")


@pytest.mark.parametrize(
    "data",
    [
        *(
            simplejpeg.encode_jpeg(GRAIN, 90, "RGB", subsampling)
            for subsampling in ("444", "422", "420", "440", "411")
        ),
        encode(GRAIN[..., 0], **JPEG),
        encode(GRAIN, **JPEG | {"subsampling": 2}, restart_marker_rows=1),
        encode(GRAIN, **JPEG | {"subsampling": 2}, progressive=True),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_part_of_a_jpeg_is_that_of_the_whole(data, channels):
    whole = decode(data, channels)
    for stop in range(1, 41):
        image = decode_lazily(data, channels)
        assert isinstance(image, LazyJpeg) and image.shape == whole.shape
        rows, columns = slice(stop // 2, stop), slice(stop, 64)
        np.testing.assert_array_equal(image[rows, columns], whole[rows, columns])


def test_damage_below_the_part_is_seen_only_where_the_file_is_cut():
    data = encode(PICTURE, **JPEG)
    whole = decode(data, 3)
    middle = 3 * len(data) // 4
    corrupt = data[:middle] + data[-2:]
    np.testing.assert_array_equal(decode_lazily(corrupt, 3)[:8, :], whole[:8])
    for bad, stop in ((corrupt, 38), (corrupt, 40), (data[:middle], 8)):
        with pytest.raises(DamagedImage):
            decode_lazily(bad, 3)[:stop, :]


def test_what_is_merely_unusual_is_decoded():
    data = bytearray(encode(PICTURE, **JPEG))
    data[data.index(b"JFIF") + 5] = 9  # a revision that libjpeg warns of
    assert_close(decode(bytes(data), 3), PICTURE, LEVELS)
    with pytest.raises(DamagedImage, match="truncated"):
        decode(bytes(data[:-100]), 3)
