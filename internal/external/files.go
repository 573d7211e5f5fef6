package external

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"

	"tarn.dev/tarn/internal/base/errdef"
)

// files is the source of this host's files.
type files struct{}

// stateOf is a file by what the kernel knows of it. A file that is replaced by another of the same size and time has
// another inode.
func stateOf(u *url.URL, info fs.FileInfo) State {
	etag := fmt.Sprintf("%x", info.ModTime().UnixNano())
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		etag = fmt.Sprintf("%x-%s", st.Ino, etag)
	}
	return State{URL: u.String(), ETag: etag, Size: info.Size(), Modified: info.ModTime()}
}

// pathOf is the file that a URL names.
func pathOf(u *url.URL) (string, error) {
	if u.Host != "" && u.Host != "localhost" || u.RawQuery != "" || !path.IsAbs(u.Path) {
		return "", ErrURL.Errorf("%.200q: the URL of a file is file:///PATH, on the host of the server", u)
	}
	return filepath.FromSlash(u.Path), nil
}

func classifyFile(u *url.URL, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return ErrGone.Errorf("%s: no such file or folder", u)
	case errors.Is(err, fs.ErrPermission):
		return ErrDenied.Errorf("%s: %w", u, err).WithNext("let the user that the server runs as read it")
	}
	return errdef.Newf(errdef.Unavailable, "external.disk", "%s: %w", u, err)
}

// Find implements Source. Links to files are followed, links to folders are refused: they may lead round in a circle.
func (s files) Find(ctx context.Context, u *url.URL) iter.Seq2[Found, error] {
	return func(yield func(Found, error) bool) {
		file, err := pathOf(u)
		if err != nil {
			yield(Found{}, err)
			return
		}
		info, err := os.Stat(file)
		if err != nil {
			yield(Found{}, classifyFile(u, err))
			return
		}
		if !info.IsDir() {
			state, err := s.Stat(ctx, u)
			yield(Found{State: state, Name: filepath.Base(file), One: true}, err)
			return
		}
		prefix := ""
		if !strings.HasSuffix(u.Path, "/") {
			prefix = filepath.Base(file)
		}
		stopped := errors.New("stopped")
		err = filepath.WalkDir(filepath.Clean(file), func(name string, d fs.DirEntry, err error) error {
			at := &url.URL{Scheme: u.Scheme, Path: filepath.ToSlash(name)}
			switch {
			case err != nil:
				return classifyFile(at, err)
			case ctx.Err() != nil:
				return context.Cause(ctx)
			case d.IsDir():
				return nil
			}
			state, err := s.Stat(ctx, at)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(file, name)
			if err != nil {
				return classifyFile(at, err)
			}
			if !yield(Found{State: state, Name: path.Join(prefix, filepath.ToSlash(rel))}, nil) {
				return stopped
			}
			return nil
		})
		if err != nil && !errors.Is(err, stopped) {
			yield(Found{}, err)
		}
	}
}

// Stat implements Source.
func (files) Stat(_ context.Context, u *url.URL) (State, error) {
	file, err := pathOf(u)
	if err != nil {
		return State{}, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return State{}, classifyFile(u, err)
	}
	if !info.Mode().IsRegular() {
		return State{}, ErrURL.Errorf("%s is not a regular file (%s)", u, info.Mode().Type())
	}
	return stateOf(u, info), nil
}

// Open implements Source. A file that is written to while it is read ends in an error.
func (s files) Open(ctx context.Context, u *url.URL, _ string, part Part) (io.ReadCloser, State, error) {
	if _, err := s.Stat(ctx, u); err != nil { // opening a pipe would wait for its writer
		return nil, State{}, err
	}
	f, err := os.Open(filepath.FromSlash(u.Path))
	if err != nil {
		return nil, State{}, classifyFile(u, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, State{}, errors.Join(classifyFile(u, err), f.Close())
	}
	if _, err := f.Seek(part.Offset, io.SeekStart); err != nil {
		return nil, State{}, errors.Join(classifyFile(u, err), f.Close())
	}
	state := stateOf(u, info)
	return &steady{File: f, url: u, state: state, left: part.End(state.Size) - part.Offset}, state, nil
}

// steady is a file that must not change while it is read.
type steady struct {
	*os.File
	url   *url.URL
	state State
	left  int64
}

// Read implements io.Reader. It looks after each read, for who reads a part never comes to the end.
func (s *steady) Read(p []byte) (int, error) {
	if s.left <= 0 {
		return 0, io.EOF
	}
	n, err := s.File.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, classifyFile(s.url, err)
	}
	info, statErr := s.Stat()
	if statErr != nil {
		return 0, classifyFile(s.url, statErr)
	}
	if now := stateOf(s.url, info); !s.state.Same(now) {
		return 0, ErrChanged.Errorf("%s was written to while it was read: first %s, then %s", s.url, s.state, now)
	}
	return n, err
}
