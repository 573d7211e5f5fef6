package image

import (
	"regexp"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
)

// Errors of this package.
var (
	// ErrRequirement is returned for a requirement, or a file of them, that cannot be read.
	ErrRequirement = errdef.New(errdef.InvalidArgument, "image.requirement", "requirement cannot be read")
	// ErrUnsolvable carries the resolver's own explanation.
	ErrUnsolvable = errdef.New(errdef.InvalidArgument, "image.unsolvable", "packages do not fit together")
	// ErrOffline is returned when a package index cannot be reached.
	ErrOffline = errdef.New(errdef.Unavailable, "image.index_unreachable", "package index cannot be reached")
	// ErrLogin is returned when an index refuses whoever asks.
	ErrLogin = errdef.New(errdef.PermissionDenied, "image.index_login", "package index refuses the credentials")
	// ErrDiskFull is returned when packages do not fit on the disk.
	ErrDiskFull = errdef.New(errdef.ResourceExhausted, "image.disk_full", "no space left on device")
	// ErrResolver is returned when uv fails for a reason that it alone knows.
	ErrResolver = errdef.New(errdef.FailedPrecondition, "image.uv_failed", "uv failed")
	// ErrNoResolver is returned when uv is not there and cannot be fetched.
	ErrNoResolver = errdef.New(errdef.FailedPrecondition, "image.no_uv", "uv was not found")
	// ErrNoPython is returned when no interpreter on this host fits.
	ErrNoPython = errdef.New(errdef.FailedPrecondition, "image.python_missing", "no such Python here")
	// ErrLockFile is returned for a tarn.lock that cannot be read.
	ErrLockFile = errdef.New(errdef.FailedPrecondition, "image.lock_file", "tarn.lock cannot be read")
	// ErrPlatform is returned for a host, or a lock, of a platform that does not fit.
	ErrPlatform = errdef.New(errdef.NotImplemented, "image.platform", "platform not supported")
)

// symptoms classify what uv says, first match wins: uv has one exit code for all of them. Offline comes
// first because uv explains a package that it may not look for as one that does not exist.
var symptoms = []struct {
	pattern *regexp.Regexp
	is      *errdef.Error
}{
	{regexp.MustCompile(`(?i)no space left on device|disk quota exceeded`), ErrDiskFull},
	{regexp.MustCompile(`(?i)authentication credentials|401 unauthorized|403 forbidden`), ErrLogin},
	{regexp.MustCompile(`(?i)network was disabled|network connectivity is disabled|error sending request|failed to fetch|connection refused|dns error|timed out`), ErrOffline},
	{regexp.MustCompile(`(?i)no solution found`), ErrUnsolvable},
	{regexp.MustCompile(`(?i)couldn't parse requirement|failed to parse`), ErrRequirement},
	{regexp.MustCompile(`(?i)no usable wheels|building source distributions .*is disabled|building from source is disabled`), ErrUnsolvable},
}

// decoration is what uv says before the explanation itself.
var decoration = regexp.MustCompile(`^(error:|×)\s*(No solution found[^\n]*\n\s*(cause:|[╰├]─▶)\s*)?`)

// uvError makes an error of what uv wrote when it failed; what says what it was to do.
func uvError(what, stderr string) *errdef.Error {
	text := hideLogins(strings.TrimSpace(stderr))
	kind := ErrResolver
	for _, s := range symptoms {
		if s.pattern.MatchString(text) {
			kind = s.is
			break
		}
	}
	text = decoration.ReplaceAllString(text, "")
	err := kind.Errorf("%s: %s", what, text)
	switch kind {
	case ErrOffline:
		return err.WithNext("check the network, or the index settings of uv or pip, and try again")
	case ErrLogin:
		return err.WithNext("give the index a name (name = \"own\" in [[index]]), and its credentials: tarn secret set UV_INDEX_OWN_USERNAME, and _PASSWORD; or variables of these names where the server is started")
	case ErrUnsolvable:
		return err.WithNext("change packages= of this environment")
	case ErrDiskFull:
		return err.WithNext("free space, or move the cache: TARN_CACHE=/other/disk")
	}
	return err
}
