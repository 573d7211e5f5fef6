package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
)

// keepsJSON is what a branch keeps of its history.
type keepsJSON struct {
	Seconds int64 `json:"seconds,omitempty"`
	Last    int32 `json:"last,omitempty"`
}

func keepsDocument(r *tarnv1.Retention) *keepsJSON {
	if r == nil {
		return nil
	}
	return &keepsJSON{r.GetKeepSeconds(), r.GetLast()}
}

// keeps is a retention in words.
func keeps(r *tarnv1.Retention) string {
	var parts []string
	if age := span(time.Duration(r.GetKeepSeconds()) * time.Second); age > 0 {
		parts = append(parts, age.String())
	}
	if r.GetLast() > 0 {
		parts = append(parts, fmt.Sprintf("the last %d", r.GetLast()))
	}
	if len(parts) == 0 {
		return "all of its history"
	}
	return strings.Join(parts, " and ")
}

func (a *app) branchRetainCommand() *cobra.Command {
	var keep span
	var last int32
	var all bool
	c := codes(&cobra.Command{
		Use:   "retain NAME",
		Short: "Say how much of its history a branch keeps",
		Long: `Say how much of its history a branch keeps: the commits younger than --keep, and the --last ones of its log. Older
ones go at the next tarn gc, with what only they held, unless another branch or a tag leads to them. A branch keeps all
of its history unless it is told otherwise; --all tells it so again, but does not bring back what went.`,
		Example: "  tarn branch retain main --keep 90d --last 100\n  tarn gc --dry-run\n  tarn branch retain main --all",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case all == (keep > 0 || last > 0):
				return usage(c, "say what %s keeps: --keep, --last or both, or --all", args[0])
			case last < 0:
				return usage(c, "--last %d: it cannot be negative", last)
			}
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			req := &tarnv1.RetainBranchRequest{RequestId: ids.Request(), Project: t.project, Name: args[0], Author: author()}
			if !all {
				req.Retention = &tarnv1.Retention{KeepSeconds: int64(time.Duration(keep) / time.Second), Last: last}
			}
			resp, err := t.History.RetainBranch(c.Context(), req)
			if err != nil {
				return err
			}
			b := resp.GetBranch()
			a.print(refJSON{Name: b.GetName(), Commit: commitDocument(b.GetCommit()), Keeps: keepsDocument(b.GetRetention())}, func() {
				a.note("branch %s keeps %s (tarn gc --dry-run shows what that frees)", b.GetName(), keeps(b.GetRetention()))
			})
			return nil
		},
	}, errdef.NotFound, errdef.InvalidArgument, errdef.FailedPrecondition)
	c.Flags().Var(&keep, "keep", "keep commits younger than `LONG`, such as 90d or 12h")
	c.Flags().Int32Var(&last, "last", 0, "keep the last `N` commits of its log")
	c.Flags().BoolVar(&all, "all", false, "keep all of its history")
	return c
}

// span is a time as people write it: 90d, or what Go understands, 36h.
type span time.Duration

const day = 24 * time.Hour

var errSpan = errors.New("write a time such as 90d, 12h or 30m")

// Set implements pflag.Value.
func (s *span) Set(text string) error {
	if digits, ok := strings.CutSuffix(text, "d"); ok {
		days, err := strconv.ParseUint(digits, 10, 16)
		if err != nil {
			return errSpan
		}
		*s = span(time.Duration(days) * day)
		return nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second {
		return errSpan
	}
	*s = span(d)
	return nil
}

// String implements pflag.Value.
func (s span) String() string {
	d := time.Duration(s)
	if d > 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	return d.String()
}

// Type implements pflag.Value.
func (s span) Type() string { return "time" }
