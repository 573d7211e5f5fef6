// Package client is the Go client of the API. It finds the server of a home, starts one if there is none,
// and turns errors of the wire back into those of base/errdef.
package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"connectrpc.com/connect"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/api/gen/tarn/v1/tarnv1connect"
	"tarn.dev/tarn/internal/base/build"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/system/home"
)

// API is the version of the contract that this client speaks.
const API = 1

// Errors of the client itself.
var (
	ErrNoServer = errdef.New(errdef.Unavailable, "client.no_server", "no server is running").
			WithNext("tarn server start", "any other command starts one by itself")
	ErrUnreachable = errdef.New(errdef.Unavailable, "client.unreachable", "the server cannot be reached")
	ErrNoSuchCall  = errdef.New(errdef.NotImplemented, "client.no_such_call", "the server does not have that call")
	ErrAPI         = errdef.New(errdef.FailedPrecondition, "client.api", "the server speaks another API version")
)

// Options say which server to use.
type Options struct {
	// URL and Token name a server elsewhere; without a URL it is the home's own.
	URL, Token string
	Home       home.Home
	Build      build.Info
	// NoStart refuses to start a server.
	NoStart bool
}

// Client talks to one server. Its services are the generated clients.
type Client struct {
	System  tarnv1connect.SystemServiceClient
	History tarnv1connect.HistoryServiceClient
	Files   tarnv1connect.FileServiceClient
	Tables  tarnv1connect.TableServiceClient
	Queries tarnv1connect.QueryServiceClient
	Envs    tarnv1connect.EnvServiceClient
	Runs    tarnv1connect.RunServiceClient
	Secrets tarnv1connect.SecretServiceClient
	Calls   tarnv1connect.CallServiceClient

	// Server is what the server said when the client was made.
	Server *tarnv1.StatusResponse

	transport *http.Transport
}

// Open connects to the server that o names, starting or replacing the home's own if need be.
func Open(ctx context.Context, o Options) (*Client, error) {
	if o.URL != "" {
		return openURL(ctx, o)
	}
	c, err := o.find(ctx)
	if errors.Is(err, ErrUnreachable) {
		if o.NoStart {
			return nil, ErrNoServer
		}
		return o.launch(ctx)
	}
	if err != nil {
		return nil, err
	}
	if o.NoStart || !o.Build.Newer(build.Info{Version: c.Server.GetVersion(), Time: c.Server.GetBuilt().AsTime()}) {
		return c, nil
	}
	// A busy older server is spoken to as it is: API v1 does not change.
	resp, err := c.System.Shutdown(ctx, &tarnv1.ShutdownRequest{IfIdle: true})
	if err == nil && !resp.GetStopping() {
		return c, nil
	}
	c.Close()
	return o.launch(ctx)
}

// find connects to the home's server where it should be, or where its lock says that it is: the two
// differ between a login session and, say, a cron job, which have different runtime folders.
func (o Options) find(ctx context.Context) (*Client, error) {
	c, err := openSocket(ctx, o.Home.Socket)
	if holder, ok := o.Home.Holder(); errors.Is(err, ErrUnreachable) && ok && holder.Socket != o.Home.Socket && holder.Socket != "" {
		return openSocket(ctx, holder.Socket)
	}
	return c, err
}

func openSocket(ctx context.Context, socket string) (*Client, error) {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return open(ctx, "http://tarn", &http.Transport{
		Protocols:          protocols,
		DisableCompression: true,
		HTTP2:              &http.HTTP2Config{MaxReadFrameSize: 1 << 20}, // of what is got: the default is 16 KiB
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}, "")
}

