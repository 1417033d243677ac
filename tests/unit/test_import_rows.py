"""What `data import` makes of one row: its fields as they were meant, or why it cannot be used."""

import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from si.datasets.columns import recognise
from si.datasets.find import find_files
from si.datasets.images import fit, header, pixels
from si.datasets.row_fields import parse_row
from si.datasets.row_images import BadRow
from si.errors import DataError
from tests.unit.layouts import picture


@pytest.fixture
def tell(tmp_path):
    """Has one row understood, as a line of JSON in a folder with `1.png` in it."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "1.png").write_bytes(picture(1))
    (tmp_path / "secret.png").write_bytes(picture(2))
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "secret.png")

    def one(given, **row):
        row = {"question": "How many?", "answer": "3", "image": "1.png"} | row
        source = tmp_path / "in" / "train.jsonl"
        source.write_text(json.dumps(row))
        (file,) = find_files(tmp_path / "in", {})
        ((_, read),) = file.batches(None)
        return parse_row(read, file, recognise(file, given), {})

    return lambda given=None, **row: one(given or {}, **row)


@pytest.mark.parametrize(
    "row,field,why",
    [
        ({"question": " "}, "question", "empty question"),
        ({"question": None}, "question", "empty question"),
        ({"question": "<image>"}, "question", "empty question"),
        ({"question": "<image><image>a?"}, "question", "2 marks of images, but 1 images"),
        ({"question": "a <|im_end|> b"}, "question", "control token <|im_end|>"),
        ({"question": {"a": 1}}, "question", "a struct of a"),
        ({"question": "\ud800"}, "question", "not valid Unicode"),
        ({"question": [{"role": "user", "content": "a"}] * 2}, "question", "2 user turns"),
        ({"answer": ""}, "answer", "empty answer"),
        ({"answer": None}, "answer", "empty answer"),
        ({"answer": float("nan")}, "answer", "empty answer"),
        ({"answer": []}, "answer", "empty answer"),
        ({"question": ["a?", "b?"]}, "question", "several questions: 'a?', 'b?'"),
        ({"answer": [["3"], ["three"]]}, "answer", "several answers: '3', 'three'"),
        ({"answer": "<answer> </answer>"}, "answer", "empty answer"),
        ({"choices": ["a", "b"], "answer": "c"}, "answer", "not one of the 2 choices"),
        ({"choices": ["a", "b"], "answer": 2}, "answer", "2 is not a position in 2 choices"),
        ({"choices": ["B", "A"], "answer": "A"}, "answer", "may mean several"),
        ({"choices": 7}, "choices", "not a list"),
        ({"image": None}, "images", "missing image"),
        ({"image": []}, "images", "missing image"),
        ({"image": ""}, "images", "missing image"),
        ({"image": "2.png"}, "images", "missing image: no file '2.png'"),
        ({"image": "in\0.png"}, "images", "missing image"),
        ({"image": "x" * 5000}, "images", "missing image"),
        ({"image": "."}, "images", "missing image"),
        ({"image": {"bytes": None, "path": None}}, "images", "missing image"),
        ({"image": 7}, "images", "a int, not an image"),
        ({"image": "http://example.org/1.png"}, "images", "is a web address"),
        ({"image": "data:image/png;base64,@@"}, "images", "its base64 is broken"),
        ({"image": "../secret.png"}, "images", "path leaves the folder: '../secret.png'"),
        ({"image": "/etc/passwd"}, "images", "path leaves the folder"),
        ({"image": "link.png"}, "images", "path leaves the folder: 'link.png'"),
        ({"split": "holdout"}, "split", "'holdout' is not a known split"),
    ],
)
def test_bad_row_is_named(row, field, why, tell):
    """Each kind of bad row gives the field at fault and the reason."""
    with pytest.raises(BadRow) as caught:
        tell(**row)
    assert caught.value.field == field
    assert why in caught.value.why


@pytest.mark.parametrize(
    "row,question,answer,kind",
    [
        ({"answer": 3}, "How many?", "3", "number"),
        ({"answer": "$\\frac{1}{2}$"}, "How many?", "$\\frac{1}{2}$", "number"),
        ({"answer": "12 cm"}, "How many?", "12 cm", "number"),
        ({"answer": "2\\sqrt{3}"}, "How many?", "2\\sqrt{3}", "expression"),
        ({"answer": ["3", "3"]}, "How many?", "3", "number"),
        ({"answer": "<answer> 3 </answer>"}, "How many?", "3", "number"),
        ({"question": "<image>\nHow many?"}, "How many?", "3", "number"),
        ({"question": "In <image> how many?"}, "In (image 1) how many?", "3", "number"),
        ({"answer": "B"}, "How many?", "B", "text"),
        (
            {"question": "Which?\n(A) one\n(B) two", "answer": "B"},
            "Which?\n(A) one\n(B) two",
            "B",
            "choice",
        ),
        (
            {"question": "Which?", "choices": ["cat", "dog"], "answer": 1},
            "Which?\nA. cat\nB. dog",
            "B",
            "choice",
        ),
        (
            {"question": "Which?", "options": "['cat', 'dog']", "answer": "dog"},
            "Which?\nA. cat\nB. dog",
            "B",
            "choice",
        ),
        (
            {"question": "Which?", "choices": {"text": ["cat", "dog"]}, "answer": "(a)"},
            "Which?\nA. cat\nB. dog",
            "A",
            "choice",
        ),
        (
            {"question": "Which?", "choices": ["1", "2"], "answer": "2"},
            "Which?\nA. 1\nB. 2",
            "B",
            "choice",
        ),
    ],
)
def test_row_is_read_as_it_was_meant(row, question, answer, kind, tell):
    """Marks go, options are written below the question, worked answers give the final one."""
    told = tell(**row)
    assert (told.question, told.answer, told.kind) == (question, answer, kind)


def test_worked_answer_becomes_the_rationale(tell):
    """A solution with its answer behind #### or in a box is kept as the rationale."""
    for worked in (
        "First we add one and two, which are numbers.\n#### 3",
        "First we add one and two, which are numbers: $\\boxed{3}$",
    ):
        told = tell(answer=worked)
        assert (told.answer, told.rationale) == ("3", worked)
    assert tell(steps=["a", "b"]).rationale == "a\nb"
    assert tell(answer="\\boxed{3}").rationale is None


