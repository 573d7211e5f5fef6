package server

import (
	"context"
	"path/filepath"

	"connectrpc.com/connect"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow"
)

type envService struct{ projects Projects }

func (s *envService) open(ctx context.Context, project, dir string) (*flow.Flow, error) {
	if err := checkDir(dir); err != nil {
		return nil, err
	}
	p, err := s.projects.Open(ctx, project)
	if err != nil {
		return nil, err
	}
	return p.Flow, nil
}

func (s *envService) List(ctx context.Context, in *tarnv1.ListEnvsRequest) (*tarnv1.ListEnvsResponse, error) {
	f, err := s.open(ctx, in.GetProject(), in.GetDir())
	if err != nil {
		return nil, err
	}
	envs, err := f.Environments(ctx, in.GetDir())
	if err != nil {
		return nil, err
	}
	if name := in.GetName(); name != "" {
		e, err := flow.ChooseEnvironment(envs, name)
		if err != nil {
			return nil, err
		}
		envs = []flow.Environment{e}
	}
	return &tarnv1.ListEnvsResponse{Environments: toEnvs(envs...)}, nil
}

func (s *envService) Lock(ctx context.Context, in *tarnv1.LockEnvsRequest, out *connect.ServerStream[tarnv1.EnvProgress]) error {
	f, err := s.open(ctx, in.GetProject(), in.GetDir())
	if err != nil {
		return err
	}
	p := newProgress(out)
	envs, err := f.LockEnvironments(ctx, in.GetDir(), in.GetUpgrade(), p.say)
	return p.end(envs, err)
}

func (s *envService) Sync(ctx context.Context, in *tarnv1.SyncEnvRequest, out *connect.ServerStream[tarnv1.EnvProgress]) error {
	if !filepath.IsAbs(in.GetTarget()) {
		return errdef.Newf(errdef.InvalidArgument, "server.dir", "the folder %q is not an absolute path", in.GetTarget())
	}
	f, err := s.open(ctx, in.GetProject(), in.GetDir())
	if err != nil {
		return err
	}
	p := newProgress(out)
	env, err := f.SyncEnvironment(ctx, in.GetDir(), in.GetName(), in.GetTarget(), p.say)
	return p.end([]flow.Environment{env}, err)
}

// progress sends lines while something works, and its outcome. A stream has one writer at a time, and
// lines come from wherever the work is done.
type progress struct {
	stream *connect.ServerStream[tarnv1.EnvProgress]
	lines  chan string
	sent   chan error
}

func newProgress(stream *connect.ServerStream[tarnv1.EnvProgress]) *progress {
	p := &progress{stream: stream, lines: make(chan string, 16), sent: make(chan error, 1)}
	go func() {
		var failed error
		for line := range p.lines {
			if failed == nil { // the reader is gone; the work's own context tells the work
				failed = stream.Send(&tarnv1.EnvProgress{Message: line})
			}
		}
		p.sent <- failed
	}()
	return p
}

func (p *progress) say(line string) { p.lines <- line }

func (p *progress) end(envs []flow.Environment, err error) error {
	close(p.lines)
	if failed := <-p.sent; err == nil {
		err = failed
	}
	if err != nil {
		return err
	}
	return p.stream.Send(&tarnv1.EnvProgress{Environments: toEnvs(envs...)})
}

func toEnvs(envs ...flow.Environment) []*tarnv1.Environment {
	var out []*tarnv1.Environment
	for _, e := range envs {
		env := &tarnv1.Environment{Name: e.Spec.Name, Python: e.Spec.Python, Requirements: e.Spec.Packages, Functions: e.Functions, Ready: e.Ready, Indexes: e.Spec.Indexes, Build: e.Spec.Build}
		if e.Lock != nil {
			env.Indexes = e.Lock.Indexes
			env.Lock, env.Python = e.Lock.ID, e.Lock.Python
			for _, p := range e.Lock.Packages {
				text := p.Name + "==" + p.Version
				if p.Path != "" {
					text += " (" + p.Path + ")"
				}
				env.Packages = append(env.Packages, text)
			}
		}
		out = append(out, env)
	}
	return out
}
