package cli

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/room/roomtest"
	"tarn.dev/tarn/internal/system/home"
)

// place is a home and a project for commands of one test, outside of scripts.
type place struct {
	t    *testing.T
	home home.Home
	dir  string
	env  []string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	h, err := home.At(filepath.Join(t.TempDir(), "home"))
	if err != nil {
		t.Fatal(err)
	}
	p := &place{t: t, home: h, dir: filepath.Join(t.TempDir(), "p")}
	p.env = append(os.Environ(), "TARN_HOME="+h.Dir, "TARN_CACHE="+t.TempDir(), "TARN_URL=", "TARN_BRANCH=")
	if err := os.Mkdir(p.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p.must("init", "--project", "p")
	t.Cleanup(func() { p.must("server", "stop") })
	return p
}

func (p *place) command(args ...string) *exec.Cmd {
	// On PATH, where this binary is called tarn: the server and its children find themselves by name.
	c := bounded(p.t, "tarn", args...)
	c.Dir, c.Env = p.dir, p.env
	return c
}

// patience is longer than any command here takes on a busy machine.
const patience = 3 * time.Minute

// bounded is a command that fails the test instead of keeping it forever, also while something that it
// left behind holds its output open.
func bounded(t *testing.T, name string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), patience) // t.Context ends before cleanups run
	t.Cleanup(cancel)
	c := exec.CommandContext(ctx, name, args...)
	c.WaitDelay = 10 * time.Second
	c.Cancel = func() error {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			t.Errorf("%s %s has not ended after %s", name, strings.Join(args, " "), patience)
		}
		return c.Process.Kill()
	}
	return c
}

