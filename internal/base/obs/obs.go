// Package obs sets up what the server tells about itself: structured logs with request ids.
//
// Logs are for operators. What users see of a run comes from its messages and output, never from here.
package obs

import (
	"context"
	"io"
	"log/slog"
	"os"
	"strings"

	"github.com/DeRuina/timberjack"

	"tarn.dev/tarn/internal/base/errdef"
)

// LevelVariable is the environment variable that sets the log level.
const LevelVariable = "TARN_LOG"

// Sizes of the server log: the newest files of a busy server tell of its last days and never fill a disk.
const (
	maxFileMegabytes = 20
	maxFiles         = 4
)

// ErrLevel is returned for a level that does not exist.
var ErrLevel = errdef.New(errdef.InvalidArgument, "obs.level", "unknown log level")

// ParseLevel reads debug, info, warn or error; an empty string is info.
func ParseLevel(s string) (slog.Level, error) {
	switch strings.ToLower(s) {
	case "debug":
		return slog.LevelDebug, nil
	case "", "info":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, ErrLevel.Errorf("%s=%s: unknown log level", LevelVariable, s).WithNext("use debug, info, warn or error")
}

// OpenFile returns a logger that appends JSON lines to path at the level that TARN_LOG names. The file
// is rotated by size, older ones are compressed. The caller closes the closer last.
func OpenFile(path string) (*slog.Logger, io.Closer, error) {
	level, err := ParseLevel(os.Getenv(LevelVariable))
	if err != nil {
		return nil, nil, err
	}
	file := &timberjack.Logger{Filename: path, MaxSize: maxFileMegabytes, MaxBackups: maxFiles, Compression: "gzip"}
	return New(file, level), file, nil
}

// New returns a logger that writes JSON lines to w, each with the request id of its context.
func New(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(handler{slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})})
}

type requestKey struct{}

// WithRequest returns a context whose log lines carry id.
func WithRequest(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestKey{}, id)
}

// Request is the request id of ctx, "" if it has none.
func Request(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id
}

type handler struct{ slog.Handler }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if id := Request(ctx); id != "" {
		r = r.Clone()
		r.AddAttrs(slog.String("request", id))
	}
	return h.Handler.Handle(ctx, r)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs)}
}
func (h handler) WithGroup(name string) slog.Handler { return handler{h.Handler.WithGroup(name)} }
