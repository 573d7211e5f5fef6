package flow

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/graph"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/secret"
	"tarn.dev/tarn/internal/image"
)

var errSecretUse = errdef.New(errdef.InvalidArgument, "secret.use", "a secret cannot be handed over")

// parameterSecret begins the variable with the value of a parameter's secret. The runner takes these out of its
// environment before any code of the user runs, so that no process the function starts has them.
const parameterSecret = "TARN_SECRET_"

// Secrets are the project's.
func (f *Flow) Secrets() *secret.Store { return f.secrets }

// login lets package indexes be asked with the secrets that have the names of uv's own variables.
func (f *Flow) login(ctx context.Context) context.Context {
	return image.WithLookup(ctx, func(ctx context.Context, name string) (string, bool, error) {
		all, err := f.secrets.List(ctx)
		if err != nil || !slices.ContainsFunc(all, func(i secret.Info) bool { return i.Name == name }) {
			return "", false, err
		}
		values, err := f.secrets.Values(ctx, []string{name})
		return values[name], err == nil, err
	})
}

// handed is what a function gets of secrets, and what hides them in all that it says.
type handed struct {
	env    map[string]string
	hidden []string // values
	*secret.Redactor
}

// handOver opens the secrets that a function declares.
func (f *Flow) handOver(ctx context.Context, fn *manifest.Function) (handed, error) {
	values, err := f.secrets.Values(ctx, fn.Secrets())
	if err != nil {
		return handed{}, errdef.As(err).Errorf("%s:%d: %s: %w", fn.File, fn.Line, fn.Name, err)
	}
	h := handed{env: map[string]string{}}
	for _, name := range fn.Options.Secrets {
		h.env[name] = values[name]
	}
	for _, in := range fn.Inputs {
		if in.Kind == manifest.InSecret {
			h.env[parameterSecret+in.Secret] = values[in.Secret]
		}
	}
	h.hidden = slices.Sorted(maps.Values(values))
	h.Redactor = secret.NewRedactor(h.hidden...)
	return h, nil
}

// beneath hides also what the caller of a function got: it may come as an argument.
func (h handed) beneath(caller handed) handed {
	h.hidden = slices.Compact(slices.Sorted(slices.Values(slices.Concat(h.hidden, caller.hidden))))
	h.Redactor = secret.NewRedactor(h.hidden...)
	return h
}

// checkSecrets refuses what could not be handed over, before anything runs.
func (f *Flow) checkSecrets(ctx context.Context, c *code, nodes []*graph.Node) error {
	for _, n := range nodes {
		if len(n.Secrets()) == 0 {
			continue
		}
		if n.Language == manifest.SQL {
			return errSecretUse.Errorf("%s:%d: secrets= is for Python functions and scripts: SQL has no variables", n.File, n.Line)
		}
		for _, name := range n.Secrets() {
			if err := secret.CheckName(name); err != nil {
				return errdef.As(err).Errorf("%s:%d: %s: %w", n.File, n.Line, n.Name, err)
			}
		}
		spec, err := specOf(c, n.Function)
		if err != nil {
			return err
		}
		for _, name := range n.Options.Secrets {
			if _, both := spec.Vars[name]; both && n.Language == manifest.Python {
				return errSecretUse.Errorf("%s:%d: %s gets the variable %s from vars= of its environment and from secrets=. Keep one", n.File, n.Line, n.Name, name)
			}
		}
		if _, err := f.handOver(ctx, n.Function); err != nil {
			return err
		}
	}
	return nil
}

// message hides secrets in what one message of a runner tells. Names of results and of items stay.
func (h handed) message(m *message) {
	if h.Redactor == nil {
		return
	}
	m.Message, m.Traceback, m.Reason = h.Text(m.Message), h.Text(m.Traceback), h.Text(m.Reason)
	m.Value = h.JSON(m.Value)
	if m.Type != "output" {
		m.Name = h.Text(m.Name)
	}
	values := map[string]json.RawMessage{}
	for name, v := range m.Values {
		values[h.Text(name)] = h.JSON(v)
	}
	m.Values = values
	for i, name := range m.NotFound {
		m.NotFound[i] = h.Text(name)
	}
}

// answer hides secrets in an answer of a worker. An exception that has one in it travels by its name and text alone:
// a pickle cannot be changed.
func (h handed) answer(a *answer) {
	h.message(&a.message)
	if h.Text(string(a.Pickle)) != string(a.Pickle) {
		a.Pickle = nil
	}
}

// id tells values apart: a worker that has old ones is not for a new call.
func (h handed) id() string {
	sum := blake3.New()
	for _, name := range slices.Sorted(maps.Keys(h.env)) {
		fmt.Fprintf(sum, "%q=%q;", name, h.env[name]) //nolint:errcheck // a hash takes everything
	}
	fmt.Fprintf(sum, "%q", h.hidden) //nolint:errcheck // see above
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// failure hides secrets in an error: the engine quotes what a script wrote, say.
func (h handed) failure(err error) error {
	if err == nil || h.Redactor == nil {
		return err
	}
	e := *errdef.As(err)
	text := h.Text(e.Message)
	for key, v := range e.Details {
		e = *e.WithDetail(key, h.Value(v))
	}
	for i, next := range e.Next {
		e.Next = slices.Clone(e.Next)
		e.Next[i] = h.Text(next)
	}
	if text == e.Message {
		return &e
	}
	out := errdef.New(e.Code, e.Reason, text).WithNext(e.Next...)
	for key, v := range e.Details {
		out = out.WithDetail(key, v)
	}
	return out
}
