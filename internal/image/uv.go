package image

import (
	"archive/zip"
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/mod/semver"
)

const (
	// uvVersion is the release that is fetched when the host has none.
	uvVersion = "0.13.8"
	// oldestUV writes pylock.toml with one entry per wheel.
	oldestUV = "v0.8.0"
)

// environ is the part of a user's environment that decides where packages come from.
type environ map[string]string

// userVariables are the variables, and beginnings of them, that uv and pip look at. Nothing else
// reaches them: a token in the server's environment is none of a build script's business.
var userVariables = []string{
	"PATH", "HOME", "USER", "LANG", "TMPDIR", "NETRC", "UV_*", "PIP_*", "XDG_*", "PYENV_ROOT", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY",
}

// UserVariable reports whether an environment variable of the user's shell decides where packages and
// interpreters come from, so that whoever starts a server must pass it on.
func UserVariable(name string) bool {
	name = strings.ToUpper(name) // proxies are written in lower case too
	return slices.ContainsFunc(userVariables, func(v string) bool {
		prefix, isPrefix := strings.CutSuffix(v, "*")
		return name == v || isPrefix && strings.HasPrefix(name, prefix)
	})
}

func newEnviron(list []string) environ {
	e := environ{}
	for _, kv := range list {
		if name, value, ok := strings.Cut(kv, "="); ok && UserVariable(name) {
			e[name] = value
		}
	}
	// uv does not read pip's settings. Where only pip is configured, its index is the one meant.
	for _, m := range []struct{ pip, uv, older string }{
		{"PIP_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL"},
		{"PIP_EXTRA_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL"},
		{"PIP_CERT", "SSL_CERT_FILE", "SSL_CERT_DIR"},
	} {
		if v := e[m.pip]; v != "" && e[m.uv] == "" && e[m.older] == "" {
			e[m.uv] = v
		}
	}
	return e
}

func (e environ) get(name string) string { return e[name] }

func (e environ) list(extra ...string) []string {
	var out []string
	for k, v := range e {
		out = append(out, k+"="+v)
	}
	slices.Sort(out)
	return append(out, extra...)
}

// uvPath finds uv: on PATH, where its installer puts it, among what was fetched before; else fetches it.
func (s *Store) uvPath(ctx context.Context, progress func(string)) (string, error) {
	s.uv.Lock()
	defer s.uv.Unlock()
	if s.uvFound != "" {
		if _, err := os.Stat(s.uvFound); err == nil { // a server outlives many a virtual environment
			return s.uvFound, nil
		}
	}
	fetched := filepath.Join(s.dir, "uv-"+uvVersion)
	dirs := append(filepath.SplitList(s.env.get("PATH")), filepath.Join(s.env.get("HOME"), ".local/bin"))
	for _, dir := range dirs {
		file := filepath.Join(dir, "uv")
		if st, err := os.Stat(file); err != nil || !filepath.IsAbs(dir) || st.IsDir() || st.Mode()&0o111 == 0 {
			continue
		}
		cmd := exec.CommandContext(ctx, file, "--version")
		cmd.Env = s.env.list()
		out, err := cmd.Output()
		fields := strings.Fields(string(out)) // "uv 0.13.8 (x86_64-unknown-linux-gnu)"
		if err == nil && len(fields) >= 2 && semver.Compare("v"+fields[1], oldestUV) >= 0 {
			s.uvFound = file
			return file, nil
		}
	}
	if _, err := os.Stat(fetched); err != nil {
		if err := s.fetchUV(ctx, fetched, progress); err != nil {
			return "", err
		}
	}
	s.uvFound = fetched
	return fetched, nil
}

