// Package home is where a user's Tarn lives on disk and how its one server is found: the layout of
// TARN_HOME, the socket, and the lock that a server holds for its whole life.
//
// Client and server both use it; everything that only the server touches (rows, packs, scratch) is laid
// out here too, so that the layout can be read in one place.
package home

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/fault"
)

// Format is the newest home format that this binary reads and the one that it writes.
const Format = 1

// Errors of a home.
var (
	ErrForeign = errdef.New(errdef.PermissionDenied, "home.foreign", "the home belongs to another user").
			WithNext("export TARN_URL=... to use that user's server", "export TARN_HOME=... for a home of your own")
	ErrNotAHome = errdef.New(errdef.FailedPrecondition, "home.not_a_home", "not a Tarn home")
	ErrNewer    = errdef.New(errdef.FailedPrecondition, "home.format_newer", "the home is newer than this binary").
			WithNext("install the newer tarn, or set TARN_HOME to another folder")
	ErrNotEmpty = errdef.New(errdef.FailedPrecondition, "home.not_empty", "the home has something in it").
			WithNext("TARN_HOME=/a/new/folder tarn restore ...")
	ErrRestoring = errdef.New(errdef.FailedPrecondition, "home.restoring", "the home is being restored").
			WithNext("tarn restore, with the same arguments, goes on", "remove the folder, to give it up")
	ErrLocked = errdef.New(errdef.FailedPrecondition, "home.locked", "the home is in use")
)

// Home is one home. Make one with At or Find.
type Home struct {
	Dir    string // absolute, without symbolic links
	Cache  string // shared by all homes of a user
	Socket string
}

// Files and folders of a home.
func (h Home) FormatFile() string { return filepath.Join(h.Dir, "format") }
func (h Home) LockFile() string   { return filepath.Join(h.Dir, "lock") }
func (h Home) Meta() string       { return filepath.Join(h.Dir, "meta.db") }
func (h Home) Session() string    { return filepath.Join(h.Dir, "session") }
func (h Home) Rows() string       { return filepath.Join(h.Dir, "rows") }
func (h Home) SecretKey() string  { return filepath.Join(h.Dir, "secrets.key") }
func (h Home) Scratch() string    { return filepath.Join(h.Dir, "scratch") }
func (h Home) restoring() string  { return filepath.Join(h.Dir, "restoring") }
func (h Home) Log() string        { return filepath.Join(h.Dir, "logs", "server.log") }

// Blobs names the bucket with the bulk data of all projects, in a home that has it there; BlobCache holds copies.
func (h Home) Blobs() string     { return filepath.Join(h.Dir, "blobs") }
func (h Home) BlobCache() string { return filepath.Join(h.Dir, "blobcache") }

// Project is the root of one project's bulk storage.
func (h Home) Project(name string) string { return filepath.Join(h.Dir, "projects", name) }

// CurrentBranch is the file that remembers what `tarn switch` chose for a project.
func (h Home) CurrentBranch(project string) string { return filepath.Join(h.Dir, "current", project) }

// launchFile is locked by a client while it starts a server, so that clients start exactly one.
func (h Home) launchFile() string { return filepath.Join(h.Dir, "launch") }

// known are the names that may lie in a home before it has a format file.
var known = map[string]bool{"launch": true, "lock": true, "current": true, "logs": true, "format.new": true, "restoring.new": true}

// Find is the home of this process: TARN_HOME, else the user's data folder. It makes the folder.
func Find() (Home, error) {
	dir := os.Getenv("TARN_HOME")
	if dir == "" {
		data := os.Getenv("XDG_DATA_HOME")
		if data == "" {
			user, err := os.UserHomeDir()
			if err != nil {
				return Home{}, errdef.Newf(errdef.FailedPrecondition, "home.none", "find the home folder: %w", err).
					WithNext("export TARN_HOME=/some/folder")
			}
			data = filepath.Join(user, ".local", "share")
		}
		dir = filepath.Join(data, "tarn")
	}
	return At(dir)
}

