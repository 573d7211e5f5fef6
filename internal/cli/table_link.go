package cli

import (
	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
)

func (a *app) tableLinkCommand() *cobra.Command {
	var into, message string
	c := codes(&cobra.Command{
		Use:   "link SRC... NAME",
		Short: "Make a table of Parquet files that stay where they are, as one commit",
		Long: `Make a table of Parquet files that stay where they are, as one commit. SRC is a URL (s3://,
http://, https://, file://) or a path on the host of the server: a file, or a folder,
prefix or pattern with a * (in quotes) that has Parquet files. What is recorded is the URL,
the size, the etag and the time of each; who reads the table gets their rows, and an error if
one of them is another one by then. Link it again to take what is there as a new version.

The files' columns are united by name. The rows are read, by queries and by functions; to
change them, keep a copy: tarn query 'CREATE OR REPLACE TABLE trips AS FROM trips'`,
		Example: `  tarn table link s3://bucket/trips/2024/ trips
  tarn table link 's3://bucket/trips/**/*.parquet' trips --into dev
  tarn table link https://example.org/zones.parquet zones
  tarn table link /data/trips trips`,
		Args: args(2, -1),
		RunE: func(c *cobra.Command, args []string) error {
			last := len(args) - 1
			urls, err := originalURLs(args[:last])
			if err != nil {
				return err
			}
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			resp, err := t.Tables.Link(c.Context(), &tarnv1.LinkTableRequest{Write: t.write(into, message), Urls: urls, Table: args[last]})
			if err != nil {
				return err
			}
			a.print(importedDocument(resp.GetDone()), func() { a.imported(resp.GetDone()) })
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition, errdef.Unauthenticated, errdef.PermissionDenied, errdef.Unavailable, errdef.Conflict, errdef.ResourceExhausted)
	c.Flags().StringVar(&into, "into", "", "the `BRANCH` to write to (default: the current one)")
	c.Flags().StringVarP(&message, "message", "m", "", "the commit's `TEXT`")
	return c
}