def test_grade_and_family(tell):
    """A data set's own grade is a number wherever it is written; one that is none is 0."""
    assert [tell(difficulty=d).difficulty for d in (4, "Level 5", 2.0, "hard", -1)] == [
        *(4, 5, 2, 0, 0)
    ]
    assert tell({"family": "topic"}, topic="angles").family == "angles"


def test_line_that_is_no_json_is_named(tmp_path):
    """A broken line gives its number; the others are read."""
    (tmp_path / "train.jsonl").write_text('\n{"a": 1}\n{"a": \n[1]\n')
    (file,) = find_files(tmp_path, {})
    assert file.rows == 3
    numbers, read = zip(*file.batches(None), strict=True)
    assert numbers == (2, 3, 4)
    assert read[0] == {"a": 1} and "not JSON" in read[1]
    assert "a list instead of a JSON object" in read[2]
    assert file.location(3) == "train.jsonl line 3"


# -- images -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind,mode", [("PNG", "RGB"), ("PNG", "P"), ("PNG", "L"), ("PNG", "1")])
def test_fit_image_keeps_its_bytes(kind, mode):
    """A PNG or JPEG that every engine reads alike is kept byte for byte."""
    for data in (picture(5, kind, mode), picture(5, "JPEG"), picture(5, "JPEG", "CMYK")):
        kept = fit(data)
        assert kept.data is data and kept.changed == ""
        assert np.array_equal(kept.pixels, pixels(data))


def test_exif_rotation_is_applied():
    """An image that EXIF turns is stored upright, so that engines which ignore EXIF agree."""
    exif = Image.Exif()
    exif[0x0112] = 6
    kept = fit(picture(5, "JPEG", exif=exif))
    assert kept.changed == "turned"
    assert kept.pixels.shape == (24, 16, 3)
    assert Image.open(io.BytesIO(kept.data)).getexif().get(0x0112) is None
    assert np.array_equal(pixels(kept.data), kept.pixels)


def test_transparency_is_laid_on_white():
    """What shines through becomes white, not the black that dropping alpha would give."""
    out = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(out, "PNG")
    kept = fit(out.getvalue())
    assert kept.changed == "transparent" and (kept.pixels == 255).all()
    opaque = picture(5, "PNG", "RGBA")
    assert fit(opaque).data is opaque


def test_sixteen_bits_become_eight():
    """A 16-bit picture keeps its greys instead of turning white."""
    out = io.BytesIO()
    Image.fromarray(np.full((4, 4), 0x80FF, np.uint16)).save(out, "PNG")
    assert (fit(out.getvalue()).pixels == 0x80).all()


@pytest.mark.parametrize("kind", ["WEBP", "BMP", "GIF", "TIFF"])
def test_other_formats_become_png(kind):
    """Formats that a page or an engine may not read are encoded anew, losing nothing."""
    data = picture(5, kind, **({"lossless": True} if kind == "WEBP" else {}))
    kept = fit(data)
    assert kept.changed == kind.lower()
    assert header(kept.data).format == "PNG"
    assert np.array_equal(kept.pixels, pixels(data))


def bomb(width: int, height: int) -> bytes:
    """A tiny PNG that promises that many pixels."""
    chunk = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    ihdr = b"IHDR" + chunk
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(chunk)) + ihdr,
            struct.pack(">I", zlib.crc32(ihdr)),
            struct.pack(">I", 4) + b"IDATabcd" + struct.pack(">I", zlib.crc32(b"IDATabcd")),
        ]
    )


@pytest.mark.parametrize(
    "data,why",
    [
        (bomb(30000, 30000), "image too large"),
        (bomb(10000, 9000), "image too large"),
        (bomb(1000, 2), "image too thin"),
        (bomb(10, 10), "undecodable image"),
        (picture(1)[:60], "undecodable image"),
        (b"<svg></svg>", "undecodable image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "undecodable image"),
        (b"", "undecodable image"),
    ],
    ids=["bomb", "large", "thin", "broken", "cut", "svg", "eps", "empty"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_image_that_cannot_be_used(data, why):
    """Bombs, splinters, truncated files and formats that run programs are refused by name."""
    with pytest.raises(DataError, match=why):
        fit(data)
