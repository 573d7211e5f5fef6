package system

import (
	"os"

	"tarn.dev/tarn/internal/fusefs"
	"tarn.dev/tarn/internal/query"
	"tarn.dev/tarn/internal/query/engine"
	"tarn.dev/tarn/internal/runtime/process"
	"tarn.dev/tarn/internal/system/home"
)

// Roles are the hidden first arguments that make the binary another process of Tarn: the server in the
// background, the engine that runs SQL, the first process of a sandbox, the guard of a mount.
var Roles = map[string]func() int{
	home.ServerRole: BackgroundMain,
	query.Role:      engineMain,
	process.Role:    process.InitMain,
	fusefs.Role:     fusefs.GuardMain,
}

// engineMain serves jobs from stdin; results go to descriptor 3.
func engineMain() int {
	return engine.Main(os.Stdin, os.Stdout, os.NewFile(3, "results"))
}
