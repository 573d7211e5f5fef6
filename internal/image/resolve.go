package image

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"
)

// Resolve returns the lock of each spec, in order. What tarn.lock in projectDir knows is taken from
// there, without a process or a network access; the rest is resolved and added to the file.
func (s *Store) Resolve(ctx context.Context, projectDir string, specs []Spec) ([]Lock, error) {
	return s.resolve(ctx, projectDir, specs, false)
}

// Upgrade resolves all specs anew, whatever tarn.lock says, and drops from it what is none of them.
func (s *Store) Upgrade(ctx context.Context, projectDir string, specs []Spec) ([]Lock, error) {
	return s.resolve(ctx, projectDir, specs, true)
}

func (s *Store) resolve(ctx context.Context, projectDir string, specs []Spec, upgrade bool) ([]Lock, error) {
	projectDir, err := filepath.Abs(projectDir)
	if err != nil {
		return nil, err
	}
	wanted := make([]Spec, len(specs))
	for i, spec := range specs {
		if wanted[i], err = spec.canonical(); err != nil {
			return nil, err
		}
	}
	if !upgrade {
		file, err := readLockFile(projectDir)
		if err != nil {
			return nil, err
		}
		if err := s.readyOwn(ctx, file, wanted); err != nil {
			return nil, err
		}
		if locks, missing, err := s.known(file, wanted); err != nil || len(missing) == 0 {
			return locks, err
		}
	}

	// One writer at a time: two that resolve different specs must not lose each other's.
	sum := blake3.Sum256([]byte(projectDir))
	release, err := s.lock(ctx, "project-"+hex.EncodeToString(sum[:8]))
	if err != nil {
		return nil, err
	}
	defer release()
	file, err := readLockFile(projectDir)
	if err != nil {
		return nil, err
	}
	todo := wanted
	if !upgrade {
		if _, todo, err = s.known(file, wanted); err != nil {
			return nil, err
		}
	}
	entries := make([]entry, len(todo))
	work, wctx := errgroup.WithContext(ctx)
	work.SetLimit(4)
	for i, spec := range todo {
		work.Go(func() (err error) {
			entries[i], err = s.resolveOne(wctx, projectDir, spec, file, upgrade)
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	if upgrade {
		file.Environments = nil
	}
	for _, e := range entries {
		file.put(e)
	}
	file.Version = lockFileVersion
	if err := writeFile(filepath.Join(projectDir, LockFile), file.encode(), 0o644); err != nil {
		return nil, err
	}
	locks, _, err := s.known(file, wanted)
	return locks, err
}

// known looks the specs up; missing holds each spec that is not there once.
func (s *Store) known(file *lockFile, specs []Spec) (locks []Lock, missing []Spec, err error) {
	seen := map[string]bool{}
	for _, spec := range specs {
		key := spec.fileKey()
		e, ok := file.find(key, s.platform)
		if ok {
			if e, ok, err = s.current(e, spec); err != nil {
				return nil, nil, err
			}
		}
		if ok {
			locks = append(locks, e.lock(spec))
		} else if !seen[key] {
			seen[key] = true
			missing = append(missing, spec)
		}
	}
	return locks, missing, nil
}

// fileKey is the SpecKey of what is resolved: variables change no package, and may hold what does not
// belong into git.
func (s Spec) fileKey() string {
	s.Vars = nil
	return s.SpecKey()
}

func (s *Store) resolveOne(ctx context.Context, projectDir string, spec Spec, file *lockFile, upgrade bool) (entry, error) {
	want, err := parsePythonRange(spec.Python)
	if err != nil {
		return entry{}, err
	}
	e := entry{Spec: spec.fileKey(), Platform: s.platform, Resolved: time.Now().UTC().Truncate(time.Second)}
	known, there := file.find(e.Spec, s.platform)
	if !there {
		if i := slices.IndexFunc(file.Environments, func(o entry) bool { return o.Spec == e.Spec }); i >= 0 {
			known, there = file.Environments[i], true
		}
	}
	if there && !upgrade {
		if want, err = parsePythonRange(known.Python); err != nil {
			return entry{}, err
		}
	}
	python, err := s.choose(ctx, spec.label(), want)
	if err != nil {
		return entry{}, err
	}
	e.Python = python.Minor
	more, err := projectIndexes(projectDir)
	if err != nil {
		return entry{}, err
	}
	for _, index := range slices.Concat(spec.Indexes, more) {
		if !slices.Contains(e.Indexes, index) {
			e.Indexes = append(e.Indexes, index)
		}
	}

	r := resolution{spec: spec, python: python}
	if r.own, err = s.buildOwn(ctx, spec, python, e.Indexes); err != nil {
		return entry{}, err
	}
	if there && !upgrade {
		e.Resolved = r.follow(known, e)
	}
	e.Packages, err = s.compile(ctx, r, r.requirements(), e)
	if err != nil || !spec.Tables || e.hasArrow() {
		return e, err
	}
	arrow := pinnedArrow
	if slices.ContainsFunc(e.Packages, func(p Package) bool { return p.Name == "numpy" && strings.HasPrefix(p.Version, "1.") }) {
		arrow = []string{arrowForNumpy1}
	}
	if slices.ContainsFunc(r.constraints, func(c string) bool { return strings.HasPrefix(c, "pyarrow==") }) {
		arrow = []string{"pyarrow"} // an earlier release may have pinned another one
	}
	e.Packages, err = s.compile(ctx, r, slices.Concat(r.requirements(), arrow), e)
	return e, err
}

func (e entry) hasArrow() bool {
	l := Lock{Packages: e.Packages}
	return l.Has("pyarrow") || l.Has("polars")
}

// resolution is what uv is to find packages for.
type resolution struct {
	spec        Spec
	python      Interpreter
	own         []ownPackage // of the project's folder, built
	constraints []string     // versions that somebody resolved for another platform
	prefer      []Package    // versions that are kept where they fit
}

// requirements are those of an index.
func (r *resolution) requirements() []string {
	return slices.DeleteFunc(slices.Clone(r.spec.Packages), isOwn)
}

// follow has versions chosen as in an entry of tarn.lock, and returns until when packages count. What was resolved on another
// platform is meant here too. If packages of the project want something else than they did then, as much as possible stays.
func (r *resolution) follow(known, e entry) time.Time {
	same := known.Platform != e.Platform
	for _, o := range r.own {
		same = same && slices.Contains(known.Packages, o.filed())
	}
	of := slices.DeleteFunc(slices.Clone(known.Packages), func(p Package) bool { return p.Path != "" })
	if !same {
		r.prefer = of
		return e.Resolved
	}
	for _, p := range of {
		r.constraints = append(r.constraints, p.Name+"=="+p.Version)
	}
	return known.Resolved
}

// preferences are a pylock.toml that uv finds where it is to write one: it keeps the versions there, if they fit.
func (r *resolution) preferences() string {
	var b strings.Builder
	b.WriteString("lock-version = \"1.0\"\ncreated-by = \"tarn\"\n")
	for _, p := range r.prefer {
		fmt.Fprintf(&b, "\n[[packages]]\nname = %s\nversion = %s\n", quote(p.Name), quote(p.Version))
	}
	return b.String()
}

// compile resolves requirements, and r's own packages, for e's platform. Where sources may be built, finding out what one requires may run its
// code, in a box of its own.
func (s *Store) compile(ctx context.Context, r resolution, requirements []string, e entry) (_ []Package, err error) {
	if len(requirements)+len(r.own) == 0 {
		return nil, nil
	}
	spec, own := r.spec, wheels{}
	for i, o := range r.own {
		own[o.path] = builtWheel{path: o.file, mount: fmt.Sprint("own-", i)}
	}
	b, err := s.uvBox(ctx, boxSpec{what: spec.label(), indexes: e.Indexes, mounts: own.mounts(), builds: spec.Build}, r.python, nothing)
	if err != nil {
		return nil, err
	}
	defer b.discard(&err)
	for _, o := range r.own {
		requirements = append(slices.Clip(requirements), o.wheel.name+o.extras+" @ "+own[o.path].url(b))
	}
	in, err := b.write("requirements.txt", strings.Join(requirements, "\n")+"\n")
	if err != nil {
		return nil, err
	}
	const out = "pylock.toml"
	args := []string{
		"pip", "compile", in, "--quiet", "--no-header", "--format", "pylock.toml", "--output-file", filepath.Join(b.Home(), out),
		"--python", r.python.Path, "--python-version", r.python.Minor, "--python-platform", uvPlatform[s.platform],
	}
	if !spec.Build {
		args = append(args, "--only-binary", ":all:")
	}
	args = append(args, indexOptions(e.Indexes)...)
	if bounds := slices.Concat(r.constraints, spec.Constraints); len(bounds) > 0 {
		name, err := b.write("constraints.txt", strings.Join(bounds, "\n")+"\n")
		if err != nil {
			return nil, err
		}
		args = append(args, "--constraints", name)
	}
	if len(r.prefer) > 0 {
		if _, err := b.write(out, r.preferences()); err != nil {
			return nil, err
		}
	}
	if r.constraints != nil {
		args = append(args, "--exclude-newer", e.Resolved.Format(time.RFC3339))
	}
	if err := b.uv(ctx, nil, args...); err != nil {
		return nil, err
	}
	content, err := b.read(out)
	if err != nil {
		return nil, err
	}
	packages, err := readPylock(content, r.python.Minor, s.platform, r.own)
	if err != nil {
		return nil, ErrResolver.Errorf("%s: %w", spec.label(), err)
	}
	return packages, nil
}

// nothing takes lines for people when nobody waits for them.
func nothing(string) {}

func indexOptions(indexes []string) []string {
	var args []string
	for _, index := range indexes {
		args = append(args, "--index", index)
	}
	return args
}

// uvPlatform is what wheels may assume of each platform. glibc 2.28 is what the oldest distributions in
// use have; taking the host's own would make locks differ between hosts.
var uvPlatform = map[string]string{
	"linux-x86_64-glibc":  "x86_64-manylinux_2_28",
	"linux-aarch64-glibc": "aarch64-manylinux_2_28",
}

// pylock is the part of a pylock.toml (PEP 751) that is read.
type pylock struct {
	Packages []struct {
		Name    string       `toml:"name"`
		Version string       `toml:"version"`
		Wheels  []pylockFile `toml:"wheels"`
		Sdist   *pylockFile  `toml:"sdist"`
	} `toml:"packages"`
}

type pylockFile struct {
	Name   string            `toml:"name"`
	URL    string            `toml:"url"`
	Path   string            `toml:"path"` // an index of local files
	Hashes map[string]string `toml:"hashes"`
}

func (f pylockFile) fileName() string {
	if f.Name != "" {
		return f.Name
	}
	if f.Path != "" {
		return path.Base(filepath.ToSlash(f.Path))
	}
	u, err := url.Parse(f.URL)
	if err != nil {
		return ""
	}
	return path.Base(u.Path)
}

// readPylock takes one file of each package: the most specific wheel, else the source distribution. Those of the project's folder
// are as they are there.
func readPylock(b []byte, minor, platform string, own []ownPackage) ([]Package, error) {
	var lock pylock
	if err := toml.Unmarshal(b, &lock); err != nil {
		return nil, err
	}
	var out []Package
	for _, p := range lock.Packages {
		if i := slices.IndexFunc(own, func(o ownPackage) bool { return o.wheel.name == Normalize(p.Name) }); i >= 0 {
			out = append(out, own[i].filed())
			continue
		}
		var best pylockFile
		bestScore := wheelScore{}
		for _, w := range p.Wheels {
			score, ok := scoreWheel(w.fileName(), minor, platform)
			if ok && w.Hashes["sha256"] != "" && (best.Hashes == nil || score.compare(bestScore) > 0) {
				best, bestScore = w, score
			}
		}
		if best.Hashes == nil && p.Sdist != nil && p.Sdist.Hashes["sha256"] != "" {
			best = *p.Sdist
		}
		if best.Hashes == nil || p.Version == "" {
			return nil, errors.New(p.Name + ": the index gives no file of it with a SHA-256 that fits " + platform)
		}
		out = append(out, Package{Name: Normalize(p.Name), Version: p.Version, File: best.fileName(), SHA256: best.Hashes["sha256"]})
	}
	slices.SortFunc(out, func(x, y Package) int { return cmp.Compare(x.Name, y.Name) })
	return out, nil
}
