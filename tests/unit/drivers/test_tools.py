"""Which of the caller's files become visible, and which never do."""

import os

import pytest

from openshell.drivers.local import credential_files
from openshell.drivers.local.credential_files import CredentialFinder, TooManyFiles
from openshell.drivers.local.exposing import homes_of
from openshell.drivers.local.tools import Homes, expose, expose_again


class Home:
    """A home under a temporary directory, filled by a test."""

    def __init__(self, root):
        self.root = root / "home/u"
        self.root.mkdir(parents=True)
        (self.root / ".ssh").mkdir()
        self.homes = Homes(os.getuid(), (str(self.root),))

    def file(self, path, text="", mode=0o644):
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)
        return str(target)

    def program(self, path, text="#!/bin/sh\n"):
        return self.file(path, text, 0o755)

    def link(self, path, target):
        link = self.root / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)

    def expose(self, *directories, host_paths=()):
        made = expose(
            [str(self.root / d) for d in directories],
            [str(self.root / p) for p in host_paths],
            self.homes,
            CredentialFinder(),
        )
        strip = len(str(self.root)) + 1
        self.last = made
        return {path[strip:] for path in made.paths}


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def test_an_install_prefix_is_exposed_whole(home):
    home.program(".pyenv/shims/python3")
    home.program(".pyenv/versions/3.12/bin/python3.12", "\x7fELF")
    assert home.expose(".pyenv/shims") == {".pyenv"}
    assert home.last.search_path == (str(home.root / ".pyenv/shims"),)


def test_a_shared_directory_gives_its_bin_only(home):
    home.program(".local/bin/tool")
    home.file(".local/share/keyrings/login.keyring", "secret")
    home.file(".local/state/x")
    assert home.expose(".local/bin") == {".local/bin"}


def test_links_lead_to_their_prefixes(home):
    home.program(".local/share/uv/tools/ruff/bin/ruff")
    home.file(".local/share/uv/tools/ruff/pyvenv.cfg")
    home.link(".local/bin/ruff", home.root / ".local/share/uv/tools/ruff/bin/ruff")
    home.program(".local/share/uv/python/cp312/bin/python3.12", "\x7fELF")
    (home.root / ".local/share/uv/python/cp312/lib").mkdir()
    home.link(".local/share/uv/tools/ruff/bin/python", "../../../python/cp312/bin/python3.12")
    home.link(".local/bin/py", "../share/uv/tools/ruff/bin/python")
    assert home.expose(".local/bin") == {
        ".local/bin",
        ".local/share/uv/tools/ruff",
        ".local/share/uv/python/cp312",
    }
    assert home.last.interpreters == (
        str(home.root / ".local/share/uv/python/cp312/bin/python3.12"),
    )


def test_an_interpreter_line_is_followed(home):
    home.program("tools/venv/bin/python", "\x7fELF")
    home.file("tools/venv/pyvenv.cfg")
    home.program("bin/script", f"#!{home.root}/tools/venv/bin/python -u\n")
    assert home.expose("bin") == {"bin", "tools/venv"}


def test_interpreters_are_named_by_their_real_path(home):
    home.program(".pyenv/versions/3.12/bin/python3.12", "\x7fELF")
    home.link(".pyenv/versions/3.12/bin/python3", "python3.12")
    (home.root / ".pyenv/versions/3.12/lib").mkdir()
    home.program(".pyenv/versions/3.12/bin/python3-config", "\x7fELF")
    home.program(".pyenv/shims/python3")
    home.expose(".pyenv/shims")
    assert home.last.interpreters == (str(home.root / ".pyenv/versions/3.12/bin/python3.12"),)


def test_node_packages_come_together(home):
    home.program("app/node_modules/eslint/bin/eslint.js")
    home.link("app/node_modules/.bin/eslint", "../eslint/bin/eslint.js")
    assert home.expose("app/node_modules/.bin") == {"app/node_modules"}


