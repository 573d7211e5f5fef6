package home

import "tarn.dev/tarn/internal/base/errdef"

// ServerRole is the hidden first argument that makes the binary a server in the background.
const ServerRole = "server-background"

// ReportFD is where a server in the background says, once, how its start went: one line of JSON, a
// Report. A client that waits for it neither polls nor guesses.
const ReportFD = 3

// Report is what a server in the background says about its start. No error means that it is ready.
type Report struct {
	Error *errdef.Error `json:"error,omitempty"`
}
