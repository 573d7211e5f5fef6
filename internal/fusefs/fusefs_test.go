package fusefs

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/base/service"
)

// mapRole is the variable that makes this binary print the hash of a file that it maps into its memory.
const mapRole = "FUSEFS_MAP"

// holdRole is the variable that makes this binary mount something on a folder, say so and stay.
const holdRole = "FUSEFS_HOLD"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == Role {
		os.Exit(GuardMain())
	}
	if dir := os.Getenv(holdRole); dir != "" {
		if err := New(dir, some(), Options{Source: "held", Report: func(string, error) {}}).Start(context.Background()); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("mounted")
		select {}
	}
	if name := os.Getenv(mapRole); name != "" {
		if err := printMapped(name); err != nil {
			fmt.Print(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func printMapped(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	fmt.Printf("%x", sha256.Sum256(mapped))
	return nil
}

// memory is a tree of files in memory: by path, "" for a folder's content.
type memory struct {
	files  map[string][]byte
	modes  map[string]fs.FileMode
	target map[string]string
	paths  []string // of files, in order

	asked  atomic.Int64 // calls, all together
	broken func(Part) error
}

func newMemory(files map[string][]byte) *memory {
	m := &memory{files: files, modes: map[string]fs.FileMode{}, target: map[string]string{}, broken: func(Part) error { return nil }}
	for p := range files {
		m.paths = append(m.paths, p)
	}
	slices.Sort(m.paths)
	return m
}

func (m *memory) file(p string) Entry {
	return Entry{Name: filepath.Base(p), Size: int64(len(m.files[p])), Mode: m.modes[p], Target: m.target[p]}
}

func (m *memory) Look(_ context.Context, folder, name string) (Entry, error) {
	m.asked.Add(1)
	at := join(folder, name)
	if _, ok := m.files[at]; ok {
		return m.file(at), nil
	}
	i, _ := slices.BinarySearch(m.paths, at+"/")
	if i < len(m.paths) && strings.HasPrefix(m.paths[i], at+"/") {
		return Entry{Name: name, Mode: fs.ModeDir}, nil
	}
	return Entry{}, fs.ErrNotExist
}

func (m *memory) List(_ context.Context, folder string, after *Entry) (entries []Entry, more bool, err error) {
	m.asked.Add(1)
	prefix := join(folder, "")
	from := prefix
	if after != nil {
		if from += after.Name; after.Mode.IsDir() {
			from += "/\xff"
		} else {
			from += "\x00"
		}
	}
	for i, _ := slices.BinarySearch(m.paths, from); i < len(m.paths) && strings.HasPrefix(m.paths[i], prefix); i++ {
		if len(entries) == 100 {
			return entries, true, nil
		}
		name, _, isFolder := strings.Cut(m.paths[i][len(prefix):], "/")
		if !isFolder {
			entries = append(entries, m.file(m.paths[i]))
			continue
		}
		entries = append(entries, Entry{Name: name, Mode: fs.ModeDir})
		j, _ := slices.BinarySearch(m.paths, prefix+name+"/\xff")
		i = j - 1
	}
	return entries, false, nil
}

func (m *memory) Read(_ context.Context, p Part) iter.Seq2[Piece, error] {
	m.asked.Add(1)
	return func(yield func(Piece, error) bool) {
		if err := m.broken(p); err != nil {
			yield(Piece{}, err)
			return
		}
		data := m.files[p.Path]
		for at, end := p.Offset, min(p.Offset+p.Length, int64(len(data))); at < end; {
			n := min(300_000, end-at) // not what blocks are
			if !yield(Piece{p.Path, at, data[at : at+n]}, nil) {
				return
			}
			at += n
		}
		if p.Offset > 0 || len(data) > smallFile {
			return
		}
		i, _ := slices.BinarySearch(m.paths, p.Path)
		for _, next := range m.paths[i+1:] {
			n := int64(len(m.files[next]))
			if n > smallFile {
				return
			}
			if p.More -= n; p.More < 0 {
				yield(Piece{Path: next}, nil)
				return
			}
			if !yield(Piece{Path: next, Data: m.files[next]}, nil) {
				return
			}
		}
	}
}

// reports is what a mount reported.
type reports struct {
	mu    sync.Mutex
	lines []string
}

func (r *reports) add(path string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, path+": "+err.Error())
}

func (r *reports) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}

var committed = time.Date(2024, 2, 3, 4, 5, 6, 7, time.UTC)

func usableHere(t *testing.T) {
	t.Helper()
	if f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0); err != nil {
		t.Skipf("FUSE cannot be used here: %v", err)
	} else if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// mounted mounts a tree until the test ends.
func mounted(t *testing.T, tree Tree) (dir string, m service.Service, said *reports) {
	t.Helper()
	usableHere(t)
	dir, said = t.TempDir(), &reports{}
	m = New(dir, tree, Options{Source: "test", Time: committed, Report: said.add})
	if err := m.Start(context.Background()); err != nil { // t.Context ends before cleanups
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Stop(); err != nil {
			t.Error(err)
		}
	})
	return dir, m, said
}

