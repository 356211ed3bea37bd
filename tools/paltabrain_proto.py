"""Make the Python modules of PaltaBrain's two .proto files, without protoc.

    python tools/paltabrain_proto.py            write the modules
    python tools/paltabrain_proto.py --check    exit code 1 when one is not what its .proto file says

What protoc writes demands a certain range of protobuf's versions, and registers its messages in the pool that the whole
program shares, where those of the original SDK may stand. What is written here asks only for what protobuf has had
since 4.25, and has a pool of its own. The parser knows as much of the language as the two files use, and refuses the
rest; a test compares with protoc where that is installed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

__all__ = ["FILES", "main", "module", "parse"]

_FOLDER = Path(__file__).resolve().parents[1] / "src" / "edgespool" / "vendors" / "paltabrain"
#: .proto file -> the module that is made of it
FILES = {
    _FOLDER / "sdk.proto": _FOLDER / "sdk_pb2.py",
    _FOLDER / "example" / "config_v2.proto": _FOLDER / "example" / "config_v2_pb2.py",
}

_TOKEN = re.compile(r"\s*(?://[^\n]*|(\"[^\"]*\"|[\w.]+|[{}<>=;,]))")
_Field: Any = descriptor_pb2.FieldDescriptorProto
_SCALARS = {"bool": _Field.TYPE_BOOL, "bytes": _Field.TYPE_BYTES, "sint64": _Field.TYPE_SINT64,
            "string": _Field.TYPE_STRING}  # fmt: skip


def _tokens(text: str) -> Iterator[str]:
    at = 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"not understood: {text[at : at + 40]!r}")
        at = match.end()
        if match[1]:
            yield match[1]


class _Parser:
    def __init__(self, name: str, text: str) -> None:
        self._left = list(_tokens(text))[::-1]
        self.file: Any = descriptor_pb2.FileDescriptorProto(name=name)

    def _next(self, *expected: str) -> str:
        if not self._left:
            raise ValueError("the file ends too early")
        token = self._left.pop()
        if expected and token not in expected:
            raise ValueError(f"{token!r} where {' or '.join(expected)} is expected")
        return token

    def parse(self) -> Any:
        while self._left:
            word = self._next("syntax", "package", "message")
            if word == "message":
                self._message()
                continue
            if word == "syntax":
                self._next("=")
                self.file.syntax = self._next('"proto3"').strip('"')
            else:
                self.file.package = self._next()
            self._next(";")
        return self.file

    def _message(self) -> None:
        message = self.file.message_type.add(name=self._next())
        self._next("{")
        synthetic: list[Any] = []
        while (word := self._next()) != "}":
            if word == "oneof":
                message.oneof_decl.add(name=self._next())
                self._next("{")
                while (kind := self._next()) != "}":
                    self._field(message, kind, "optional").oneof_index = len(message.oneof_decl) - 1
            elif word == "map":
                self._map(message)
            elif word == "repeated":
                self._field(message, self._next(), "repeated")
            elif word == "optional":
                synthetic.append(self._field(message, self._next(), "optional"))
            else:
                self._field(message, word, "optional")
        # The presence of an optional field is a oneof of its own (protobuf, docs/implementing_proto3_presence.md);
        # these come after those that the file names.
        for field in synthetic:
            field.proto3_optional = True
            field.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{field.name}")

    def _field(self, message: Any, kind: str, label: str) -> Any:
        field = message.field.add(name=self._next(), label=getattr(_Field, f"LABEL_{label.upper()}"))
        self._next("=")
        field.number = int(self._next())
        self._next(";")
        self._type(field, kind)
        return field

    def _type(self, field: Any, kind: str) -> None:
        if kind in _SCALARS:
            field.type = _SCALARS[kind]
        else:
            field.type, field.type_name = _Field.TYPE_MESSAGE, f".{self.file.package}.{kind}"

    def _map(self, message: Any) -> None:
        self._next("<")
        kinds = [self._next()]
        self._next(",")
        kinds.append(self._next())
        self._next(">")
        field = self._field(message, "", "repeated")
        entry = message.nested_type.add(name="".join(part.title() for part in field.name.split("_")) + "Entry")
        entry.options.map_entry = True
        for number, (name, kind) in enumerate(zip(("key", "value"), kinds, strict=True), 1):
            self._type(entry.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL), kind)
        field.type, field.type_name = _Field.TYPE_MESSAGE, f".{self.file.package}.{message.name}.{entry.name}"


def parse(path: Path) -> Any:
    """Return the FileDescriptorProto that a .proto file stands for; raises ValueError for what is not understood."""
    return _Parser(path.name, path.read_text(encoding="utf-8")).parse()


def module(path: Path) -> str:
    """Return the source of the Python module for a .proto file."""
    file = parse(path)
    raw = file.SerializeToString(deterministic=True)
    lines = "\n".join(f"    {raw[at : at + 24]!r}" for at in range(0, len(raw), 24))
    names = sorted(message.name for message in file.message_type)
    exported = "\n".join(f'    "{name}",' for name in names)
    classes = "\n".join(f'{name}: Any = _class("{file.package}.{name}")' for name in names)
    return f'''"""The messages of {path.name}. Made of it by tools/paltabrain_proto.py."""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = [
    "FILE",
{exported}
]

FILE = (
{lines}
)

# Not the pool that the program shares: another module may have registered a file of this name there.
_pool: Any = descriptor_pool.DescriptorPool()
_pool.Add(descriptor_pb2.FileDescriptorProto.FromString(FILE))


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_pool.FindMessageTypeByName(name))


{classes}
'''


def main(arguments: list[str]) -> int:
    """Write the modules, or with ``--check`` compare them; return the exit code."""
    stale = [made for path, made in FILES.items() if not made.exists() or made.read_text("utf-8") != module(path)]
    for made in stale:
        if "--check" not in arguments:
            made.write_text(module(next(path for path, each in FILES.items() if each == made)), encoding="utf-8")
        print(f"{'stale' if '--check' in arguments else 'written'}: {made.relative_to(_FOLDER)}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
