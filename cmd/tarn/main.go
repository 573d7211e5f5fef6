// Command tarn is the whole of Tarn in one binary. Its hidden roles are the processes that it starts of
// itself: the server in the background, the engine that runs SQL, the first process of a sandbox.
package main

import (
	"os"

	"tarn.dev/tarn/internal/cli"
	"tarn.dev/tarn/internal/system"
	"tarn.dev/tarn/internal/system/home"
)

// roles are dispatched before the command line is built: a child must not pay for it.
var roles = map[string]func() int{
	home.ServerRole: system.BackgroundMain,
}

func main() {
	if len(os.Args) > 1 {
		if role, ok := roles[os.Args[1]]; ok {
			os.Exit(role())
		}
	}
	os.Exit(cli.Main())
}
