// Command bench measures Tarn. Each benchmark is a subcommand that prints its figures, the budget each
// belongs to, and a ratio to something real that was measured in the same run: the bare library, the tool
// that one would use instead, or what the machine can do at all.
//
//	go run ./bench            lists the benchmarks
//	go run ./bench noop       runs one
//	go run ./bench -short all runs all of them on less data
//
// They use the binary that TARN_BIN names, else bin/tarn, with a home of their own. Other programs on the
// machine disturb the figures; so the best of several tries counts, and the load is printed.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"tarn.dev/tarn/internal/runtime/process"
)

// benchmark is one subcommand.
type benchmark struct {
	name, about string
	run         func(context.Context, *bench) error
}

var benchmarks = []benchmark{
	{"sandbox", "starts of sandboxes that need pandas", sandboxes},
	{"preload", "modules that a template has imported, and what it takes to keep them", preloading},
	{"calls", "plain functions, called from Python", callsBench},
	{"handover", "a large table from a Python function to ten others", handover},
	{"first_call", "a Python function whose packages are there", firstCall},
	{"packages", "another version of pandas in a project, and the next run", packages},
	{"history", "branch, commit, diff and merge in a large tree", history},
	{"collect", "garbage collection, when half of the store is garbage", collect},
	{"import", "3,000,000 rows into a published table", importing},
	{"query", "SQL by the command and in process", query},
	{"bucket", "a table in a bucket: what a query fetches", bucket},
	{"dataver", "the hash that identifies rows", dataVersion},
	{"server", "start of the server, and its rest", server},
	{"noop", "a run with nothing to do, beside many files", noop},
	{"chain", "steps that do nothing, one after the other", chain},
	{"files", "100,000 small files and a large one into the store", files},
	{"mount", "10,000 small files and a large one, read through a mount", mount},
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == process.Role { // where no tarn-init was built
		os.Exit(process.InitMain())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to stop
	}
}

func run(ctx context.Context) error {
	short := flag.Bool("short", false, "measure on less data")
	flag.Parse()
	chosen := benchmarks
	switch name := flag.Arg(0); name {
	case "":
		for _, m := range benchmarks {
			fmt.Printf("%-12s %s\n", m.name, m.about)
		}
		return nil
	case "all":
	default:
		i := slices.IndexFunc(benchmarks, func(m benchmark) bool { return m.name == name })
		if i < 0 {
			return fmt.Errorf("there is no benchmark %q; without an argument, bench lists them", name)
		}
		chosen = benchmarks[i : i+1]
	}
	for _, m := range chosen {
		if err := measure(ctx, m, *short); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
	}
	return nil
}

// measure runs one benchmark in a folder of its own.
func measure(ctx context.Context, m benchmark, short bool) (err error) {
	b, err := newBench(short)
	if err != nil {
		return err
	}
	defer func() { err = b.close(err) }()
	fmt.Printf("%s: %s  (load %s)\n", m.name, m.about, load())
	start := time.Now()
	err = m.run(ctx, b)
	fmt.Printf("  %.0f s\n\n", time.Since(start).Seconds())
	return err
}