func (p *place) must(args ...string) string {
	p.t.Helper()
	out, err := p.command(args...).CombinedOutput()
	if err != nil {
		p.t.Fatalf("tarn %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// halfPut starts a put from stdin and returns when a good part of the file is on its way.
func (p *place) halfPut() (c *exec.Cmd, stdin io.WriteCloser, stderr *bytes.Buffer) {
	p.t.Helper()
	c = p.command("file", "put", "-", "big.bin")
	stderr = &bytes.Buffer{}
	c.Stderr = stderr
	stdin, err := c.StdinPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		p.t.Fatal(err)
	}
	// More than all buffers between here and the store hold, so that the server has taken some.
	if _, err := stdin.Write(bytes.Repeat([]byte("0123456789abcdef"), 4<<20)); err != nil {
		p.t.Fatalf("%v\n%s", err, stderr)
	}
	return c, stdin, stderr
}

// unchanged tells that the project is as it was made, and whole.
func (p *place) unchanged() {
	p.t.Helper()
	if out := p.must("file", "ls", "-r"); out != "" {
		p.t.Errorf("main holds %s", out)
	}
	p.must("fsck", "--deep")
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return exit.ExitCode()
}

func TestInterruptedPut(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c, stdin, stderr := p.halfPut()
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	code := exitCode(t, c.Wait())
	stdin.Close()
	if code != 130 || !strings.Contains(stderr.String(), "canceled") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	p.unchanged()
}

func TestServerKilledDuringPut(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c, stdin, stderr := p.halfPut()
	holder, _ := p.home.Holder()
	if err := syscall.Kill(holder.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// The command learns of it when it next sends something.
	io.Copy(stdin, zeros{}) //nolint:errcheck // it ends with a broken pipe
	if code := exitCode(t, c.Wait()); code != 8 || !strings.Contains(stderr.String(), "the server went away") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	p.unchanged()
}

// A put that is repeated after the server was killed stores what is missing.
func TestPutIsContinued(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	const size = 160 << 20
	file := filepath.Join(t.TempDir(), "big.bin")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.NewChaCha8([32]byte{1}), size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	p.must("status")
	c := p.command("file", "put", "-", "big.bin")
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	// Far more than all buffers between here and the store hold, so that most of it is stored.
	if _, err := io.CopyN(stdin, rand.NewChaCha8([32]byte{1}), size); err != nil {
		t.Fatal(err)
	}
	holder, _ := p.home.Holder()
	if err := syscall.Kill(holder.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	if code := exitCode(t, c.Wait()); code != 8 {
		t.Errorf("the put exits %d", code)
	}
	var put struct {
		Bytes, Reused int64
		Written       struct{ Changed bool }
	}
	if err := json.Unmarshal([]byte(p.must("file", "put", file, "big.bin", "--json")), &put); err != nil {
		t.Fatal(err)
	}
	if put.Bytes != size || put.Reused < 60<<20 || !put.Written.Changed {
		t.Errorf("%+v", put)
	}
	p.must("fsck", "--deep")
}

// A get that was interrupted goes on where it stopped, and does not believe what it finds.
func TestGetIsContinued(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	const size = 20 << 20
	data := make([]byte, size)
	rand.NewChaCha8([32]byte{2}).Read(data) //nolint:errcheck // never fails
	file := filepath.Join(p.dir, "big.bin")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	p.must("file", "put", file, "big.bin")
	sum := blake3.Sum256([]byte("big.bin"))
	part := filepath.Join(p.dir, ".tarn-part-"+hex.EncodeToString(sum[:16]))
	damaged := append(bytes.Clone(data[:9<<20]), 1)
	for _, c := range []struct {
		what   string
		left   []byte // by the one that was interrupted
		copied int64  // now
	}{
		{"half of it", data[:10<<20], size - 10<<20},
		{"all of it", data, 0},
		{"something else", damaged, size},
		{"too much", append(bytes.Clone(data), 1), size},
	} {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(part, c.left, 0o600); err != nil {
			t.Fatal(err)
		}
		var got struct{ Bytes int64 }
		if err := json.Unmarshal([]byte(p.must("file", "get", "big.bin", "--json")), &got); err != nil {
			t.Fatal(err)
		}
		if got.Bytes != c.copied {
			t.Errorf("%s was there: %d bytes were copied, not %d", c.what, got.Bytes, c.copied)
		}
		if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, data) {
			t.Errorf("%s was there: the copy is not what was stored (%v)", c.what, err)
		}
		if _, err := os.Lstat(part); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s was there: a part is left: %v", c.what, err)
		}
	}

	held, err := os.Create(part)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if out, err := p.command("file", "get", "big.bin").CombinedOutput(); exitCode(t, err) != 7 || !strings.Contains(string(out), "another tarn is copying to big.bin") {
		t.Errorf("while another one copies: %v, %s", err, out)
	}
}

// A disk that gets full leaves no half of a file, and with more room the same command goes on.
func TestGetToAFullDisk(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	disk := roomtest.Disk(t, "16m")
	data := make([]byte, 12<<20)
	rand.NewChaCha8([32]byte{3}).Read(data) //nolint:errcheck // never fails
	for name, content := range map[string][]byte{"in/big.bin": data, "in/small.bin": data[:6<<20]} {
		c := p.command("file", "put", "-", name)
		c.Stdin = bytes.NewReader(content)
		if out, err := c.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	ballast := filepath.Join(disk, "ballast")
	if err := os.WriteFile(ballast, data[:4<<20], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"in/small.bin", "in/big.bin"} {
		out, err := p.command("file", "get", name, disk+"/").CombinedOutput()
		if name == "in/small.bin" {
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			continue
		}
		if code := exitCode(t, err); code != 8 || !strings.Contains(string(out), "big.bin: no space left on device") {
			t.Errorf("exit %d: %s", code, out)
		}
		if _, err := os.Lstat(filepath.Join(disk, "big.bin")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("half of a file has its name: %v", err)
		}
	}
	for _, name := range []string{"ballast", "small.bin"} {
		if err := os.Remove(filepath.Join(disk, name)); err != nil {
			t.Fatal(err)
		}
	}
	p.must("file", "get", "in/big.bin", disk+"/")
	if got, err := os.ReadFile(filepath.Join(disk, "big.bin")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("the copy is not what was stored (%v)", err)
	}
}

func TestServerStoppedDuringPut(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	c, stdin, stderr := p.halfPut()
	p.must("server", "stop")
	io.Copy(stdin, zeros{}) //nolint:errcheck // it ends with a broken pipe
	if code := exitCode(t, c.Wait()); code != 8 && code != 130 {
		t.Errorf("exit %d: %s", code, stderr)
	}
	p.unchanged()
}

// zeros never ends.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// Two commands that write to one branch at the same time both land.
func TestConcurrentPuts(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	p.must("status")
	var commands []*exec.Cmd
	for i := range 8 {
		c := p.command("file", "put", "-", string(rune('a'+i)))
		c.Stdin = strings.NewReader("content")
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		commands = append(commands, c)
	}
	for _, c := range commands {
		if err := c.Wait(); err != nil {
			t.Error(err)
		}
	}
	if n := strings.Count(p.must("file", "ls"), "\n"); n != 8 {
		t.Errorf("%d of 8 files landed", n)
	}
	if n := strings.Count(p.must("log", "--limit", "0"), "Put "); n != 8 {
		t.Errorf("%d of 8 commits landed", n)
	}
	p.must("fsck")
	if err := p.home.AwaitFree(ended()); err == nil {
		t.Error("the server does not hold its home")
	}
}

func ended() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(nil)
	return ctx
}