def test_rust_brings_its_toolchains_and_no_credentials(home):
    home.program(".cargo/bin/cargo", "\x7fELF")
    home.file(".cargo/credentials.toml", "token")
    (home.root / ".rustup/toolchains/stable/bin").mkdir(parents=True)
    assert home.expose(".cargo/bin") == {".cargo/bin", ".rustup/toolchains"}


def test_a_link_into_the_home_itself_shows_one_file(home):
    home.program("script.sh")
    home.link("bin/script", home.root / "script.sh")
    assert home.expose("bin") == {"bin", "script.sh"}


@pytest.mark.parametrize(
    "asked", ["", "..", "../..", ".ssh/.."], ids=["home", "homes", "above", "roundabout"]
)
def test_a_home_is_never_exposed(home, asked):
    home.program("tool")
    assert home.expose(asked, host_paths=(asked,)) == set()
    assert home.last.search_path == ()
    assert "whole home" in home.last.skipped[0][1]


def test_a_directory_that_looks_like_a_home_is_none_of_ours(home):
    (home.root / "backup/.gnupg").mkdir(parents=True)
    home.program("backup/bin/tool")
    assert home.expose("backup/bin", host_paths=("backup",)) == {"backup/bin"}


def test_a_link_to_a_home_is_not_followed(home):
    home.link("innocent", home.root)
    assert home.expose(host_paths=("innocent",)) == set()


@pytest.mark.parametrize("path", ["/", "/proc", "/sys/kernel", "/run/user", "/dev"])
def test_private_paths_stay_private(home, path):
    made = expose([], [path], home.homes, CredentialFinder())
    assert made.paths == ()


def test_someone_elses_files_are_refused(home):
    home.program("bin/tool")
    home.homes = Homes(os.getuid() + 1, home.homes.directories)
    if os.getuid() == 0:
        os.chown(home.root / "bin", 12345, 12345)
    assert home.expose(host_paths=("bin",)) == set()
    assert "another user" in home.last.skipped[0][1]


KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    ("path", "text", "masked"),
    [
        pytest.param("lib/.npmrc", "", True, id="npmrc"),
        pytest.param("lib/deep/er/.netrc", "", True, id="netrc-below"),
        pytest.param("lib/id_ed25519", "", True, id="ssh-key"),
        pytest.param("etc/credentials.json", "", True, id="credentials"),
        pytest.param("etc/.env.local", "", True, id="dotenv"),
        pytest.param("lib/server.pem", KEY, True, id="private-pem"),
        pytest.param("lib/cacert.pem", "-----BEGIN CERTIFICATE-----", False, id="public-pem"),
        pytest.param("lib/store.p12", "", True, id="key-container"),
        pytest.param("lib/module.py", "", False, id="code"),
        pytest.param(".aws/config", "", True, id="directory"),
    ],
)
def test_what_looks_like_a_credential_is_masked(home, path, text, masked):
    home.program("tool/bin/x")
    home.file("tool/lib/y")
    name = home.file(f"tool/{path}", text)
    if path.startswith(".aws"):
        # Beside bin this would make the prefix look like a home.
        (home.root / "tool/.aws").rename(home.root / "tool/lib/.aws")
        name = str(home.root / "tool/lib/.aws")
    home.expose("tool/bin")
    assert (name in home.last.masked) is masked


def test_a_new_credential_is_found_by_a_second_search(home):
    home.program("tool/bin/x")
    (home.root / "tool/lib").mkdir()
    now = 0.0
    finder = CredentialFinder(lambda: now)
    path = str(home.root / "tool")
    assert finder.find(path) == ()
    assert not finder.is_due(path)
    name = home.file("tool/lib/.netrc")
    assert finder.find(path) == (), "fresh enough to be used without a look"
    now = 5.0
    assert finder.is_due(path)
    assert finder.refresh(path) == (name,)
    os.unlink(name)
    now = 100.0
    assert finder.find(path) == ()


