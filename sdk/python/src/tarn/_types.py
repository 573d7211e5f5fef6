"""What the server answers, as plain values."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Dict, Mapping, Optional, Tuple

Json = Mapping[str, Any]


def moment(text: Optional[str]) -> Optional[datetime]:
    """A time of the wire; it has nanoseconds, which datetime does not."""
    if not text:
        return None
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z", text)
    if match is None:
        return None
    return datetime.fromisoformat(f"{match[1]}.{(match[2] or '0')[:6]:0<6}").replace(tzinfo=timezone.utc)


@dataclass(frozen=True)
class Commit:
    """One state of a project, and how it came to be."""

    id: str
    parents: Tuple[str, ...] = ()
    author: str = ""
    message: str = ""
    time: Optional[datetime] = None
    run: str = ""

    @classmethod
    def of(cls, j: Optional[Json]) -> Commit:
        j = j or {}
        return cls(j.get("id", ""), tuple(j.get("parents", ())), j.get("author", ""), j.get("message", ""), moment(j.get("time")), j.get("run", ""))


@dataclass(frozen=True)
class Ref:
    """A branch or tag and the commit it points to."""

    name: str
    commit: Commit

    @classmethod
    def of(cls, j: Json) -> Ref:
        return cls(j.get("name", ""), Commit.of(j.get("commit")))


@dataclass(frozen=True)
class Secret:
    """What can be told of a secret: its name, and when it was set (RFC 3339)."""

    name: str
    set: str = ""

    @classmethod
    def of(cls, j: Json) -> Secret:
        return cls(j.get("name", ""), j.get("set", ""))


@dataclass(frozen=True)
class Entry:
    """What a commit holds under one key."""

    name: str
    kind: str = ""
    version: str = ""
    size: int = 0
    rows: int = 0
    key: str = ""
    properties: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, j: Json) -> Entry:
        return cls(j.get("name", ""), j.get("kind", ""), j.get("version", ""), int(j.get("size", 0)), int(j.get("rows", 0)), j.get("key", ""), dict(j.get("properties", {})))


@dataclass(frozen=True)
class Change:
    """One key that differs; `before` is None for an addition, `after` for a removal."""

    key: str
    before: Optional[Entry]
    after: Optional[Entry]

    @classmethod
    def of(cls, j: Json) -> Change:
        before, after = j.get("before"), j.get("after")
        return cls(j.get("key", ""), None if before is None else Entry.of(before), None if after is None else Entry.of(after))


@dataclass(frozen=True)
class Conflict:
    """One key that a merge cannot decide."""

    key: str
    name: str
    reason: str
    message: str
    details: Mapping[str, Any]

    @classmethod
    def of(cls, j: Json) -> Conflict:
        details = json.loads(j["detailsJson"]) if j.get("detailsJson") else {}
        return cls(j.get("key", ""), j.get("name", ""), j.get("reason", ""), j.get("message", ""), details if isinstance(details, dict) else {"value": details})


@dataclass(frozen=True)
class CheckReport:
    """What a check said of a table that was about to become visible."""

    table: str
    check: str
    severity: str
    passed: bool
    message: str
    offenders: int
    rows: int
    kept: str

    @classmethod
    def of(cls, j: Json) -> CheckReport:
        return cls(
            j.get("table", ""), j.get("check", ""), j.get("severity", ""), bool(j.get("passed")), j.get("message", ""), int(j.get("offenders", 0)), int(j.get("rows", 0)), j.get("kept", "")
        )  # fmt: skip


@dataclass(frozen=True)
class Written:
    """A branch after a write, and what the write brought."""

    branch: str
    commit: Commit
    changed: bool
    checks: Tuple[CheckReport, ...] = ()

    @classmethod
    def of(cls, j: Optional[Json], checks: Any = ()) -> Written:
        j = j or {}
        return cls(j.get("branch", ""), Commit.of(j.get("commit")), bool(j.get("changed")), tuple(CheckReport.of(c) for c in checks))


@dataclass(frozen=True)
class Merge:
    """What a merge did, or would do."""

    changes: Tuple[Change, ...]
    conflicts: Tuple[Conflict, ...]
    written: Optional[Written]

    @classmethod
    def of(cls, j: Json) -> Merge:
        written = j.get("written")
        return cls(tuple(map(Change.of, j.get("changes", ()))), tuple(map(Conflict.of, j.get("conflicts", ()))), None if written is None else Written.of(written))


@dataclass(frozen=True)
class Step:
    """One step of a run."""

    name: str
    state: str
    why: str
    rows: int
    error: str

    @classmethod
    def of(cls, j: Json) -> Step:
        return cls(j.get("name", ""), j.get("state", ""), j.get("why", ""), int(j.get("rows", 0)), (j.get("error") or {}).get("message", ""))


@dataclass(frozen=True)
class RunState:
    """A run as the server knows it."""

    id: str
    state: str
    ref: str
    into: str
    base: str
    commit: str
    steps: Tuple[Step, ...]
    checks: Tuple[CheckReport, ...]
    error: Mapping[str, Any]
    params: Dict[str, str]

    @classmethod
    def of(cls, j: Json) -> RunState:
        return cls(
            j.get("id", ""), j.get("state", ""), j.get("ref", ""), j.get("into", ""), j.get("base", ""), j.get("commit", ""),
            tuple(map(Step.of, j.get("steps", ()))), tuple(map(CheckReport.of, j.get("checks", ()))), dict(j.get("error") or {}), dict(j.get("params", {})),
        )  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One column of a table; the type is as Arrow writes it, like `timestamp[us, tz=UTC]`."""

    name: str
    type: str
    nullable: bool