func random(seed uint64, size int) []byte {
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	data := make([]byte, size)
	_, _ = rand.NewChaCha8(key).Read(data) // never fails
	return data
}

// some is a tree with what is worth looking at.
func some() *memory {
	m := newMemory(map[string][]byte{
		"a.txt": []byte("hello"), "empty": {}, "a/b/c/deep": random(1, 1000), "a/b.bin": random(2, 3<<20+17), "a.d/x": []byte("x"),
		"run": []byte("#!/bin/sh\necho ran\n"), "to": {}, "block": random(3, blockSize), "small": random(4, smallFile), "larger": random(5, smallFile+1),
	})
	m.modes["run"] = 0o755
	m.modes["to"], m.target["to"] = fs.ModeSymlink, "a/b.bin"
	return m
}

func TestShowsTheTree(t *testing.T) {
	t.Parallel()
	tree := some()
	dir, _, said := mounted(t, tree)
	for range 2 { // fresh, and as the kernel remembers it
		seen := 0
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			seen++
			rel := strings.TrimPrefix(name, dir+"/")
			info, err := d.Info()
			if err != nil {
				return err
			}
			if !info.ModTime().Equal(committed) {
				t.Errorf("%s is of %s", rel, info.ModTime())
			}
			if target := tree.target[rel]; target != "" {
				if got, err := os.Readlink(name); got != target || err != nil {
					t.Errorf("%s -> %s, %v", rel, got, err)
				}
				return nil
			}
			if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, tree.files[rel]) {
				t.Errorf("%s: %d bytes, not the %d it has: %v", rel, len(got), len(tree.files[rel]), err)
			}
			if info.Mode()&0o111 != 0 != (rel == "run") {
				t.Errorf("%s has the mode %s", rel, info.Mode())
			}
			return nil
		})
		if err != nil || seen != len(tree.files) {
			t.Errorf("%d files, not %d: %v", seen, len(tree.files), err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(dir, "to")); err != nil || !bytes.Equal(got, tree.files["a/b.bin"]) {
		t.Errorf("through the link: %d bytes, %v", len(got), err)
	}
	for _, name := range []string{"nothing", "a/nothing", "a.txt/below", "a/b/c/deep2"} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := said.String(); got != "" {
		t.Errorf("reported: %s", got)
	}
}

