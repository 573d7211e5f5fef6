// Package build says which build of Tarn this process runs.
package build

import (
	"os"
	"time"

	"golang.org/x/mod/semver"
)

// Version is the release this source is, or becomes.
const Version = "v0.1.0"

// Info identifies a build. Time tells two builds of one version apart; it is zero when unknown.
type Info struct {
	Version string    `json:"version"`
	Time    time.Time `json:"built"`
}

// Current describes the running binary. The time is its file's: it costs one stat, where hashing the
// binary would cost more than the rest of a command.
func Current() Info {
	info := Info{Version: Version}
	if exe, err := os.Executable(); err == nil {
		if st, err := os.Stat(exe); err == nil {
			info.Time = st.ModTime().UTC().Truncate(time.Microsecond)
		}
	}
	return info
}

// Newer reports whether i was built after other.
func (i Info) Newer(other Info) bool {
	if c := semver.Compare(i.Version, other.Version); c != 0 {
		return c > 0
	}
	return i.Time.After(other.Time)
}