// At is the home in dir, which it makes. It refuses a folder of another user and a folder that holds
// something else; the format is checked by Lock.
func At(dir string) (Home, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Home{}, errdef.Newf(errdef.InvalidArgument, "home.path", "TARN_HOME %q: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Home{}, errdef.Newf(errdef.FailedPrecondition, "home.make", "make the home %s: %w", dir, err).
			WithNext("export TARN_HOME=/a/folder/you/can/write")
	}
	// Two spellings of one home must find one server.
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return Home{}, errdef.Newf(errdef.FailedPrecondition, "home.make", "open the home: %w", err)
	}
	if owner, err := ownerOf(dir); err != nil {
		return Home{}, err
	} else if owner != os.Geteuid() {
		return Home{}, ErrForeign.Errorf("home %s belongs to uid %d, you are uid %d", dir, owner, os.Geteuid())
	}
	cache, err := cacheDir()
	if err != nil {
		return Home{}, err
	}
	h := Home{Dir: dir, Cache: cache}
	h.Socket, err = socketPath(dir)
	return h, err
}

func cacheDir() (string, error) {
	if dir := os.Getenv("TARN_CACHE"); dir != "" {
		abs, err := filepath.Abs(dir)
		if err != nil {
			return "", errdef.Newf(errdef.InvalidArgument, "home.path", "TARN_CACHE %q: %w", dir, err)
		}
		return abs, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", errdef.Newf(errdef.FailedPrecondition, "home.none", "find the cache folder: %w", err).
			WithNext("export TARN_CACHE=/some/folder")
	}
	return filepath.Join(dir, "tarn"), nil
}

// socketPath is short (a socket's path has 107 bytes at most) and lies in a folder that only its owner
// can enter, which is what keeps other users out.
func socketPath(dir string) (string, error) {
	run := filepath.Join("/tmp", "tarn-"+strconv.Itoa(os.Geteuid()))
	if xdg := os.Getenv("XDG_RUNTIME_DIR"); xdg != "" && len(xdg) < 70 {
		if st, err := os.Stat(xdg); err == nil && st.IsDir() {
			run = filepath.Join(xdg, "tarn")
		}
	}
	if err := os.Mkdir(run, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", errdef.Newf(errdef.FailedPrecondition, "home.socket", "make the socket's folder: %w", err).
			WithNext("export XDG_RUNTIME_DIR=/a/short/folder/of/your/own")
	}
	st, err := os.Lstat(run)
	if err != nil {
		return "", errdef.Newf(errdef.FailedPrecondition, "home.socket", "open the socket's folder: %w", err)
	}
	if sys := st.Sys().(*syscall.Stat_t); !st.IsDir() || int(sys.Uid) != os.Geteuid() || st.Mode().Perm()&0o077 != 0 {
		return "", errdef.Newf(errdef.PermissionDenied, "home.socket", "%s is not a folder that only you can enter", run).
			WithNext("export XDG_RUNTIME_DIR=/a/short/folder/of/your/own")
	}
	sum := blake3.Sum256([]byte(dir))
	return filepath.Join(run, hex.EncodeToString(sum[:6])+".sock"), nil
}

func ownerOf(path string) (int, error) {
	st, err := os.Stat(path)
	if err != nil {
		return 0, errdef.Newf(errdef.FailedPrecondition, "home.make", "open the home: %w", err)
	}
	return int(st.Sys().(*syscall.Stat_t).Uid), nil
}

// prepare checks the format of a home, or makes a fresh home. The caller holds the lock.
func (h Home) prepare() error {
	if _, err := os.Lstat(h.restoring()); err == nil {
		return ErrRestoring.Errorf("the home %s is filled from a backup, and that did not end", h.Dir)
	}
	b, err := os.ReadFile(h.FormatFile())
	if errors.Is(err, fs.ErrNotExist) {
		return h.create()
	}
	if err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "home.format", "read the home's format: %w", err)
	}
	text := strings.TrimSpace(string(b))
	number, ok := strings.CutPrefix(text, "tarn-home ")
	n, err := strconv.Atoi(number)
	switch {
	case !ok || err != nil || n < 1:
		return ErrNotAHome.Errorf("%s says %.40q, not what a Tarn home says", h.FormatFile(), text)
	case n > Format:
		return ErrNewer.Errorf("home %s has format %d; this tarn reads formats up to %d", h.Dir, n, Format)
	}
	return nil
}