func openURL(ctx context.Context, o Options) (*Client, error) {
	u, err := url.Parse(o.URL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, errdef.Newf(errdef.InvalidArgument, "client.url", "TARN_URL=%s is not an http or https address", o.URL)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	c, err := open(ctx, strings.TrimSuffix(o.URL, "/"), transport, o.Token)
	if errors.Is(err, ErrUnreachable) {
		return nil, ErrUnreachable.Errorf("TARN_URL=%s cannot be reached: %w", o.URL, err)
	}
	return c, err
}

func open(ctx context.Context, base string, transport *http.Transport, token string) (*Client, error) {
	doer := &http.Client{Transport: transport}
	options := connect.WithClientOptions(
		connect.WithInterceptors(errorMapper{token}),
		connect.WithAcceptCompression("gzip", nil, nil),
	)
	c := &Client{
		System:    tarnv1connect.NewSystemServiceClient(doer, base, options),
		History:   tarnv1connect.NewHistoryServiceClient(doer, base, options),
		Files:     tarnv1connect.NewFileServiceClient(doer, base, options),
		Tables:    tarnv1connect.NewTableServiceClient(doer, base, options),
		Queries:   tarnv1connect.NewQueryServiceClient(doer, base, options),
		Envs:      tarnv1connect.NewEnvServiceClient(doer, base, options),
		Runs:      tarnv1connect.NewRunServiceClient(doer, base, options),
		Secrets:   tarnv1connect.NewSecretServiceClient(doer, base, options),
		Calls:     tarnv1connect.NewCallServiceClient(doer, base, options),
		transport: transport,
	}
	var err error
	if c.Server, err = c.System.Status(ctx, &tarnv1.StatusRequest{}); err != nil {
		c.Close()
		return nil, err
	}
	if c.Server.GetApi() != API {
		c.Close()
		return nil, ErrAPI.Errorf("the server (tarn %s) speaks API v%d, this tarn v%d", c.Server.GetVersion(), c.Server.GetApi(), API).
			WithNext("use the tarn of the server's version")
	}
	return c, nil
}

// Close gives the connections up.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// Error turns an error of the wire into the error that the server returned. The errors of unary calls
// and of streams are turned already, except those of ServerStreamForClient.Err.
func Error(err error) error {
	if err == nil {
		return nil
	}
	var ours *errdef.Error
	if errors.As(err, &ours) {
		return err
	}
	var wire *connect.Error
	if !errors.As(err, &wire) {
		return err
	}
	for _, d := range wire.Details() {
		msg, err := d.Value()
		if err != nil {
			continue // a newer server may send details that this client does not know
		}
		if detail, ok := msg.(*tarnv1.ErrorDetail); ok {
			e := &errdef.Error{
				Code: errdef.ParseCode(detail.GetCode()), Reason: detail.GetReason(),
				Message: detail.GetMessage(), Next: detail.GetNext(),
			}
			if text := detail.GetDetailsJson(); text != "" && json.Unmarshal([]byte(text), &e.Details) != nil {
				e.Details = map[string]any{"text": text}
			}
			return e
		}
	}
	// No handler of ours answered: the connection broke, or connect refused the message.
	if errors.Is(wire, io.ErrUnexpectedEOF) || errors.Is(wire, io.EOF) || strings.HasPrefix(wire.Message(), brokenOff) { // in the middle of a stream
		return away(wire)
	}
	switch code := wire.Code(); code {
	case connect.CodeUnavailable, connect.CodeUnknown:
		return away(wire)
	case connect.CodeCanceled:
		if !errors.Is(err, context.Canceled) { // connect's word for a connection that the peer reset
			return away(wire)
		}
		return errdef.Newf(errdef.Canceled, "canceled", "canceled: %w", wire.Unwrap())
	case connect.CodeDeadlineExceeded:
		return errdef.Newf(errdef.DeadlineExceeded, "deadline_exceeded", "no answer in time: %w", wire.Unwrap())
	case connect.CodeUnimplemented:
		return ErrNoSuchCall.Errorf("this server does not have that call yet; a newer tarn may").
			WithNext("tarn server stop, when nothing runs: the next command starts the server of its own version")
	default:
		return errdef.Newf(codeOf(code), "client."+code.String(), "%s", wire.Message())
	}
}

// brokenOff is how connect words that a message ended in the middle, whatever the transport says of why: HTTP/2 has errors
// for that which have no name.
const brokenOff = "protocol error: incomplete envelope"

// codeOf is the code of our table for one of connect's own.
func codeOf(code connect.Code) errdef.Code {
	for _, row := range errdef.Table {
		if strings.EqualFold(row.GRPC, code.String()) {
			return row.Code
		}
	}
	return errdef.Internal
}

// away is what a call ends with when its server was killed.
func away(wire *connect.Error) error {
	return ErrUnreachable.Errorf("the server went away: %w", wire.Unwrap()).WithNext("run the command again")
}

// errorMapper maps errors of all calls and adds the token.
type errorMapper struct{ token string }

func (m errorMapper) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		m.authorize(req.Header())
		resp, err := next(ctx, req)
		return resp, Error(err)
	}
}

func (m errorMapper) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		m.authorize(conn.RequestHeader())
		return conn
	}
}

func (m errorMapper) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

func (m errorMapper) authorize(h http.Header) {
	if m.token != "" {
		h.Set("Authorization", "Bearer "+m.token)
	}
}
