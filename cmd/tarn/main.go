// Command tarn is the whole of Tarn in one binary.
package main

import (
	"os"

	"tarn.dev/tarn/internal/cli"
)

func main() { os.Exit(cli.Main()) }