def test_a_directory_too_large_to_check_is_not_exposed(home, monkeypatch):
    monkeypatch.setattr(credential_files, "_MAX_ENTRIES", 3)
    home.program("tool/bin/x")
    for index in range(5):
        home.file(f"tool/lib/{index}")
    with pytest.raises(TooManyFiles):
        CredentialFinder().find(str(home.root / "tool"))
    assert home.expose("tool/bin") == set()
    assert home.last.search_path == ()


def test_a_missing_directory_is_left_out(home):
    assert home.expose("nowhere/bin") == set()


@pytest.mark.parametrize(
    ("link", "target"),
    [("bin/key", ".ssh/deploy"), ("bin/c", ".aws/cli/tool"), ("bin/s", ".config/gcloud/x/y")],
    ids=["ssh", "aws", "gcloud"],
)
def test_a_link_does_not_open_a_place_for_credentials(home, link, target):
    home.program("bin/tool")
    home.program(target)
    home.link(link, home.root / target)
    assert home.expose("bin") == {"bin"}
    assert "credentials" in home.last.skipped[0][1]


def test_an_interpreter_line_does_not_either(home):
    home.program(".ssh/deploy")
    home.program("bin/tool", f"#!{home.root}/.ssh/deploy\n")
    assert home.expose("bin") == {"bin"}


@pytest.mark.parametrize("asked", [".ssh", ".aws/bin", "link"])
def test_a_place_for_credentials_is_not_on_the_path(home, asked):
    home.program(".aws/bin/tool")
    home.program(".ssh/tool")
    home.link("link", home.root / ".ssh")
    assert home.expose(asked, host_paths=(asked,)) == set()
    assert home.last.search_path == ()


@pytest.mark.parametrize("asked", ["state/gw", "state", "state/gw/local/sandboxes/x/workspace"])
def test_what_is_ours_is_never_shown(home, asked):
    home.program("state/gw/local/sandboxes/x/workspace/tool")
    assert home.expose(host_paths=(asked,)) == {asked}, "the probe works"
    private = homes_of({"HOME": str(home.root)}, str(home.root / "state/gw/local")).private
    assert private == (str(home.root / ".config/openshell"), str(home.root / "state/gw"))
    home.homes = Homes(os.getuid(), home.homes.directories, private)
    assert home.expose(host_paths=(asked,)) == set()
    assert "own state" in home.last.skipped[0][1]


def test_a_directory_that_everybody_may_fill_is_refused(home):
    home.program("shared/tool")
    (home.root / "shared").chmod(0o1777)
    assert home.expose("shared", host_paths=("shared",)) == set()
    assert "everybody" in home.last.skipped[0][1]


def test_a_start_judges_again_what_a_create_decided(home):
    for name in ("kept", "swapped", "taken", "opened"):
        home.program(f"{name}/tool")
    home.link("link", home.root / "swapped")
    asked = ("kept", "link", "taken", "opened")
    shown = {"kept", "swapped", "link", "taken", "opened"}
    assert home.expose(*asked) == shown
    before = home.last
    assert expose_again(before, home.homes, CredentialFinder()) == before

    credential = home.file("kept/.netrc")
    (home.root / "link").unlink()
    home.program(".ssh/tool")
    home.link("link", home.root / ".ssh")
    (home.root / "opened").chmod(0o777)
    if os.getuid() == 0:
        os.chown(home.root / "taken", 12345, 12345)
    else:
        (home.root / "taken").chmod(0o777)
    after = expose_again(before, home.homes, CredentialFinder())
    strip = len(str(home.root)) + 1
    assert {path[strip:] for path in after.paths} == {"kept", "swapped"}
    assert after.masked == (credential,)
    assert {path[strip:] for path in after.search_path} == {"kept"}
    reasons = {path[strip:]: reason for path, reason in after.skipped}
    assert set(reasons) == {"link", "taken", "opened"}
