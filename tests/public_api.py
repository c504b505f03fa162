"""The public names of the package with their signatures, as text.

`public_api.txt` is the reviewed text: a change of it is a change for everybody who uses the
package. After such a change, write it again and read the difference:

    .venv/bin/python tests/public_api.py
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bulkcert
import bulkcert.errors
import bulkcert.testing
from bulkcert.simulator import Simulator

FILE = Path(__file__).with_name("public_api.txt")


def public_api() -> str:
    """Describe everything that programs may rely on."""
    lines: list[str] = []
    for module in (bulkcert, bulkcert.testing):
        for name in sorted(module.__all__):
            lines += _described(f"{module.__name__}.{name}", getattr(module, name))
    lines += _described("bulkcert.simulator.Simulator", Simulator)
    for name, value in vars(bulkcert.errors).items():
        if inspect.isclass(value) and issubclass(value, bulkcert.BulkcertError):
            lines += _described(f"bulkcert.errors.{name}", value)
    return "\n".join(lines) + "\n"


def _described(name: str, value: Any) -> Iterator[str]:
    if not inspect.isclass(value):
        yield f"{name}{_signature(value)}" if callable(value) else f"{name} = {value}"
        return
    bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
    yield f"class {name}({bases})" if bases else f"class {name}"
    if issubclass(value, enum.Enum):
        yield from (f"    {member.name} = {member.value!r}" for member in value)
        return
    if "__init__" in vars(value) and not dataclasses.is_dataclass(value):
        yield f"    __init__{_signature(value.__init__)}"
    for attribute, kind in _attributes(value).items():
        yield f"    {attribute}: {kind}"
    for method, function in vars(value).items():
        if inspect.isfunction(function) and not method.startswith("_"):
            is_async = "async " if inspect.iscoroutinefunction(function) else ""
            yield f"    {is_async}{method}{_signature(function)}"


def _attributes(value: type) -> dict[str, str]:
    """Fields and properties, with their annotations as written."""
    named: dict[str, str] = {}
    if dataclasses.is_dataclass(value):
        named = {field.name: str(field.type) for field in dataclasses.fields(value)}
    elif "_fields" in vars(value):
        kinds = value.__annotations__
        named = {name: getattr(kind, "__forward_arg__", str(kind)) for name, kind in kinds.items()}
    for name, member in vars(value).items():
        if isinstance(member, property):
            named[name] = str(inspect.signature(member.fget).return_annotation)  # type: ignore[arg-type]
        elif not callable(member) and isinstance(member, int):
            named[name] = f"int = {member}"
    documented = (value.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    for names in re.findall(r"^        (\w[\w, ]*):", documented, re.M):
        for name in names.split(", "):
            named.setdefault(name, "set by the object")
    return {name: kind for name, kind in named.items() if not name.startswith("_")}


def _signature(function: Any) -> str:
    """A signature with its annotations as written, and without the content of long defaults."""
    signature = inspect.signature(function)
    short = [
        parameter.replace(default=_Default(parameter.default))
        if dataclasses.is_dataclass(parameter.default)
        else parameter
        for parameter in signature.parameters.values()
        if parameter.name != "self"
    ]
    text = str(signature.replace(parameters=short))
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)


class _Default:
    def __init__(self, value: object) -> None:
        self._name = type(value).__name__

    def __repr__(self) -> str:
        return f"{self._name}()"


if __name__ == "__main__":
    FILE.write_text(public_api())