@dataclass(frozen=True)
class TableInfo:
    """What is known about a table. `metadata` is where other programs find its Iceberg metadata."""

    name: str
    version: str
    rows: int
    bytes: int
    columns: Tuple[Column, ...]
    key: Tuple[str, ...]
    checks: Tuple[str, ...]
    warn: Tuple[str, ...]
    description: str
    asset: str
    metadata: str

    @classmethod
    def of(cls, j: Json) -> TableInfo:
        entry = Entry.of(j.get("table") or {})
        columns = tuple(Column(c.get("name", ""), c.get("type", ""), bool(c.get("nullable"))) for c in j.get("columns", ()))
        return cls(
            entry.name, entry.version, entry.rows, entry.size, columns, tuple(j.get("key", ())), tuple(j.get("checks", ())), tuple(j.get("warn", ())),
            j.get("description", ""), j.get("asset", ""), j.get("metadataUri", ""),
        )  # fmt: skip


@dataclass(frozen=True)
class TableVersion:
    """A table as one commit left it; `present` is False for the commit that removed it."""

    commit: Commit
    version: str
    rows: int
    bytes: int
    present: bool

    @classmethod
    def of(cls, j: Json) -> TableVersion:
        return cls(Commit.of(j.get("commit")), j.get("version", ""), int(j.get("rows", 0)), int(j.get("bytes", 0)), bool(j.get("present")))


@dataclass(frozen=True)
class PlannedStep:
    """What a run would do with one asset: `action` is run, reuse, or maybe."""

    name: str
    action: str
    why: str
    items: int
    reused: int
    seconds: float
    outputs: Tuple[str, ...]

    @classmethod
    def of(cls, j: Json) -> PlannedStep:
        return cls(
            j.get("name", ""),
            j.get("action", ""),
            j.get("why", ""),
            int(j.get("items", 0)),
            int(j.get("reused", 0)),
            float(j.get("estimatedSeconds", 0)),
            tuple(j.get("outputs", ())),
        )


@dataclass(frozen=True)
class Plan:
    """What a run would do, parents first, and the commit it would read."""

    base: str
    steps: Tuple[PlannedStep, ...]

    @classmethod
    def of(cls, j: Json) -> Plan:
        return cls(j.get("base", ""), tuple(map(PlannedStep.of, j.get("steps", ()))))


@dataclass(frozen=True)
class LogLine:
    """One line that a step wrote to stdout or stderr."""

    step: str
    item: str
    stream: str
    text: str
    time: Optional[datetime]

    @classmethod
    def of(cls, j: Json) -> LogLine:
        return cls(j.get("step", ""), j.get("item", ""), j.get("stream", ""), j.get("line", ""), moment(j.get("time")))


@dataclass(frozen=True)
class Answer:
    """Why something is as it is, in one sentence, and the command to go on with."""

    sentence: str
    command: str

    @classmethod
    def of(cls, j: Json) -> Answer:
        return cls(j.get("sentence", ""), j.get("command", ""))

    def __str__(self) -> str:
        return self.sentence


@dataclass(frozen=True)
class Source:
    """One node of a provenance: what it is, what made it, and the names of what it was made from."""

    name: str
    kind: str
    version: str
    commit: str
    run: str
    author: str
    time: Optional[datetime]
    function: str
    file: str
    environment: str
    params: Mapping[str, str]
    inputs: Tuple[str, ...]
    sources: Tuple[str, ...]
    statement: str

    @classmethod
    def of(cls, j: Json) -> Source:
        return cls(
            j.get("name", ""), j.get("kind", ""), j.get("version", ""), j.get("commit", ""), j.get("run", ""), j.get("author", ""), moment(j.get("time")), j.get("function", ""),
            j.get("file", ""), j.get("environment", ""), dict(j.get("params", {})), tuple(j.get("inputs", ())), tuple(j.get("sources", ())), j.get("statement", ""),
        )  # fmt: skip