// fetchUV takes uv's wheel from the user's package index by way of pip, which knows the user's settings,
// and puts the program in it at dst.
func (s *Store) fetchUV(ctx context.Context, dst string, progress func(string)) error {
	release, err := s.lock(ctx, "uv")
	if err != nil {
		return err
	}
	defer release()
	if _, err := os.Stat(dst); err == nil {
		return nil // another process was faster
	}
	all, err := s.Interpreters(ctx)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(s.dir, ".uv-*")
	if err != nil {
		return classify(err)
	}
	defer os.RemoveAll(tmp) //nolint:errcheck // a leftover of a failed fetch is harmless
	tried := errors.New("no Python with pip was found")
	for _, p := range all {
		if exec.CommandContext(ctx, p.Path, "-m", "pip", "--version").Run() != nil {
			continue
		}
		progress("fetching uv " + uvVersion)
		out, err := s.run(ctx, command{
			argv: []string{
				p.Path, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
				"--only-binary", ":all:", "--dest", tmp, "uv==" + uvVersion,
			},
			dir: tmp, env: s.env.list(),
		})
		if err != nil {
			tried = uvError("fetch uv by pip", out)
			continue
		}
		wheels, err := filepath.Glob(filepath.Join(tmp, "uv-*.whl"))
		if err != nil || len(wheels) != 1 {
			return ErrNoResolver.Errorf("pip fetched no uv %s: %v", uvVersion, wheels)
		}
		return unpackUV(wheels[0], dst)
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return ErrNoResolver.Errorf("uv was not found and could not be fetched: %w", tried).
		WithNext("install uv (pip install uv), or give this machine access to a package index")
}

func unpackUV(wheel, dst string) (err error) {
	z, err := zip.OpenReader(wheel)
	if err != nil {
		return ErrNoResolver.Errorf("open uv's wheel: %w", err)
	}
	defer func() { err = errors.Join(err, z.Close()) }()
	for _, f := range z.File {
		if path.Base(f.Name) != "uv" || !strings.Contains(f.Name, ".data/scripts/") {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return err
		}
		b, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
		tmp := wheel + ".uv"
		if err := os.WriteFile(tmp, b, 0o755); err != nil {
			return classify(err)
		}
		return os.Rename(tmp, dst)
	}
	return ErrNoResolver.Errorf("uv's wheel %s holds no uv", filepath.Base(wheel))
}

// uvCommand runs uv with our cache and without anything that depends on this terminal. what names the
// purpose in errors. Lines of its stderr go to progress as they come.
func (s *Store) uvCommand(ctx context.Context, what, dir, stdin string, progress func(string), args ...string) error {
	uv, err := s.uvPath(ctx, progress)
	if err != nil {
		return err
	}
	given, err := logins(ctx, namedIn(args))
	if err != nil {
		return err
	}
	out, err := s.run(ctx, command{
		argv: append([]string{uv}, args...), dir: dir, stdin: stdin, progress: hiding(progress),
		env: s.env.with(given).list("UV_CACHE_DIR="+filepath.Join(s.dir, "uv"), "UV_NO_PROGRESS=1", "UV_PYTHON_DOWNLOADS=never", "NO_COLOR=1", "UV_LINK_MODE=hardlink"),
	})
	var exit *exec.ExitError
	if errors.As(err, &exit) && context.Cause(ctx) == nil {
		return uvError(what, out)
	}
	return err
}

type command struct {
	argv     []string
	dir      string
	env      []string
	stdin    string
	progress func(string)
}

// run runs a program to its end and returns what it wrote to stderr. The whole process group dies with
// ctx, and with this process.
func (s *Store) run(ctx context.Context, c command) (string, error) {
	cmd := exec.CommandContext(ctx, c.argv[0], c.argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdin = c.dir, c.env, strings.NewReader(c.stdin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	var stderr lines
	stderr.each = c.progress
	cmd.Stderr = &stderr
	done := make(chan error, 1)
	go func() {
		// The parent-death signal fires when the thread that started the child ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		done <- cmd.Run()
	}()
	err := <-done
	if err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	return stderr.all.String(), err
}

// lines keeps what is written and hands on each line.
type lines struct {
	all  bytes.Buffer
	rest []byte
	each func(string)
}

func (l *lines) Write(p []byte) (int, error) {
	l.all.Write(p)
	if l.each == nil {
		return len(p), nil
	}
	l.rest = append(l.rest, p...)
	for {
		n, line, err := bufio.ScanLines(l.rest, false)
		if n == 0 || err != nil {
			return len(p), nil
		}
		if text := strings.TrimSpace(string(line)); text != "" {
			l.each(text)
		}
		l.rest = l.rest[n:]
	}
}