func (h Home) create() error {
	if name, err := h.unknown(); err != nil {
		return err
	} else if name != "" {
		return ErrNotAHome.Errorf("%s is not a Tarn home and not empty: it holds %s", h.Dir, name).
			WithNext("export TARN_HOME=/a/new/folder")
	}
	return h.writeFormat()
}

// unknown is a name in the home that it does not have before it has a format.
func (h Home) unknown() (string, error) {
	entries, err := os.ReadDir(h.Dir)
	if err != nil {
		return "", errdef.Newf(errdef.FailedPrecondition, "home.make", "read the home: %w", err)
	}
	for _, e := range entries {
		if !known[e.Name()] {
			return e.Name(), nil
		}
	}
	return "", nil
}

// beginRestore marks a fresh home as one that is restored.
func (h Home) beginRestore() error {
	if _, err := os.Lstat(h.restoring()); err == nil {
		return nil
	}
	if name, err := h.unknown(); err != nil {
		return err
	} else if name != "" {
		return ErrNotEmpty.Errorf("%s is not empty: it holds %s. A backup is restored into a new home", h.Dir, name)
	}
	if err := errors.Join(replace(h.restoring(), []byte(rand.Text())), syncDir(h.Dir)); err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "home.make", "make the home: %w", err)
	}
	return nil
}

// Restoring is the token of the restore into this home, by which it knows what it has brought elsewhere.
func (h Home) Restoring() (string, error) {
	b, err := os.ReadFile(h.restoring())
	if err != nil {
		return "", errdef.Newf(errdef.FailedPrecondition, "home.restoring", "read what restores the home: %w", err)
	}
	return string(b), nil
}

// Restored makes a home of what LockForRestore has locked, and everything durable that is in it.
func (h Home) Restored() error {
	err := fault.Point("home.restored.before_format")
	if err == nil {
		err = h.writeFormat()
	}
	if err == nil {
		err = errors.Join(syncDir(h.Dir), fault.Point("home.restored.after_format"))
	}
	if err == nil {
		err = errors.Join(os.Remove(h.restoring()), syncDir(h.Dir))
	}
	if err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "home.make", "make the home: %w", err)
	}
	return nil
}

func syncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (h Home) writeFormat() error {
	if err := replace(h.FormatFile(), fmt.Appendf(nil, "tarn-home %d\n", Format)); err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "home.make", "make the home: %w", err)
	}
	return nil
}

// RememberBlobs notes the URL of the bucket with the bulk data.
func (h Home) RememberBlobs(url string) error {
	if err := replace(h.Blobs(), []byte(url+"\n")); err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "home.blobs", "note where the bulk data is: %w", err)
	}
	return nil
}

// RememberRows notes the database with the rows: its identity, and its URL without a password.
func (h Home) RememberRows(identity, url string) error {
	if err := replace(h.Rows(), []byte(identity+" "+url+"\n")); err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "home.rows", "note where the rows are: %w", err)
	}
	return nil
}

// ForgetRows lets a home take another database than the one that was noted.
func (h Home) ForgetRows() error {
	if err := os.Remove(h.Rows()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errdef.Newf(errdef.FailedPrecondition, "home.rows", "forget where the rows are: %w", err)
	}
	return nil
}

// replace writes a file that is there whole or not at all.
func replace(name string, b []byte) error {
	next := name + ".new"
	if err := writeSynced(next, b); err != nil {
		return err
	}
	return os.Rename(next, name)
}

func writeSynced(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, werr := f.Write(b)
	return errors.Join(werr, f.Sync(), f.Close())
}
