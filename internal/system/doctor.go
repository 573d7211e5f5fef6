package system

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob/s3blob"
	"tarn.dev/tarn/internal/meta/pgmeta"
	"tarn.dev/tarn/internal/runtime"
	"tarn.dev/tarn/internal/runtime/process"
	"tarn.dev/tarn/internal/server"
)

// Free space below which the disk is worth a warning, and below which writes are about to fail.
const (
	lowDisk  = 5 << 30
	fullDisk = 256 << 20
)

// Doctor implements server.Control.
func (s *System) Doctor(ctx context.Context) []server.Finding {
	found := []server.Finding{s.checkHome(), s.checkDisk(), checkFiles(), s.checkLevel(), s.checkTemplates(), checkPrograms(), s.checkPackages(), s.checkSecrets(ctx)}
	if bucket := s.projects.bulk.bucket; bucket != nil {
		found = append(found, s.checkBucket(ctx, bucket))
	}
	if rows, ok := s.meta.(*pgmeta.Store); ok {
		found = append(found, checkRows(ctx, rows))
	}
	return found
}

// checkRows asks the database whether it is there, and keeps what it says that it keeps.
func checkRows(ctx context.Context, rows *pgmeta.Store) server.Finding {
	f := server.Finding{Name: "rows", Level: server.OK}
	start := time.Now()
	durable, err := rows.Durable(ctx)
	switch {
	case err != nil:
		e := errdef.As(err)
		f.Level, f.Text, f.Next = server.Fail, e.Message, strings.Join(e.Next, "; ")
	case !durable:
		f.Level, f.Text = server.Warn, fmt.Sprintf("%s loses commits when its host crashes", rows)
		f.Next = "Set fsync and full_page_writes of that Postgres to on"
	default:
		f.Text = fmt.Sprintf("%s, answers in %s", rows, time.Since(start).Round(time.Millisecond/10))
	}
	return f
}

// checkBucket lists and writes the bucket as a start does.
func (s *System) checkBucket(ctx context.Context, bucket *s3blob.Store) server.Finding {
	if err := bucket.Check(ctx); err != nil {
		e := errdef.As(err)
		return server.Finding{Name: "bucket", Level: server.Fail, Text: e.Message, Next: strings.Join(e.Next, "; ")}
	}
	return server.Finding{Name: "bucket", Level: server.OK, Text: fmt.Sprintf("%s; copies in %s", bucket.URI(""), s.config.Home.BlobCache())}
}

func (s *System) checkHome() server.Finding {
	f := server.Finding{Name: "home", Level: server.OK, Text: s.config.Home.Dir}
	probe, err := os.CreateTemp(s.config.Home.Scratch(), "doctor-")
	if err == nil {
		_, err = probe.WriteString("probe")
		for _, step := range []func() error{probe.Sync, probe.Close, func() error { return os.Remove(probe.Name()) }} {
			if stepErr := step(); err == nil {
				err = stepErr
			}
		}
	}
	if err != nil {
		f.Level, f.Text, f.Next = server.Fail, fmt.Sprintf("cannot write: %v", err), "Set TARN_HOME to a folder on a disk that can be written"
	}
	return f
}

func (s *System) checkDisk() server.Finding {
	var st unix.Statfs_t
	if err := unix.Statfs(s.config.Home.Dir, &st); err != nil {
		return server.Finding{Name: "disk", Level: server.Fail, Text: err.Error()}
	}
	free := st.Bavail * uint64(st.Bsize)
	f := server.Finding{Name: "disk", Level: server.OK, Text: fmt.Sprintf("%.1f GiB free", float64(free)/(1<<30))}
	switch {
	case free < fullDisk:
		f.Level, f.Next = server.Fail, "Free some space, or set TARN_HOME to a folder on a larger disk"
	case free < lowDisk:
		f.Level, f.Next = server.Warn, "Large imports may fill it"
	}
	return f
}

// checkFiles looks at how many files a process may hold open: each client, child and data file is one.
func checkFiles() server.Finding {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return server.Finding{Name: "open files", Level: server.Fail, Text: err.Error()}
	}
	f := server.Finding{Name: "open files", Level: server.OK, Text: fmt.Sprintf("limit %d", limit.Cur)}
	if limit.Cur < 1024 {
		f.Level, f.Next = server.Warn, "Raise it with ulimit -n 4096"
	}
	return f
}

