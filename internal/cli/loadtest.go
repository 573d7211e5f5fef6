package cli

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
	"tarn.dev/tarn/internal/client/load"
)

type figuresJSON struct {
	Operation string  `json:"operation"`
	Count     int64   `json:"count"`
	Failed    int64   `json:"failed"`
	PerSecond float64 `json:"per_second"`
	MedianMS  float64 `json:"median_ms"`
	P90MS     float64 `json:"p90_ms"`
	P99MS     float64 `json:"p99_ms"`
	MaxMS     float64 `json:"max_ms"`
	Read      float64 `json:"bytes_read"`
	Written   float64 `json:"bytes_written"`
}

func (a *app) loadtestCommand() *cobra.Command {
	var mix, size string
	var p load.Plan
	var keep bool
	c := codes(&cobra.Command{
		Use:   "loadtest",
		Short: "Put the store under load, check every answer, and show how long each operation takes",
		Long: `Put the store under load: clients that store, read, list, branch and merge files at once, on a branch
of their own, which is deleted at the end. Every answer is checked against what was stored, and in
the end everything is read once more. It ends with an error when anything was wrong.

--mix says how often each operation comes: put=4,get=4,list=1,log=1,branch=1,merge=1 is the default.
--size is the range of sizes of files; small and large ones are equally likely.`,
		GroupID: groupSetup,
		Example: "  tarn loadtest --clients 8 --for 30s\n  tarn loadtest --clients 50 --count 1000 --mix merge=1 --size 1KiB\n  tarn loadtest --size 64MiB..256MiB --count 20 --seed 7 --json",
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			var err error
			if p.Mix, err = parseMix(mix); err != nil {
				return err
			}
			if p.Min, p.Max, err = parseSizes(size); err != nil {
				return err
			}
			if p.Clients < 1 || p.Clients > 1000 || p.Count < 0 || p.For < 0 {
				return ErrUsage.Errorf("--clients is 1 to 1000; --count and --for are not negative")
			}
			if p.Count == 0 && p.For == 0 {
				p.For = 10 * time.Second
			}
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			p.Project, p.From, p.Author = t.project, t.ref(""), author()
			total := p.Count
			if total == 0 {
				total = -1
			}
			bar := a.err.Steps(total, "operations")
			report, err := load.Run(c.Context(), t.Client, p, keep, func(done int64) { bar.Set(done) })
			bar.Done()
			if report.Branch != "" {
				a.printLoad(report, keep)
			}
			return err
		},
	}, errdef.DataLoss, errdef.FailedPrecondition)
	c.Flags().IntVar(&p.Clients, "clients", 8, "how many `N` work at once")
	c.Flags().Int64Var(&p.Count, "count", 0, "end after `N` operations")
	c.Flags().DurationVar(&p.For, "for", 0, "end after that `TIME` (default 10s, unless there is a --count)")
	c.Flags().StringVar(&mix, "mix", "put=4,get=4,list=1,log=1,branch=1,merge=1", "how often each `OPERATION=N` comes")
	c.Flags().StringVar(&size, "size", "1KiB..1MiB", "`SIZE` of files, or a range A..B")
	c.Flags().Uint64Var(&p.Seed, "seed", 1, "the `N` that the sequence of operations and contents follows from")
	c.Flags().BoolVar(&keep, "keep", false, "leave the branch with what was stored")
	return c
}

func parseMix(text string) (map[load.Operation]int, error) {
	mix, sum := map[load.Operation]int{}, 0
	for part := range strings.SplitSeq(text, ",") {
		name, number, _ := strings.Cut(strings.TrimSpace(part), "=")
		n, err := strconv.Atoi(number)
		if err != nil || n < 0 || n > 1000 || !slices.Contains(load.Operations, load.Operation(name)) {
			var names []string
			for _, op := range load.Operations {
				names = append(names, string(op))
			}
			return nil, ErrUsage.Errorf("--mix %.80s: %.40q is not OPERATION=N, with N up to 1000 and OPERATION one of %s", text, part, strings.Join(names, ", "))
		}
		mix[load.Operation(name)] = n
		sum += n
	}
	if sum == 0 {
		return nil, ErrUsage.Errorf("--mix %.80s has no operation", text)
	}
	return mix, nil
}

func parseSizes(text string) (low, high int64, err error) {
	first, last, ranged := strings.Cut(text, "..")
	if !ranged {
		last = first
	}
	a, err1 := humanize.ParseBytes(first)
	b, err2 := humanize.ParseBytes(last)
	if err1 != nil || err2 != nil || a > b || b > math.MaxInt64/4 {
		return 0, 0, ErrUsage.Errorf("--size %.80s: it is a size such as 4KiB, or a range such as 1KiB..1MiB", text)
	}
	return int64(a), int64(b), nil
}

func (a *app) printLoad(r load.Report, keep bool) {
	docs, rows := []figuresJSON{}, [][]string{}
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	shown := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", ms(d)) }
	for _, f := range r.Figures {
		docs = append(docs, figuresJSON{string(f.Operation), f.Count, f.Failed, f.Rate, ms(f.Median), ms(f.P90), ms(f.P99), ms(f.Max), f.Read, f.Written})
		rows = append(rows, []string{
			string(f.Operation), fmt.Sprint(f.Count), fmt.Sprint(f.Failed), fmt.Sprintf("%.1f", f.Rate),
			shown(f.Median), shown(f.P90), shown(f.P99), shown(f.Max), ui.Size(int64(f.Read)), ui.Size(int64(f.Written)),
		})
	}
	doc := map[string]any{"branch": r.Branch, "seconds": r.Elapsed.Seconds(), "operations": docs, "failed": r.Failed, "wrong": append([]string{}, r.Wrong...)}
	a.print(doc, func() {
		a.out.Table(columns("operation", ">count", ">failed", ">per second", ">median", ">90 %", ">99 %", ">slowest", ">read", ">written"), rows)
		for _, text := range r.Wrong {
			a.note("%s", a.out.Bad(ui.Clean(text)))
		}
		if keep {
			a.note("kept on branch %s", r.Branch)
		}
	})
}
