"""Where files land: the contract's table (CLI 6.6), row by row."""

import pytest

from openshell.sdk.files.placement import Placement, place_download, place_upload, split_upload


@pytest.mark.parametrize(
    ("local", "dest", "is_directory", "wanted"),
    [
        ("./src", None, True, Placement(".", "src")),
        ("./src", "dst", True, Placement("dst", "src")),
        ("./src/", "dst/", True, Placement("dst/", "src")),
        ("/a/b", "/tmp", True, Placement("/tmp", "b")),
        (".", "dst", True, Placement("dst", "")),
        ("./", None, True, Placement(".", "")),
        ("/", "dst", True, Placement("dst", "")),
        ("a/..", "dst", True, Placement("dst", "")),
        ("f.txt", None, False, Placement(".", "f.txt")),
        ("f.txt", "", False, Placement(".", "f.txt")),
        ("f.txt", "dst/", False, Placement("dst/", "f.txt")),
        ("f.txt", "dst", False, Placement(".", "dst")),
        ("f.txt", "a/b/c", False, Placement("a/b", "c")),
        ("f.txt", "/tmp", False, Placement("/tmp", "f.txt")),
        ("f.txt", "/tmp/x", False, Placement("/tmp", "x")),
        ("-f", None, False, Placement(".", "-f")),
    ],
)
def test_upload(local, dest, is_directory, wanted):
    assert place_upload(local, dest, is_directory=is_directory) == wanted


def test_download(tmp_path):
    directory = str(tmp_path)
    assert place_download("a/f", directory, is_directory=False) == Placement(directory, "f")
    assert place_download("a/f", "new/", is_directory=False) == Placement("new/", "f")
    assert place_download("a/f", "x/g", is_directory=False) == Placement("x", "g")
    assert place_download("f", "g", is_directory=False) == Placement(".", "g")
    assert place_download("a/", "x", is_directory=True) == Placement("x", "")


def test_the_first_colon_splits():
    assert split_upload("a:b:c") == ("a", "b:c")
    assert split_upload("a") == ("a", "")