// slowMove is longer than a processor needs: the kernel waited for all of them.
const slowMove = 3 * time.Millisecond

// checkLevel says how strongly functions are isolated, and what is missing for more.
func (s *System) checkLevel() server.Finding {
	f := server.Finding{Name: "isolation", Level: server.OK, Text: "level " + string(s.parts.runtime.Level())}
	if process.Landlock() && s.parts.runtime.Level() != runtime.Process {
		f.Text += " with Landlock"
	}
	if n := len(s.parts.lacking); n > 0 {
		next := s.parts.lacking[n-1]
		f.Text += fmt.Sprintf("; not %s: %v", next.Level, next.Why)
	}
	if s.parts.runtime.Level() == runtime.Full {
		switch took, err := process.MoveTime(); {
		case err != nil:
			f.Level, f.Text = server.Fail, fmt.Sprintf("%s; %v", f.Text, err)
		case took > slowMove:
			f.Text += fmt.Sprintf("; a move into its control groups took %s: they are faster where cgroups are mounted with favordynmods", took.Round(time.Millisecond/10))
		}
	}
	if s.parts.runtime.Level() == runtime.Process {
		f.Level, f.Next = server.Warn, "Functions can read what this user can. Run only code that you trust"
	}
	return f
}

// checkSecrets opens all secrets of the home: their key may have been left behind, or replaced.
func (s *System) checkSecrets(ctx context.Context) server.Finding {
	n, err := s.parts.flow.Secrets.Check(ctx)
	switch {
	case err != nil:
		e := errdef.As(err)
		return server.Finding{Name: "secrets", Level: server.Fail, Text: e.Message, Next: strings.Join(e.Next, "; ")}
	case n == 0:
		return server.Finding{Name: "secrets", Level: server.OK, Text: "none are set"}
	}
	return server.Finding{Name: "secrets", Level: server.OK, Text: fmt.Sprintf("%d, with the key in %s", n, s.parts.flow.Secrets.KeyPath())}
}

// checkTemplates says how the interpreters serve that others are forked from.
func (s *System) checkTemplates() server.Finding {
	t := s.parts.runtime.Templates()
	f := server.Finding{Name: "templates", Level: server.OK, Text: fmt.Sprintf("%d live, %s; %d started, %d evicted; of commands %d found theirs, %d waited for it",
		t.Live, humanize.IBytes(uint64(t.MemoryBytes)), t.Started, t.Evicted, t.Hits, t.Misses)} //nolint:gosec // not negative
	if t.Unforked > 0 {
		f.Level = server.Warn
		f.Text += fmt.Sprintf("; %d were started, the last one because %s", t.Unforked, t.Failure)
	}
	return f
}

// checkPackages says how much the packages on this host take of what they may.
func (s *System) checkPackages() server.Finding {
	f := server.Finding{Name: "packages", Level: server.OK}
	u, err := s.parts.flow.Images.Usage()
	if err != nil {
		f.Level, f.Text = server.Fail, err.Error()
		return f
	}
	within := "no budget"
	if u.Budget > 0 {
		within = "budget " + humanize.IBytes(uint64(u.Budget)) //nolint:gosec // not negative
	}
	f.Text = fmt.Sprintf("%s, %s; %d packages in %d environments, in %s", humanize.IBytes(uint64(u.Bytes)), within, u.Packages, u.Views, s.config.Home.Cache) //nolint:gosec // not negative
	if u.Failed != nil {
		f.Level = server.Warn
		f.Text += fmt.Sprintf("; making room failed: %v", u.Failed)
	} else if u.Budget > 0 && u.Bytes > u.Budget {
		f.Level, f.Next = server.Warn, "What is in use is more than the budget: start the server with a larger TARN_CACHE_BUDGET"
	}
	return f
}

// checkPrograms looks for the one program that Tarn does not bring along.
func checkPrograms() server.Finding {
	path, err := exec.LookPath("python3")
	if err != nil {
		return server.Finding{Name: "python", Level: server.Warn, Text: "no python3 on PATH", Next: "SQL works without; Python functions need one"}
	}
	return server.Finding{Name: "python", Level: server.OK, Text: path}
}
