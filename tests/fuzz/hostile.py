"""Reads files that were changed at random, and says what became of each: a process that may die."""

import contextlib
import io
import json
import signal
import subprocess
import sys
import traceback
import warnings

__all__ = ["LONGEST", "READERS", "Reader", "reading"]

LONGEST = 30.0  # seconds of computing


def reading(kind: str, path: str, others: dict[str, str]) -> str | None:
    """What is wrong about how a file was read, or None.

    Args:
        kind: of the file, a key of `READERS`.
        path: of the file.
        others: paths of files that are whole, by kind.
    """
    signal.signal(signal.SIGPROF, _too_long)
    signal.setitimer(signal.ITIMER_PROF, LONGEST)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return READERS[kind](path, others)
    except SystemExit as error:
        return f"the process ends by {error.code!r}"
    except BaseException:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _too_long(*_):
    raise TimeoutError(f"it took more than {LONGEST:g} s")


def _command(codes, *arguments):
    from deel_lip_tf.__main__ import main

    page, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(page), contextlib.redirect_stderr(errors):
        code = main([*map(str, arguments)])
    lines = errors.getvalue().splitlines()
    if code not in codes or len(lines) != (code == 2) or (code == 2 and page.getvalue()):
        return f"exit code {code}, {len(lines)} lines: {errors.getvalue()}"
    return None


def _verify(path, others):
    return _command((0, 2, 10, 20), "verify", path, others["vnnlib"], "--time-limit", "1")


def _loaded(path, others):
    from deel_lip_tf.cli.verify import _model

    with contextlib.suppress(ValueError):
        _model(path)


def _question(path, others):
    return _command((0, 2, 10, 20), "verify", others["onnx"], path, "--time-limit", "1")


def _proof(path, others):
    return _command((0, 1, 2), "check-proof", others["onnx"], others["vnnlib"], path)


def _certificates(path, others):
    from deel_lip_tf.certificates import Certificates

    with contextlib.suppress(ValueError):
        Certificates.load(path)


def _export_certificate(path, others):
    from deel_lip_tf.certificates import load

    with contextlib.suppress(ValueError):
        load(path.removesuffix(".certificate.json"))


def _backup(path, others):
    from pathlib import Path

    from deel_lip_tf.callbacks.training_state import Broken, read

    with contextlib.suppress(Broken):
        read(Path(path))


def _data(path, others):
    from deel_lip_tf.cli.arguments import BadInput
    from deel_lip_tf.cli.quickstart.data import load

    with contextlib.suppress(BadInput):
        load(path)


READERS = {
    "keras": _loaded,
    "h5": _loaded,
    "saved model": _loaded,
    "keras, decided": _verify,
    "onnx": _verify,
    "onnx.gz": _verify,
    "vnnlib": _question,
    "second vnnlib": _question,
    "vnnlib.gz": _question,
    "proof": _proof,
    "certificates": _certificates,
    "export certificate": _export_certificate,
    "backup": _backup,
    "data": _data,
}
"""What reads each kind of files."""


class Reader:
    """A process that reads files, and another one where it has died."""

    def __init__(self):
        self._process = None

    def read(self, *job) -> str | None:
        """As `reading`, or how the process died."""
        if self._process is None:
            command = [sys.executable, "-m", __name__]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **pipes)
        answer = ""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(job), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
        if answer:
            return json.loads(answer)
        code = self._process.wait()
        self.close()
        return f"the process died with {code}"

    def kill(self) -> None:
        """Kills the process, as a fault in C would."""
        self._process.kill()
        self._process.stdout.read()

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            with contextlib.suppress(BrokenPipeError), self._process:  # closes pipes, and waits
                self._process.stdin.close()
            self._process = None


def serve() -> None:
    """Reads jobs, a line of JSON each, and answers each by a line of JSON."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        print(json.dumps(reading(*json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    serve()
