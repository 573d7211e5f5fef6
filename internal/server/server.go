// Package server is the edge: it speaks Connect, gRPC, gRPC-Web and JSON on one listener and turns each
// call into one of the layers below. Handlers hold no state and no rules of their own; errors are mapped
// to the wire once, in errors.go.
//
// A service is one file: a handler struct with what it needs, and a line in Handler.
package server

import (
	"context"
	"log/slog"
	"net/http"

	"connectrpc.com/connect"

	"tarn.dev/tarn/api/gen/tarn/v1/tarnv1connect"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/lake"
)

// Project is one opened project.
type Project struct {
	Name string
	Lake *lake.Lake
	Flow *flow.Flow
}

// Projects opens projects on first use and keeps them open.
type Projects interface {
	Open(ctx context.Context, name string) (*Project, error)
	Names(ctx context.Context) ([]string, error)
	// Remove deletes all that a project has, for good.
	Remove(ctx context.Context, name string, progress func(string)) (Removed, error)
}

// Removed is what the removal of a project deleted.
type Removed struct{ Blobs, Bytes, Rows int64 }

// Services is what the edge serves.
type Services struct {
	Log      *slog.Logger
	Control  Control
	Projects Projects
}

// maxMessage bounds one message: no call of ours needs more, and a hostile one could ask for all memory.
const maxMessage = 64 << 20

// Handler serves every service of the API.
func Handler(s Services) http.Handler {
	options := connect.WithHandlerOptions(
		connect.WithInterceptors(edge{s.Log}),
		connect.WithReadMaxBytes(maxMessage),
		// The wire is a local socket: packing and unpacking would cost more than it saves.
		connect.WithCompression("gzip", nil, nil),
	)
	mux := http.NewServeMux()
	mux.Handle(tarnv1connect.NewSystemServiceHandler(&systemService{s.Control, s.Projects}, options))
	mux.Handle(tarnv1connect.NewHistoryServiceHandler(&historyService{reading{s.Projects}}, options))
	mux.Handle(tarnv1connect.NewFileServiceHandler(&fileService{reading{s.Projects}}, options))
	mux.Handle(tarnv1connect.NewRunServiceHandler(&runService{reading{s.Projects}}, options))
	mux.Handle(tarnv1connect.NewCallServiceHandler(&callService{projects: s.Projects}, options))
	mux.Handle(tarnv1connect.NewEnvServiceHandler(&envService{reading{s.Projects}}, options))
	mux.Handle(tarnv1connect.NewSecretServiceHandler(&secretService{s.Projects}, options))
	mux.Handle(tarnv1connect.NewTableServiceHandler(&tableService{reading{s.Projects}}, options))
	mux.Handle(tarnv1connect.NewQueryServiceHandler(&queryService{reading{s.Projects}}, options))
	return mux
}
