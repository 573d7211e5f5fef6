// Package s3test runs a real S3 server for tests: versitygw over a folder, behind a proxy on loopback that can
// break what passes through it.
//
// versitygw is a tool, put on PATH by tools/setup, and no dependency of the module. It keeps the promises that
// s3blob needs: of puts with "If-None-Match: *" that race for one name, single or in parts, one succeeds.
package s3test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// What the server accepts.
const (
	Key    = "tarn-test"
	Secret = "tarn-test-secret"
	Region = "us-east-1"
)

// Server is a running S3 server.
type Server struct {
	URL string // of its proxy

	root  string
	mu    sync.Mutex
	fault Fault
}

// Fault sees each request on its way to the server. It passes it on by next, or breaks it as it likes.
type Fault func(w http.ResponseWriter, r *http.Request, next http.Handler)

// Start starts a server that lives until the end of t.
func Start(t testing.TB) *Server {
	t.Helper()
	program, err := exec.LookPath("versitygw")
	if err != nil {
		t.Fatal("versitygw is not on PATH: tools/setup dev puts it into .cache/gobin")
	}
	// Not t.TempDir: a socket's path has 107 bytes at most, and names of tests are long.
	dir, err := os.MkdirTemp("", "s3-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s := &Server{root: filepath.Join(dir, "buckets")}
	side := filepath.Join(dir, "side") // attributes of objects: not every file system has its own
	if err := errors.Join(os.Mkdir(s.root, 0o700), os.Mkdir(side, 0o700)); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "socket")
	s.run(t, exec.Command(program, "--port", socket, "--region", Region, "posix", "--sidecar", side, s.root))
	proxy := httptest.NewServer(s.through(socket))
	t.Cleanup(proxy.Close)
	s.URL = proxy.URL
	return s
}

// run starts the program and waits until it says that it listens.
func (s *Server) run(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+Key, "ROOT_SECRET_KEY="+Secret)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	ended, started, ready := make(chan struct{}), make(chan error, 1), make(chan string, 1)
	go func() {
		runtime.LockOSThread() // the signal comes when the thread ends that started the process
		defer close(ended)
		err := cmd.Start()
		if started <- err; err != nil {
			return
		}
		var said []string
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if said = append(said, lines.Text()); strings.HasPrefix(lines.Text(), "└") { // the last line of what it prints once it listens
				ready <- ""
				said = nil
			}
		}
		_ = cmd.Wait() // it was killed, or what it said tells more
		select {
		case ready <- strings.Join(said, "\n"):
		default:
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		<-ended
	})
	if failed := <-ready; failed != "" {
		t.Fatalf("versitygw did not start:\n%s", failed)
	}
}

func (s *Server) through(socket string) http.Handler {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "s3"})
	proxy.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	proxy.FlushInterval = -1 // a reader gets what was sent before a fault
	proxy.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		fault := s.fault
		s.mu.Unlock()
		if fault == nil {
			proxy.ServeHTTP(w, r)
			return
		}
		fault(w, r, proxy)
	})
}

// Break lets every request from now on go through fault; nil is no fault.
func (s *Server) Break(fault Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

// Bucket makes an empty bucket. The server takes every folder for one.
func (s *Server) Bucket(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(s.root, "bucket-")
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Base(dir)
}

// Client speaks to the server.
func (s *Server) Client() *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: &s.URL, Region: Region, UsePathStyle: true,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: Key, SecretAccessKey: Secret}, nil
		}),
	})
}

// Env is what a process needs to use any of the servers.
func Env() []string {
	return []string{
		"AWS_ACCESS_KEY_ID=" + Key, "AWS_SECRET_ACCESS_KEY=" + Secret, "AWS_REGION=" + Region,
		"AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true",
	}
}
