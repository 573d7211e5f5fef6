// Package engine is the child process that runs SQL: the role `tarn engine`. It is the only package
// that links DuckDB, and the process may die at any moment without harm to anybody.
//
// Before a job DuckDB is open already, so that a warm child hides its start. A job's limits and files
// are set, then external access is switched off and the configuration locked: whatever the SQL says,
// it reaches the job's own files and its own folder for spilling, nothing else.
//
// Insertion order is preserved, so that a LIMIT without ORDER BY gives the same rows each time. It
// costs parallelism only in the last pipeline of a plan (a plain scan of Arrow files runs on one
// thread); aggregates, joins and sorts stay parallel.
package engine

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/query/engine/duck"
)

// Main serves jobs from stdin and returns the exit status. Each job that runs has a DuckDB of its own, so
// that nothing a statement made or set reaches the next one. When stdin ends the parent is gone and nobody wants the
// result, so the process exits at once, also in the middle of a query: the caller keeps stdin open until it has read the
// Result.
func Main(stdin io.Reader, stdout, results io.Writer) int {
	db, err := open()
	if err != nil {
		fmt.Fprintf(os.Stderr, "engine: %v\n", err)
		return 1
	}
	debug.SetGCPercent(100) // off until here, see the environment of a child
	lines := make(chan []byte)
	go readLines(stdin, lines)
	answers := json.NewEncoder(results)
	for line := range lines {
		if err := answers.Encode(query.Started); err != nil {
			fmt.Fprintf(os.Stderr, "engine: take job: %v\n", err)
			return 1
		}
		job, err := parseJob(line)
		var result query.Result
		switch {
		case err != nil:
		case job.Analyze:
			result.Analysis, err = analyze(db, job.SQL)
		default:
			before, _ := usage()
			result, err = run(db, job, stdout, func(needs query.Needs) error {
				if err := answers.Encode(query.Result{Needs: needs}); err != nil {
					return err
				}
				<-lines // or the process has ended
				return nil
			})
			result.CPU, result.PeakMemoryBytes = usage()
			result.CPU -= before
		}
		if err != nil {
			result.Error = query.NewFailure(classify(err))
		}
		if err := answers.Encode(result); err != nil {
			fmt.Fprintf(os.Stderr, "engine: write result: %v\n", err)
			return 1
		}
		if !job.Analyze {
			if !job.Again {
				return 0
			}
			db.Close()
			if db, err = open(); err != nil {
				fmt.Fprintf(os.Stderr, "engine: %v\n", err)
				return 1
			}
		}
	}
	return 0
}

func usage() (cpu time.Duration, peak int64) {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0, 0
	}
	peak = int64(u.Maxrss)
	if runtime.GOOS != "darwin" { // counts bytes there, KiB elsewhere
		peak <<= 10
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), peak
}

func readLines(stdin io.Reader, lines chan<- []byte) {
	r := bufio.NewReader(stdin)
	for {
		line, err := r.ReadBytes('\n')
		if err != nil {
			os.Exit(0)
		}
		lines <- line
	}
}

func parseJob(line []byte) (query.Job, error) {
	d := json.NewDecoder(strings.NewReader(string(line)))
	d.UseNumber() // 9007199254740993 stays what it is
	var job query.Job
	if err := d.Decode(&job); err != nil {
		return job, errdef.Newf(errdef.Internal, "query.bad_job", "read job: %w", err)
	}
	return job, nil
}

// open starts DuckDB with everything that is the same for all jobs.
func open() (*duck.DB, error) {
	db, err := duck.Open(map[string]string{
		"autoinstall_known_extensions": "false",
		"autoload_known_extensions":    "false",
		"allow_community_extensions":   "false",
	})
	if err != nil {
		return nil, err
	}
	for _, sql := range []string{
		`SET TimeZone = 'UTC'`,
		`CREATE SCHEMA "default"`,
		`SET schema = 'default'`,
	} {
		if err := db.Exec(sql); err != nil {
			db.Close()
			return nil, fmt.Errorf("%s: %w", sql, err)
		}
	}
	return db, nil
}
