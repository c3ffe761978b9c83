"""Change settings in a TOML file, and leave every other byte of it as it is. Needs the extra ``ci``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

from runnerctl.errors import ConfigError, DataError

__all__ = ["TomlConfig", "read_toml"]


def read_toml(text: str, where: str) -> Any:
    """The document, comments and layout included. Raises DataError, and ConfigError without tomlkit."""
    try:
        import tomlkit
        from tomlkit.exceptions import TOMLKitError
    except ImportError:
        remedy = "pip install 'runnerctl[ci]'"
        raise ConfigError("the package tomlkit is not installed", remedy=remedy) from None
    try:
        return tomlkit.parse(text)
    except (TOMLKitError, ValueError, RecursionError) as error:
        reason = str(error).split("\n")[0]
        raise DataError(f"is no TOML: {reason}", where=where, remedy="correct the file") from None


class TomlConfig:
    """``pyproject.toml`` or one like it; ``prefix`` is the table in which the sections stand.

    A section that is there is changed in place; one that is not is added at the end of the file.
    """

    def __init__(self, text: str, where: str, prefix: tuple[str, ...]) -> None:
        self.where = where
        self._text = text
        self._prefix = prefix
        self._document = read_toml(text, where)
        self._new: dict[tuple[str, ...], dict[str, Any]] = {}
        self._set: list[tuple[tuple[str, ...], str, Any]] = []

    def _path(self, section: str) -> tuple[str, ...]:
        return (*self._prefix, *([section] if section else []))

    def _table(self, path: tuple[str, ...]) -> MutableMapping[str, Any] | None:
        node: Any = self._document
        for name in path:
            if not isinstance(node, Mapping) or name not in node:
                return None
            node = node[name]
        if not isinstance(node, MutableMapping):
            raise DataError(f"{'.'.join(path)} is no table", where=self.where, remedy="correct the file")
        return node

    def _value(self, section: str, key: str) -> Any:
        path = self._path(section)
        table = self._new.get(path) or self._table(path) or {}
        value: Any = table.get(key)
        return value.unwrap() if hasattr(value, "unwrap") else value

    def text(self, section: str, key: str) -> str | None:
        """As `Config.text`."""
        value = self._value(section, key)
        if isinstance(value, list):
            return shlex.join(str(item) for item in value)
        return None if value is None else str(value).lower() if isinstance(value, bool) else str(value)

    def items(self, section: str, key: str) -> list[str]:
        """As `Config.items`."""
        value = self._value(section, key)
        if isinstance(value, str):
            lines = value.replace(",", "\n") if key != "markers" else value
            return [line.strip() for line in lines.split("\n") if line.strip()]
        return [str(item) for item in value] if isinstance(value, list) else []

    def is_list(self, section: str, key: str) -> bool:
        """As `Config.is_list`."""
        return isinstance(self._value(section, key), list)

    def put(self, section: str, key: str, value: bool | float | str | list[str]) -> None:
        """As `Config.put`."""
        path = self._path(section)
        table = self._table(path)
        if table is None:
            self._new.setdefault(path, {})[key] = value
        else:
            table[key] = _lines(value) if key == "markers" else value
        self._set.append((path, key, value))

    def extend(self, section: str, key: str, more: list[str]) -> None:
        """As `Config.extend`."""
        table = self._table(self._path(section))
        old = table.get(key) if table is not None else None
        if isinstance(old, list) and table is not None:
            for item in more:
                old.append(item)  # type: ignore[attr-defined,unused-ignore]
            self._set.append((self._path(section), key, [str(each) for each in old]))
        else:
            self.put(section, key, [*self.items(section, key), *more])

    def render(self) -> str:
        """As `Config.render`."""
        import tomlkit

        text = tomlkit.dumps(self._document) if self._set else self._text
        for path, values in self._new.items():
            table = tomlkit.table()
            for key, value in values.items():
                table.add(key, _lines(value) if key == "markers" else value)
            block = f"[{'.'.join(path)}]\n{table.as_string()}"
            text = text.rstrip("\n") + ("\n\n" if text.strip() else "") + block
        self._prove(text)
        return text

    def _prove(self, text: str) -> None:
        """A file may be laid out in a way that no place is right for; then its owner has to do it."""
        remedy = "write these tables as [tables] of their own, and run the command again"
        try:
            after = _strictly(text)
        except (DataError, ValueError):
            raise DataError("cannot be edited as it is laid out", where=self.where, remedy=remedy) from None
        for (path, key), value in {(path, key): value for path, key, value in self._set}.items():
            node: Any = after
            for name in path:
                node = node.get(name, {})
            if node.get(key) != value:
                raise DataError(f"cannot set {'.'.join(path)}.{key}", where=self.where, remedy=remedy)


def _strictly(text: str) -> Any:
    """As every reader of the file will see it: tomlkit lets a table be added to that is closed already."""
    if sys.version_info >= (3, 11):
        import tomllib

        return tomllib.loads(text)
    return read_toml(text, "").unwrap()


def _lines(value: Any) -> Any:
    """A list with one item a line."""
    import tomlkit

    array = tomlkit.array()
    array.extend(value)
    return array.multiline(True)
