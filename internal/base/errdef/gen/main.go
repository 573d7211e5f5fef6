// Command gen writes what follows from errdef.Table: the reference page of errors and the Python
// classes. Its test fails when a file on disk is not what the table says.
package main

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"tarn.dev/tarn/internal/base/errdef"
)

// outputs are the generated files, by path from the repository root.
var outputs = map[string]func() []byte{
	"docs/reference/errors.md":           markdown,
	"sdk/python/src/tarn/_errors_gen.py": python,
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: gen REPOSITORY_ROOT")
	}
	for path, render := range outputs {
		path = filepath.Join(os.Args[1], path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			log.Fatal(err)
		}
		if err := os.WriteFile(path, render(), 0o644); err != nil {
			log.Fatal(err)
		}
	}
}

func markdown() []byte {
	var b bytes.Buffer
	b.WriteString(`<!-- Generated from internal/base/errdef/table.go by "make generate". Do not edit. -->
# Errors

Every error has one of these codes, a stable dotted *reason* such as ` + "`lake.branch_not_found`" + `, a message for
people, typed details and what to do next. With ` + "`--json`" + ` it is one document on stdout:

` + "```json" + `
{"error": {"code": "not_found", "reason": "lake.branch_not_found", "message": "...", "details": {}, "next": ["tarn branch ls"]}}
` + "```" + `

Programs look at code and reason. The message may change. The column HTTP is for edges that speak plain HTTP; Connect's
protocol has statuses of its own, which differ for failed_precondition (400) and user_code (500).

| code | meaning | HTTP | gRPC | CLI exit | may be tried again | Python class |
|---|---|---|---|---|---|---|
`)
	for _, r := range errdef.Table {
		fmt.Fprintf(&b, "| `%s` | %s | %d | %s | %d | %s | `tarn.errors.%s` |\n", r.Name, r.Text, r.HTTP, r.GRPC, r.Exit, r.Retry, r.Python)
	}
	b.WriteString(`
Other exit codes of the CLI: 0 is success, 3 is success in part (what failed is listed). 2 is never used on
purpose: it is how a crashed Go program ends.
`)
	return b.Bytes()
}

func python() []byte {
	var b bytes.Buffer
	b.WriteString(`# Generated from internal/base/errdef/table.go by "make generate". Do not edit.
"""The classes of tarn.errors, one for each error code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Error(Exception):
    """Base of every error that Tarn raises.

    code and reason are stable; the message is for people and may change. next lists what to do,
    which tracebacks show from Python 3.11 on.
    """

    code: str = "internal"

    def __init__(
        self,
        message: str = "",
        *,
        code: str | None = None,
        reason: str = "",
        details: Mapping[str, Any] | None = None,
        next: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.reason: str = reason or self.code
        self.message: str = message
        self.details: dict[str, Any] = dict(details or {})
        self.next: tuple[str, ...] = tuple(next)
        if self.next:
            self.__notes__ = [f"  try: {one}" for one in self.next]
`)
	for _, r := range errdef.Table {
		fmt.Fprintf(&b, "\n\nclass %s(Error):\n    \"\"\"%s.\"\"\"\n\n    code = %q\n", r.Python, sentence(r.Text), r.Name)
	}
	b.WriteString("\n\nCODES: dict[str, type[Error]] = {\n")
	for _, r := range errdef.Table {
		fmt.Fprintf(&b, "    %q: %s,\n", r.Name, r.Python)
	}
	b.WriteString("}\n")
	return b.Bytes()
}

func sentence(s string) string {
	if s == "" {
		return s
	}
	return string(bytes.ToUpper([]byte(s[:1]))) + s[1:]
}
