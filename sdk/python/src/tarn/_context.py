"""What an invocation knows about itself, and how it reports.

Messages are JSON lines on a descriptor of their own, so that whatever the user prints stays output.
Outside a run the same calls print to stderr.
"""

from __future__ import annotations

import math
import os
import sys
from typing import Any, Dict, Mapping, Optional

LIMIT = 64 << 10  # characters of one text in a message


def clip(text: str, limit: int = LIMIT) -> str:
    """The text, its middle left out when it is huge."""
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {len(text) - limit:,} characters left out ... {text[-limit // 2 :]}"


def plain(value: Any) -> Any:
    """A value as JSON can hold it; numpy scalars as numbers, what else is unknown as text."""
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        return clip(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    item = getattr(value, "item", None)
    if callable(item) and getattr(value, "shape", None) == ():
        return plain(item())
    return clip(str(value))


class Messages:
    """Writes messages to a descriptor; to stderr when there is none."""

    def __init__(self, fd: Optional[int], item: Optional[str] = None) -> None:
        self.fd = fd
        self.item = item

    def send(self, kind: str, **fields: Any) -> None:
        """Report one thing. A reader that went away is no reason to fail the user's work."""
        if self.fd is None:
            shown = " ".join(str(v) if k == "message" else f"{k}={v}" for k, v in fields.items())
            print(f"{kind}: {shown}", file=sys.stderr)
            return
        message: Dict[str, Any] = {"type": kind}
        if self.item is not None:
            message["item"] = self.item
        message.update(plain(fields))
        import json  # not with the module: `import tarn` is to stay fast

        line = json.dumps(message, ensure_ascii=True).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self.fd, line) :]
        except OSError:
            self.fd = None if self.fd is None else -1


class Context:
    """This invocation: its names, and ways to report. Ask for it by annotation: `ctx: tarn.Context`."""

    def __init__(self, data: Optional[Mapping[str, Any]] = None, messages: Optional[Messages] = None) -> None:
        if data is None and os.environ.get("TARN_CONTEXT"):
            import json

            with open(os.environ["TARN_CONTEXT"], encoding="utf-8") as f:
                data = json.load(f)
            messages = Messages(int(os.environ["TARN_MESSAGES_FD"]), (data or {}).get("item"))
        data = data or {}
        self.run: str = data.get("run") or ""
        self.step: str = data.get("step") or ""
        self.item: Optional[str] = data.get("item")
        self.attempt: int = data.get("attempt") or 1
        self.partition: Optional[str] = data.get("partition")
        self.idempotency_key: str = data.get("idempotency_key") or ""
        self.params: Dict[str, Any] = dict(data.get("params") or {})
        self._messages = messages or Messages(None)

    def log(self, message: str, level: str = "info", **fields: Any) -> None:
        """Write one line to the step's log."""
        self._messages.send("log", level=level, message=str(message), **({"fields": fields} if fields else {}))

    def metric(self, name: str, value: float) -> None:
        """Record a number about the result, shown by `tarn show RUN/STEP` and kept with the result's provenance.

        A name that is told again has its latest value; what is not finite is kept as text. 100 names at most.
        """
        number = float(value)
        self._messages.send("metric", name=str(name), value=value if -1.8e308 < number < 1.8e308 else str(number))

    def metadata(self, **values: Any) -> None:
        """Record facts about the result, shown and kept like metrics: values of JSON, of at most 1 KiB each."""
        self._messages.send("metadata", values=values)

    def progress(self, done: int, total: Optional[int] = None) -> None:
        """Say how far the work is."""
        self._messages.send("progress", done=int(done), total=None if total is None else int(total))
