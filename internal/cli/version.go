package cli

import (
	"runtime"

	"github.com/spf13/cobra"

	"tarn.dev/tarn/internal/base/build"
	"tarn.dev/tarn/internal/client"
	"tarn.dev/tarn/internal/system/home"
)

func (a *app) versionCommand() *cobra.Command {
	return codes(&cobra.Command{
		Use:     "version",
		Short:   "Print the version of tarn and of its formats",
		GroupID: groupSetup,
		Example: "  tarn version\n  tarn version --json",
		Args:    args(0, 0),
		RunE: func(*cobra.Command, []string) error {
			b := build.Current()
			doc := map[string]any{
				"version": b.Version, "built": b.Time, "go": runtime.Version(),
				"platform": runtime.GOOS + "/" + runtime.GOARCH, "api": client.API, "home_format": home.Format,
			}
			a.print(doc, func() {
				a.out.Printf("tarn %s (%s, %s/%s, API v%d, home format %d)\n",
					b.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH, client.API, home.Format)
			})
			return nil
		},
	})
}