func TestIsReadOnly(t *testing.T) {
	t.Parallel()
	dir, _, _ := mounted(t, some())
	file := filepath.Join(dir, "a.txt")
	for what, try := range map[string]func() error{
		"create": func() error { return os.WriteFile(filepath.Join(dir, "new"), nil, 0o600) },
		"write":  func() error { return os.WriteFile(file, []byte("x"), 0o600) },
		"mkdir":  func() error { return os.Mkdir(filepath.Join(dir, "new"), 0o700) },
		"remove": func() error { return os.Remove(file) },
		"rename": func() error { return os.Rename(file, filepath.Join(dir, "new")) },
		"chmod":  func() error { return os.Chmod(file, 0o600) },
		"touch":  func() error { return os.Chtimes(file, committed, time.Now()) },
		"link":   func() error { return os.Symlink("a.txt", filepath.Join(dir, "new")) },
	} {
		if err := try(); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Readers at random places, and straight on, at once and mapped into memory: each sees the bytes that are there.
func TestReadersAtOnce(t *testing.T) {
	t.Parallel()
	files := map[string][]byte{"big": random(7, 20<<20+12345), "bigger": random(8, 30<<20)}
	for i := range 300 {
		files[fmt.Sprintf("small/%03d", i)] = random(uint64(100+i), i*400)
	}
	tree := newMemory(files)
	dir, _, _ := mounted(t, tree)
	var readers sync.WaitGroup
	for r := range uint64(6) {
		readers.Go(func() {
			from := rand.New(rand.NewPCG(r, 1))
			for range 150 {
				name := tree.paths[from.IntN(len(tree.paths))]
				if from.IntN(3) == 0 {
					name = []string{"big", "bigger"}[from.IntN(2)]
				}
				f, err := os.Open(filepath.Join(dir, name))
				if err != nil {
					t.Error(err)
					return
				}
				want := files[name]
				at := from.IntN(len(want) + 1)
				got := make([]byte, min(from.IntN(2<<20), len(want)-at))
				if _, err := f.ReadAt(got, int64(at)); err != nil || !bytes.Equal(got, want[at:at+len(got)]) {
					t.Errorf("%s: %d bytes at %d are others: %v", name, len(got), at, err)
				}
				if err := f.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	readers.Go(func() {
		if got, err := os.ReadFile(filepath.Join(dir, "big")); err != nil || !bytes.Equal(got, files["big"]) {
			t.Errorf("straight on: %d bytes, %v", len(got), err)
		}
	})
	readers.Go(func() {
		// In another process: one that waits for a page of its own mount can stop for no garbage collection.
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), mapRole+"="+filepath.Join(dir, "bigger"))
		want := fmt.Sprintf("%x", sha256.Sum256(files["bigger"]))
		if got, err := c.CombinedOutput(); err != nil || string(got) != want {
			t.Errorf("mapped: %s, not %s: %v", got, want, err)
		}
	})
	readers.Wait()
}

// Who reads files or a file in order gets them in few calls, and a second time from the kernel.
func TestReadsAhead(t *testing.T) {
	t.Parallel()
	const n = 2000
	files := map[string][]byte{}
	for i := range n {
		files[fmt.Sprintf("many/%02d/%04d", i/100, i)] = random(uint64(i), 1000)
	}
	files["one"] = random(1, 64<<20)
	tree := newMemory(files)
	dir, _, _ := mounted(t, tree)
	walk := func() {
		t.Helper()
		err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				var got []byte
				if got, err = os.ReadFile(name); err == nil && !bytes.Equal(got, files[strings.TrimPrefix(name, dir+"/")]) {
					err = fmt.Errorf("%s has other bytes", name)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	walk()
	// 22 folders, 2 MB in batches that grow to 1 MiB, 64 MiB in windows that grow to 4.
	first := tree.asked.Swap(0)
	if first > 100 {
		t.Errorf("%d calls for %d small files and a large one", first, n)
	}
	walk()
	// None, unless other programs need the memory that the kernel keeps them in.
	again := tree.asked.Load()
	if again > first/2 {
		t.Errorf("%d calls for what the kernel has, after %d", again, first)
	}
	t.Logf("%d calls, then %d", first, again)
}

// A folder of very many files is listed by pages, and costs little for each. Nothing runs beside it: it measures memory.
func TestManyFiles(t *testing.T) {
	const n = 100_000
	files := make(map[string][]byte, n)
	for i := range n {
		files[fmt.Sprintf("folder/file-%06d.json", i)] = []byte("{}")
	}
	dir, _, _ := mounted(t, newMemory(files))
	used := func() uint64 {
		var stats runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := used()
	f, err := os.Open(filepath.Join(dir, "folder"))
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for {
		names, err := f.ReadDir(1000)
		for i, d := range names {
			if want := fmt.Sprintf("file-%06d.json", seen+i); d.Name() != want {
				t.Fatalf("%s where %s should be", d.Name(), want)
			}
		}
		seen += len(names)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if seen != n {
		t.Errorf("%d files", seen)
	}
	if grown := (used() - before) / n; grown > 400 && grown < 1<<40 {
		t.Errorf("%d bytes for each file that the kernel knows", grown)
	} else {
		t.Logf("%d bytes for each file that the kernel knows", grown)
	}
}

// A read that fails is an error number here and a reason there; what failed is asked for again.
func TestErrors(t *testing.T) {
	t.Parallel()
	tree := some()
	var fails atomic.Bool
	fails.Store(true)
	tree.broken = func(p Part) error {
		if fails.Load() && p.Path == "a/b.bin" && p.Offset+p.Length > 2<<20 {
			return errors.New("the disk has a hole")
		}
		return nil
	}
	dir, _, said := mounted(t, tree)
	name := filepath.Join(dir, "a/b.bin")
	if _, err := os.ReadFile(name); !errors.Is(err, syscall.EIO) {
		t.Errorf("a file with a hole: %v", err)
	}
	if got := said.String(); !strings.Contains(got, "a/b.bin: the disk has a hole") {
		t.Errorf("reported: %s", got)
	}
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got := make([]byte, 2<<20-200_000) // the kernel reads some more
	if _, err := f.ReadAt(got, 0); err != nil || !bytes.Equal(got, tree.files["a/b.bin"][:len(got)]) {
		t.Errorf("before the hole: %v", err)
	}
	fails.Store(false)
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, tree.files["a/b.bin"]) {
		t.Errorf("a file that is whole again: %d bytes, %v", len(got), err)
	}
}

// short gives less than it announced.
type short struct{ *memory }

func (s short) Look(ctx context.Context, folder, name string) (Entry, error) {
	e, err := s.memory.Look(ctx, folder, name)
	e.Size++
	return e, err
}

func TestOtherBytesThanAnnounced(t *testing.T) {
	t.Parallel()
	dir, _, said := mounted(t, short{some()})
	for _, name := range []string{"a.txt", "block"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if got := said.String(); !strings.Contains(got, "a.txt: ") {
		t.Errorf("reported: %s", got)
	}
}

// A mount that is used is taken away all the same, and nobody hangs; one that somebody unmounts ends.
func TestEnds(t *testing.T) {
	t.Parallel()
	tree := some()
	reading, never := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(never) })
	tree.broken = func(p Part) error {
		if p.Path == "block" {
			close(reading)
			<-never
		}
		return nil
	}
	stuck := slow{tree}
	dir, m, said := mounted(t, stuck)
	inside, err := os.Open(filepath.Join(dir, "a"))
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	failed := make(chan error, 1)
	go func() {
		_, err := os.ReadFile(filepath.Join(dir, "block"))
		failed <- err
	}()
	<-reading
	if err := m.Stop(); err != nil {
		t.Error(err)
	}
	if err := <-failed; err == nil {
		t.Error("a read from a mount that is gone succeeded")
	}
	if got := said.String(); !strings.Contains(got, "still in use") {
		t.Errorf("reported: %s", got)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("the folder holds %v, %v", left, err)
	}

	dir, m, _ = mounted(t, some())
	if err := detach(dir, false); err != nil {
		t.Fatal(err)
	}
	<-m.Done()
	if err := m.Stop(); err != nil {
		t.Error(err)
	}
}

// slow gives its calls up when their context ends.
type slow struct{ *memory }

func (s slow) Read(ctx context.Context, p Part) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		all := make(chan []Piece, 1)
		go func() {
			var pieces []Piece
			for piece := range s.memory.Read(ctx, p) {
				pieces = append(pieces, piece)
			}
			all <- pieces
		}()
		select {
		case pieces := <-all:
			for _, piece := range pieces {
				if !yield(piece, nil) {
					return
				}
			}
		case <-ctx.Done():
			yield(Piece{}, context.Cause(ctx))
		}
	}
}

func TestPrepare(t *testing.T) {
	t.Parallel()
	dir, _, _ := mounted(t, some())
	if _, err := Prepare(dir); !errors.Is(err, ErrFolder) || !strings.Contains(err.Error(), "is a mount already") {
		t.Errorf("a mount: %v", err)
	}
	place := t.TempDir()
	if dead, err := Prepare(filepath.Join(place, "new folder/below")); dead || err != nil {
		t.Errorf("a new folder: %v, %v", dead, err)
	}
	if _, err := Prepare(place); !errors.Is(err, ErrFolder) || !strings.Contains(err.Error(), "is not empty") {
		t.Errorf("a folder with something in it: %v", err)
	}
	file := filepath.Join(place, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Prepare(file); !errors.Is(err, ErrFolder) {
		t.Errorf("a file: %v", err)
	}
}

// held is another process that holds a mount. wait returns when it and its guard are gone.
func held(t *testing.T) (dir string, p *os.Process, wait func()) {
	t.Helper()
	usableHere(t)
	dir = t.TempDir()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), holdRole+"="+dir)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	left, err := c.StderrPipe() // the guard has it, too
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "mounted\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return dir, c.Process, func() {
		t.Helper()
		if said, err := io.ReadAll(left); err != nil || len(said) > 0 {
			t.Errorf("%s, %v", said, err)
		}
		_ = c.Wait() // it was killed
	}
}

// A process that is killed leaves no mount: its guard takes it away.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir, p, wait := held(t)
	if _, err := os.Stat(filepath.Join(dir, "a.txt")); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	wait()
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("the folder holds %v, %v", left, err)
	}
}

// A mount whose process and guard are both killed is dead; the next one takes it away.
func TestDead(t *testing.T) {
	t.Parallel()
	dir, p, wait := held(t)
	children, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.Pid))
	if err != nil {
		t.Fatal(err)
	}
	guards := 0
	for _, file := range children {
		pids, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for pid := range strings.FieldsSeq(string(pids)) {
			n, err := strconv.Atoi(pid)
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			guards++
		}
	}
	if err := p.Kill(); err != nil || guards != 1 {
		t.Fatalf("%d guards, %v", guards, err)
	}
	wait()
	if _, err := os.ReadDir(dir); !errors.Is(err, syscall.ENOTCONN) {
		t.Fatalf("a dead mount: %v", err)
	}
	for _, was := range []bool{true, false} {
		if dead, err := Prepare(dir); dead != was || err != nil {
			t.Errorf("%v, %v", dead, err)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("the folder holds %v, %v", left, err)
	}
}
