"""Fuzzes targets with atheris, guided by coverage: `python run.py --seconds 60 [TARGET ...]`.

Each target is a process of its own, one after the other. What breaks one is printed as the line to add to
its `found.txt`. `--grow` puts inputs that reach new code into `grown.txt`, the smallest ones that do.
`--together` runs all targets in one process for the seconds given, with a fixed seed: a short look at
all of them that judges the same change alike each time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from fuzz.corpus_files import CORPUS, escaped, read_corpus, read_lines, write_lines  # noqa: E402
from fuzz.tokens import write_dictionary  # noqa: E402

# What one input may take, Python traced for coverage included; most take microseconds.
_TIMEOUT = 10
_MEMORY_MB = 2048
_MAX_GROWN = 40
_MAX_GROWN_BYTES = 300
_SEED = "-seed=20261124"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--grow", action="store_true")
    parser.add_argument("--together", action="store_true")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.inside is not None:
        return _inside(options.inside, [*rest, *options.targets])
    if options.together:
        return _run("", options.seconds, grow=False)
    names = options.targets or sorted(path.name for path in CORPUS.iterdir())
    failed = [name for name in names if _run(name, options.seconds, grow=options.grow)]
    if failed:
        print("broken:", ", ".join(failed))
    return bool(failed)


def _run(name: str, seconds: int, *, grow: bool) -> int:
    """Fuzz one target, or all together where it has no name."""
    with tempfile.TemporaryDirectory() as scratch:
        corpus, found = (Path(scratch) / part for part in ("corpus", "found"))
        for folder in (corpus, found):
            folder.mkdir()
        _lay(corpus, name)
        write_dictionary(Path(scratch) / "tokens")
        start = [sys.executable, __file__, "--inside", name]
        limits = [f"-timeout={_TIMEOUT}", f"-rss_limit_mb={_MEMORY_MB}", "-print_final_stats=1"]
        once = [_SEED] if not name else []
        flags = [
            *limits,
            *once,
            f"-max_total_time={seconds}",
            f"-artifact_prefix={found}/",
            f"-dict={scratch}/tokens",
        ]
        done = subprocess.run(
            [*start, *flags, str(corpus)], capture_output=True, text=True, errors="replace"
        )
        counts = [line for line in done.stderr.splitlines() if "number_of_executed" in line]
        print(
            f"{name or 'all together'}: {counts[0].split()[-1] if counts else '?'} inputs",
            flush=True,
        )
        if done.returncode:
            print(done.stdout[-4000:], done.stderr[-4000:], sep="\n")
        for artifact in sorted(found.iterdir()):
            data = artifact.read_bytes()
            where = name or _names()[data[0] % len(_names())]
            print(f"add to corpus/{where}/found.txt:\n{escaped(data if name else data[1:])}")
        if grow and not done.returncode:
            _keep(name, [path.read_bytes() for path in corpus.iterdir()])
        return done.returncode


def _names() -> list[str]:
    return sorted(path.name for path in CORPUS.iterdir())


def _lay(folder: Path, name: str) -> None:
    for index, target in enumerate([name] if name else _names()):
        for number, data in enumerate(read_corpus(target)):
            (folder / f"{index}-{number}").write_bytes(data if name else bytes((index,)) + data)


def _keep(name: str, inputs: list[bytes]) -> None:
    from fuzz.reached import smallest_that_reach
    from fuzz.targets import TARGETS

    folder = CORPUS / name
    known = {data for file in ("seeds.txt", "found.txt") for data in read_lines(folder / file)}
    new = {data for data in inputs if len(data) <= _MAX_GROWN_BYTES} - known
    grown = smallest_that_reach(TARGETS[name], known, new)[:_MAX_GROWN]
    if grown:
        write_lines(folder / "grown.txt", grown)


def _inside(name: str, flags: list[str]) -> int:
    """The fuzzing process: never returns."""
    import atheris

    with atheris.instrument_imports(include=["openshell"], exclude=["openshell._proto"]):
        from fuzz.targets import MAX_LEN, TARGETS
    names = _names()

    def one(data: bytes) -> None:
        TARGETS[name](data)

    def together(data: bytes) -> None:
        if data:
            TARGETS[names[data[0] % len(names)]](data[1:])

    atheris.Setup([__file__, f"-max_len={MAX_LEN}", *flags], one if name else together)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
