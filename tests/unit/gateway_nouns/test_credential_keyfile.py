"""The gateway's key file: made once, private, refused when it is not."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from openshell.gateway.credentials.keyfile import KeyFileError, load_or_create_key


@pytest.fixture
def path(tmp_path):
    return tmp_path / "credentials" / "key-encryption-key.bin"


def test_it_is_made_once_and_private(path):
    first = load_or_create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(path.read_bytes()) == 32
    assert load_or_create_key(path).key == first.key
    assert os.listdir(path.parent) == [path.name]


def test_gateways_that_start_together_agree(path):
    with ThreadPoolExecutor(8) as pool:
        keys = {key.key for key in pool.map(load_or_create_key, [path] * 16)}
    assert len(keys) == 1


def _readable(path):
    load_or_create_key(path)
    path.chmod(0o640)


def _short(path):
    load_or_create_key(path)
    path.write_bytes(b"x" * 31)


def _long(path):
    load_or_create_key(path)
    path.write_bytes(b"x" * 33)


def _link(path):
    load_or_create_key(path)
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def _dangling(path):
    path.parent.mkdir(mode=0o700)
    path.symlink_to("absent")


def _fifo(path):
    path.parent.mkdir(mode=0o700)
    os.mkfifo(path, 0o600)


def _open_directory(path):
    path.parent.mkdir()
    path.parent.chmod(0o777)


@pytest.mark.parametrize(
    "spoil", [_readable, _short, _long, _link, _dangling, _fifo, _open_directory]
)
def test_a_key_that_cannot_be_trusted_is_refused(path, spoil):
    spoil(path)
    with pytest.raises(KeyFileError) as refused:
        load_or_create_key(path)
    assert str(path.parent) in str(refused.value)
