package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"connectrpc.com/connect"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/base/obs"
)

// edge wraps every call: it gives it a request id, turns a panic into an error of this one call, and
// maps errors to the wire. It is the only place that does.
type edge struct{ log *slog.Logger }

func (e edge) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (resp connect.AnyResponse, err error) {
		err = e.call(ctx, req.Spec().Procedure, func(ctx context.Context) (err error) {
			resp, err = next(ctx, req)
			return err
		})
		if err != nil {
			return nil, err
		}
		return resp, nil
	}
}

func (e edge) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		return e.call(ctx, conn.Spec().Procedure, func(ctx context.Context) error { return next(ctx, conn) })
	}
}

func (e edge) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (e edge) call(ctx context.Context, procedure string, do func(context.Context) error) (err error) {
	id := ids.Request()
	ctx, operation := withOperation(obs.WithRequest(ctx, id))
	defer operation.end()
	start := time.Now()
	defer func() {
		if r := recover(); r != nil {
			e.log.ErrorContext(ctx, "panic", "call", procedure, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
			err = wire(errdef.New(errdef.Internal, "internal", "a bug in Tarn; the server's log says more under request "+id))
		}
	}()
	if err = do(ctx); err == nil {
		e.log.DebugContext(ctx, "call", "call", procedure, "took", time.Since(start))
		return nil
	}
	var classified *errdef.Error
	var transport *connect.Error
	if !errors.As(err, &classified) && errors.As(err, &transport) {
		// Connect itself: the stream broke, or the message does not parse.
		e.log.InfoContext(ctx, "call broken off", "call", procedure, "took", time.Since(start), "error", err.Error())
		return transport
	}
	full := errdef.As(err)
	if cause := context.Cause(ctx); full.Code == errdef.Canceled && cause != nil {
		full = errdef.As(cause)
	}
	e.log.InfoContext(ctx, "call failed", "call", procedure, "took", time.Since(start), "reason", full.Reason, "error", err.Error())
	if classified == nil && full.Code == errdef.Internal {
		e.log.ErrorContext(ctx, "unclassified error", "call", procedure, "error", err.Error(), "type", fmt.Sprintf("%T", err))
		full = errdef.Newf(errdef.Internal, "internal", "%s (request %s in the server's log)", err.Error(), id)
	}
	return wire(full)
}

// codes maps the canonical gRPC names of the error table to connect's codes.
var codes = func() map[string]connect.Code {
	m := map[string]connect.Code{}
	for c := connect.CodeCanceled; c <= connect.CodeUnauthenticated; c++ {
		m[c.String()] = c
	}
	return m
}()

func wire(e *errdef.Error) error {
	out := connect.NewError(Code(e.Code), errors.New(e.Message))
	if d, err := connect.NewErrorDetail(detail(e)); err == nil {
		out.AddDetail(d)
	}
	return out
}

// detail is an error as a message.
func detail(e *errdef.Error) *tarnv1.ErrorDetail {
	// A name or what a process printed may be no UTF-8, and such a detail could not be sent.
	text := func(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }
	out := &tarnv1.ErrorDetail{Code: e.Code.String(), Reason: e.Reason, Message: text(e.Message)}
	for _, next := range e.Next {
		out.Next = append(out.Next, text(next))
	}
	if len(e.Details) > 0 {
		// Marshalling the whole error replaces details that do not marshal.
		var whole struct {
			Details json.RawMessage `json:"details"`
		}
		if b, err := json.Marshal(e); err == nil && json.Unmarshal(b, &whole) == nil {
			out.DetailsJson = string(whole.Details)
		}
	}
	return out
}

// Code is the transport's code for c.
func Code(c errdef.Code) connect.Code {
	if code, ok := codes[strings.ToLower(c.Row().GRPC)]; ok {
		return code
	}
	return connect.CodeInternal
}
