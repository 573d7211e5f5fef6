// Command tarn-init is the first process of every sandbox. Tarn carries it inside of itself and starts it as often as
// anything runs: by itself it starts in 2 ms, where the whole of Tarn takes 20.
package main

import (
	"fmt"
	"os"

	"tarn.dev/tarn/internal/runtime/process"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == process.IdentityArgument {
		fmt.Println(process.Identity())
		return
	}
	if len(os.Args) < 2 || os.Args[1] != process.Role {
		fmt.Fprintln(os.Stderr, "tarn-init is started by tarn")
		os.Exit(2)
	}
	os.Exit(process.InitMain())
}
