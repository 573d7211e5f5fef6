package image

import (
	"regexp"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/pattern"
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
	// ErrBuild is returned when a source distribution cannot be built.
	ErrBuild = errdef.New(errdef.FailedPrecondition, "image.build_failed", "package could not be built")
	// ErrSources is returned where only sources would do, and nobody allowed to build them.
	ErrSources = errdef.New(errdef.FailedPrecondition, "image.sources_only", "package would have to be built")
	// ErrHash is returned for a package that is not the one in tarn.lock.
	ErrHash = errdef.New(errdef.DataLoss, "image.hash_mismatch", "package is not what was locked")
	// ErrUnsafe is returned for a package, or the outcome of a build, with something in it that no package may have.
	ErrUnsafe = errdef.New(errdef.PermissionDenied, "image.unsafe_package", "package is refused")
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
	says func() *regexp.Regexp
	is   *errdef.Error
}{
	{pattern.Of(`(?i)no space left on device|disk quota exceeded`), ErrDiskFull},
	{pattern.Of(`(?i)authentication credentials|401 unauthorized|403 forbidden`), ErrLogin},
	{pattern.Of(`(?i)network was disabled|network connectivity is disabled|error sending request|failed to fetch|connection refused|dns error|timed out`), ErrOffline},
	{pattern.Of(`(?i)building from source is disabled|building source distributions .*is disabled`), ErrSources},
	{pattern.Of(`(?i)failed to build|build backend (failed|returned)|failed to download and build`), ErrBuild},
	{pattern.Of(`(?i)no solution found`), ErrUnsolvable},
	{pattern.Of(`(?i)couldn't parse requirement|failed to parse`), ErrRequirement},
	{pattern.Of(`(?i)no usable wheels`), ErrUnsolvable},
}

// decoration is what uv says before the explanation itself.
var decoration = pattern.Of(`^(error:|×)\s*(No solution found[^\n]*\n\s*(cause:|[╰├]─▶)\s*)?`)

// mismatch is how uv says that it got another file than the one that was locked.
var mismatch = pattern.Of("(?s)Hash mismatch for `([^`]+?)(?:==([^`]+))?`.*Expected:\\s+(sha256:\\w+).*Computed:\\s+(sha256:\\w+)")

// uvError makes an error of what uv wrote when it failed; what says what it was to do.
func uvError(what, stderr string) *errdef.Error {
	text := hideLogins(strings.TrimSpace(stderr))
	if m := mismatch().FindStringSubmatch(text); m != nil {
		return ErrHash.Errorf("%s: %s is not the file that was locked: tarn.lock says %s, it is %s", what, strings.TrimSpace(m[1]+" "+m[2]), m[3], m[4]).
			WithNext("find out who changed it; if the index replaced it for a good reason, tarn env lock --upgrade")
	}
	kind := ErrResolver
	for _, s := range symptoms {
		if s.says().MatchString(text) {
			kind = s.is
			break
		}
	}
	text = decoration().ReplaceAllString(text, "")
	err := kind.Errorf("%s: %s", what, text)
	switch kind {
	case ErrOffline:
		return err.WithNext("check the network, or the index settings of uv or pip, and try again")
	case ErrLogin:
		return err.WithNext("give the index a name (name = \"own\" in [[index]]), and its credentials: tarn secret set UV_INDEX_OWN_USERNAME, and _PASSWORD; or variables of these names where the server is started")
	case ErrUnsolvable:
		return err.WithNext("change packages= of this environment")
	case ErrSources:
		return err.WithNext("use a version that has a wheel, or allow to build it in a sandbox: build = true in [env.NAME] of tarn.toml, or tarn.Env(build=True)")
	case ErrBuild:
		return err.WithNext("see above what its build says; compilers and libraries are those of this host")
	case ErrDiskFull:
		return err.WithNext("free space, or move the cache: TARN_CACHE=/other/disk")
	}
	return err
}
