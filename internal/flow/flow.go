// Package flow is the orchestrator: it turns a project's functions into runs, and runs into one
// published commit, or nothing.
//
// The walk of one run: load (snapshot of the code, manifest, graph, locks) - for each step: prepare
// (inputs, items, keys, memo), invoke (sandbox or engine), take over (fragments), assemble (slots into
// tables and folders) - publish (three-way against the target, checks on the merged result, one
// transaction). Plan is the same walk that stops before invoking.
//
// Children: manifest (declarations), project (the folder), discover, graph, memo (keys and results),
// check, call (the state of a call), turn (who goes on). Terms and states: docs/design/runs.md, docs/formats/memo.md.
package flow

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/catalog"
	"tarn.dev/tarn/internal/external"
	"tarn.dev/tarn/internal/flow/call"
	"tarn.dev/tarn/internal/flow/discover"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/flow/memo"
	"tarn.dev/tarn/internal/flow/project"
	"tarn.dev/tarn/internal/flow/secret"
	"tarn.dev/tarn/internal/image"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/meta/lease"
	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/runtime"
)

// Semantics numbers are raised by hand when the same key could give another result.
const (
	runnerSemantics = 1
	engineSemantics = 1
)

// Config is what every project's flow shares.
type Config struct {
	Runtime    runtime.Runtime
	Images     *image.Store
	Engine     *query.Engine
	Secrets    *secret.Vault
	Originals  *external.Originals
	Copies     Copier // of originals that are far away
	SDK        string // folder that holds the Python package tarn
	SDKID      string // its content hash
	Scratch    string // emptied at start
	Host       *Host
	CallMemory *call.Budget   // of all projects' calls
	Session    *lease.Session // of this server; runs of a session that is over are dead
	Log        *slog.Logger
	Hold       func() (release func())    // keeps the server up while a run executes
	CallsOf    func(*Caller) http.Handler // the call service, as an input of a call may use it
}

// Flow is the orchestrator of one project. Safe for concurrent use.
type Flow struct {
	Config
	name    string
	lake    *lake.Lake
	blobs   blob.FileStore
	rows    meta.Store
	prefix  string
	tables  *catalog.Catalog
	memo    *memo.Memo
	runs    runStore
	secrets *secret.Store
	flights flights
	once    onces
	calls   calls

	objects *lru.Cache[lake.Hash, []byte] // definitions
	stored  *lru.Cache[storedCode, lake.Hash]

	mu        sync.Mutex
	folders   map[string]*project.Folder
	manifests map[string]*manifest.Manifest
	live      map[string]*live // runs that execute here
	stopped   bool
	wg        sync.WaitGroup
}

// storedCode is a snapshot of code that was found to be in the lake, in one epoch of garbage collection.
type storedCode struct {
	epoch int64
	id    string
}

// New returns the flow of the project called name. Rows of the flow begin with prefix.
func New(c Config, name string, l *lake.Lake, blobs blob.FileStore, rows meta.Store, prefix string, tables *catalog.Catalog) *Flow {
	objects, err := lru.New[lake.Hash, []byte](4096)
	if err != nil {
		panic(err) // only for a size that is not positive
	}
	stored, err := lru.New[storedCode, lake.Hash](256)
	if err != nil {
		panic(err)
	}
	return &Flow{
		Config: c, name: name, lake: l, blobs: blobs, rows: rows, prefix: prefix, tables: tables,
		memo: memo.Open(rows, prefix, c.Session), runs: runStore{rows: rows, prefix: prefix}, secrets: c.Secrets.Project(name),
		objects: objects, stored: stored,
		folders: map[string]*project.Folder{}, manifests: map[string]*manifest.Manifest{}, live: map[string]*live{},
	}
}

// Lake is the project's history.
func (f *Flow) Lake() *lake.Lake { return f.lake }

// Tables is the project's catalog.
func (f *Flow) Tables() *catalog.Catalog { return f.tables }

// Memo is the project's relation of keys and results.
func (f *Flow) Memo() *memo.Memo { return f.memo }

func (f *Flow) scratch(parts ...string) string {
	return filepath.Join(append([]string{f.Scratch, f.name}, parts...)...)
}

func (f *Flow) folder(dir string) *project.Folder {
	f.mu.Lock()
	defer f.mu.Unlock()
	folder := f.folders[dir]
	if folder == nil {
		folder = project.Open(dir)
		f.folders[dir] = folder
	}
	return folder
}

func (f *Flow) discoverer() *discover.Discoverer {
	return &discover.Discoverer{Runtime: f.Runtime, Owner: f.prefix, SQL: analyzer{f.Engine}, SDK: f.SDK, Interpreter: func(ctx context.Context) (image.Interpreter, error) {
		all, err := f.Images.Interpreters(ctx)
		if err != nil {
			return image.Interpreter{}, err
		}
		if len(all) == 0 {
			return image.Interpreter{}, image.ErrNoPython.Errorf("no Python 3.9 or newer on this machine").WithNext("install python3")
		}
		return all[0], f.Images.Compile(ctx, all[0].Path, f.SDK)
	}}
}

// flights makes identical work that two runs need at once happen once.
type flights struct {
	mu  sync.Mutex
	now map[memo.Key]chan struct{}
}

// take returns true when the caller is the one to do the work of key; it must call done. Otherwise it
// waits until the other is through.
func (fl *flights) take(ctx context.Context, key memo.Key) (mine bool, err error) {
	fl.mu.Lock()
	if fl.now == nil {
		fl.now = map[memo.Key]chan struct{}{}
	}
	wait, busy := fl.now[key]
	if !busy {
		fl.now[key] = make(chan struct{})
	}
	fl.mu.Unlock()
	if !busy {
		return true, nil
	}
	select {
	case <-wait:
		return false, nil
	case <-ctx.Done():
		return false, fmt.Errorf("wait for the same work in another run: %w", context.Cause(ctx))
	}
}

func (fl *flights) done(key memo.Key) {
	fl.mu.Lock()
	defer fl.mu.Unlock()
	close(fl.now[key])
	delete(fl.now, key)
}

func now() time.Time { return time.Now().UTC() }
