package cli

import (
	"os"

	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/query/engine"
	"tarn.dev/tarn/internal/runtime/process"
	"tarn.dev/tarn/internal/system"
	"tarn.dev/tarn/internal/system/home"
)

// roles are the hidden first arguments that make the binary another process of Tarn: the server in the
// background, the engine that runs SQL, the first process of a sandbox. They are dispatched before the
// command line is built: a child must not pay for it.
var roles = map[string]func() int{
	home.ServerRole: system.BackgroundMain,
	process.Role:    process.InitMain,
	query.Role:      engineMain,
}

// engineMain serves jobs from stdin; results go to descriptor 3.
func engineMain() int {
	return engine.Main(os.Stdin, os.Stdout, os.NewFile(3, "results"))
}
