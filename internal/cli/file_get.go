package cli

import (
	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
)

func (a *app) fileGetCommand() *cobra.Command {
	var ref string
	var drift bool
	c := codes(&cobra.Command{
		Use:   "get NAME [DST]",
		Short: "Copy files out of Tarn",
		Long: `Copy a file, a folder or what a glob matches to this host. DST is a folder if it ends in a
slash or exists, else the new name of the one file; without it, this folder; - is stdout.
A folder NAME is copied under its own name; with a slash at its end, what lies in it is.
A file that is there already with the same content is left alone, and the copy of a large one
that was interrupted is continued: give the same command again.`,
		Example: `  tarn file get images/a.png
  tarn file get images/ out/ --ref v1.0
  tarn file get 'raw/*.csv@dev' out/
  tarn file get raw/answer.json - | jq .`,
		Args: args(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			dst := "."
			if len(args) > 1 {
				dst = args[1]
			}
			if dst == "-" {
				if a.json {
					return usage(c, "with - as DST stdout holds the file: --json has no place there")
				}
				return a.cat(c, t, &tarnv1.GetRequest{Pattern: args[0], Ref: t.ref(ref), AcceptDrift: drift})
			}
			d := &download{target: t, dst: dst, drift: drift, keepList: a.json, bar: a.err.Progress(-1, "copying")}
			err = d.run(c.Context(), args[0], t.ref(ref))
			d.bar.Done()
			if err != nil {
				return err
			}
			a.print(map[string]any{"files": d.files, "bytes": d.bytes, "present": d.present, "paths": d.paths}, func() {
				what := ui.Count(d.files-d.present, "file") + " to " + dst
				if d.files == 1 {
					what = ui.Clean(d.last)
				}
				switch {
				case d.present == 0:
					a.note("copied %s, %s", what, ui.Size(d.bytes))
				case d.present == d.files:
					a.note("nothing to copy: %s there already, with the same content", ui.Count(d.present, "file"))
				default:
					a.note("copied %s, %s; %s there already", what, ui.Size(d.bytes), ui.Count(d.present, "file"))
				}
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition, errdef.PermissionDenied, errdef.Unavailable, errdef.ResourceExhausted, errdef.DataLoss)
	c.Flags().StringVar(&ref, "ref", "", "the `REF` to read (default: the current branch)")
	acceptDrift(c, &drift)
	return c
}
