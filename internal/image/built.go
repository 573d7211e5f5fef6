package image

import (
	"archive/zip"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/textproto"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"

	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/runtime"
)

// builtWheel is what became of a source distribution on this host.
type builtWheel struct {
	path, sha256 string
	mount        string // in the boxes of who installs it
}

// wheels are the built wheels of a lock, by the name of the package.
type wheels map[string]builtWheel

// mounts show the wheels, each in a folder of its own: uv reads what a wheel is from its file's name.
func (w wheels) mounts() []runtime.Mount {
	var mounts []runtime.Mount
	for _, b := range w {
		mounts = append(mounts, runtime.Mount{Name: b.mount, Source: filepath.Dir(b.path)})
	}
	return mounts
}

// url is where boxes that show w have it.
func (w builtWheel) url(b *box) string {
	return (&url.URL{Scheme: "file", Path: path.Join(b.Path(w.mount), filepath.Base(w.path))}).String()
}

// pinned is a requirements file that admits one file per package: uv takes no other than that of the hash.
func (w wheels) pinned(b *box, packages []Package) string {
	var text strings.Builder
	for _, p := range packages {
		if built, ok := w[p.Name]; ok {
			fmt.Fprintf(&text, "%s @ %s --hash=sha256:%s\n", p.Name, built.url(b), built.sha256)
		} else {
			fmt.Fprintf(&text, "%s==%s --hash=sha256:%s\n", p.Name, p.Version, p.SHA256)
		}
	}
	return text.String()
}

func (p Package) isWheel() bool { return strings.HasSuffix(p.File+p.Path, ".whl") }

// buildAll has a wheel of each package that is not one of an index: it builds what this host has not built yet.
func (s *Store) buildAll(ctx context.Context, view View, packages []Package, progress func(string)) (wheels, error) {
	built := wheels{}
	for i, p := range packages {
		var file string
		var err error
		switch {
		case p.Path != "":
			file, err = s.ownFile(ctx, view, p, progress)
		case p.isWheel():
			continue
		default:
			file, err = s.built(ctx, view, p, progress)
		}
		if err != nil {
			return nil, err
		}
		sum := p.SHA256
		if !p.isWheel() {
			if sum, err = hashFile(file); err != nil {
				return nil, err
			}
		}
		built[p.Name] = builtWheel{path: file, sha256: sum, mount: fmt.Sprint("wheel-", i)}
	}
	return built, nil
}

// built returns the wheel of a source distribution, which it builds unless it is there.
func (s *Store) built(ctx context.Context, view View, p Package, progress func(string)) (string, error) {
	return s.once(ctx, s.builtDir(p.SHA256, view.Lock.Python), func(staging string) error {
		progress("building " + p.Name + " " + p.Version + " from its sources")
		return s.buildWheel(ctx, view, p, staging)
	})
}

// ownFile is the wheel of a package of the project's folder.
func (s *Store) ownFile(ctx context.Context, view View, p Package, progress func(string)) (string, error) {
	folder, at := view.Lock.Folder, strings.TrimPrefix(p.Path, "./")
	if !p.isWheel() {
		return s.ownWheel(ctx, folder, at, p.SHA256, view.Python, view.Lock.Indexes, progress)
	}
	if folder == nil || folder.Digest(at) == "" {
		return "", ErrBuild.Errorf("%s is not there any more", p.Path).WithNext("run again")
	}
	laid, err := folder.Lay()
	return filepath.Join(laid, filepath.FromSlash(at)), err
}

// builtDir is where the wheel of sources lies, by their hash, that was built for a Python.
func (s *Store) builtDir(hash, minor string) string {
	return filepath.Join(s.dir, "built", hash+"-cp"+minor)
}

// once returns the wheel in a folder of built/, which is made whole or not at all.
func (s *Store) once(ctx context.Context, dir string, build func(staging string) error) (string, error) {
	if file, err := onlyWheel(dir); err == nil {
		return file, nil
	}
	name := filepath.Base(dir)
	release, err := s.lock(ctx, "built-"+name)
	if err != nil {
		return "", err
	}
	defer release()
	if file, err := onlyWheel(dir); err == nil {
		return file, nil // another process was faster
	}
	staging := filepath.Join(s.dir, "built", ".staging-"+name)
	err = os.RemoveAll(staging) // of a process that died
	if err == nil {
		err = os.Mkdir(staging, 0o755)
	}
	if err == nil {
		err = build(staging)
	}
	if err == nil {
		err = fault.Point("image.built.before_rename")
	}
	if err == nil {
		err = os.Rename(staging, dir)
	}
	if err != nil {
		return "", errors.Join(classify(err), os.RemoveAll(staging))
	}
	return onlyWheel(dir)
}

func onlyWheel(dir string) (string, error) {
	found, err := filepath.Glob(filepath.Join(dir, "*.whl"))
	if err != nil || len(found) != 1 {
		return "", ErrBuild.Errorf("%s holds %d wheels", dir, len(found))
	}
	return found[0], nil
}

// buildWheel builds p in a box, and takes the wheel over into dir. uv fetches the sources and compares them with the locked
// hash, makes an environment with what the build asks for, and runs the build; all in that box, with a cache of its own,
// so whatever the sources do is to themselves.
func (s *Store) buildWheel(ctx context.Context, view View, p Package, dir string) (err error) {
	b, err := s.uvBox(ctx, boxSpec{what: "build " + p.Name + " " + p.Version, indexes: view.Lock.Indexes, builds: true}, view.Python, nothing)
	if err != nil {
		return err
	}
	defer b.discard(&err)
	list, err := b.write("requirements.txt", wheels{}.pinned(b, []Package{p}))
	if err != nil {
		return err
	}
	args := append([]string{
		"pip", "install", "--requirements", list, "--target", filepath.Join(b.Home(), "unpacked"), "--python", view.Python.Path,
		"--no-deps", "--require-hashes", "--no-binary", p.Name,
	}, indexOptions(view.Lock.Indexes)...)
	if err := b.uv(ctx, nil, args...); err != nil {
		return err
	}
	// uv keeps what it built among the sources in its cache.
	file, err := b.find(cacheMount, func(name string) bool {
		parts := strings.Split(name, "-")
		_, fits := scoreWheel(name, view.Lock.Python, s.platform)
		return fits && Normalize(parts[0]) == p.Name && strings.HasPrefix(strings.ReplaceAll(parts[1], "_", "-"), strings.ReplaceAll(p.Version, "_", "-"))
	})
	if err != nil {
		return err
	}
	return b.takeWheel(file, dir, func(w *wheelInfo) error {
		if w.name != p.Name || w.version != p.Version {
			return fmt.Errorf("it says that it is %s %s", w.name, w.version)
		}
		return nil
	})
}

// find returns the one file below dir, of the box's own folder, that uv built and whose name is right.
func (b *box) find(dir string, right func(name string) bool) (string, error) {
	root, err := os.OpenRoot(b.HostHome())
	if err != nil {
		return "", err
	}
	var found []string
	err = fs.WalkDir(root.FS(), dir, func(at string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.HasPrefix(at, dir+"/sdists-") && strings.HasSuffix(at, ".whl") && right(d.Name()) {
			found = append(found, at)
		}
		return err
	})
	if err = errors.Join(err, root.Close()); err != nil {
		return "", ErrUnsafe.Errorf("%s: look for its wheel: %w", b.what, err)
	}
	if len(found) != 1 {
		return "", ErrBuild.Errorf("%s: the build made %d wheels of that name and version for this Python", b.what, len(found)).WithNext("its sources, or what builds them, are broken or hostile: use another version")
	}
	return found[0], nil
}

// takeWheel copies a wheel that the box left into dir, and checks the copy.
func (b *box) takeWheel(name, dir string, right func(*wheelInfo) error) (err error) {
	from, err := b.open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := os.OpenFile(filepath.Join(dir, path.Base(name)), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o444)
	if err != nil {
		return classify(err)
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	size, err := io.Copy(to, from)
	if err = errors.Join(err, to.Sync()); err != nil {
		return classify(err)
	}
	wheel, err := readWheel(to, size)
	if err == nil {
		err = right(wheel)
	}
	if err != nil {
		return ErrUnsafe.Errorf("%s: its wheel is refused: %w", b.what, err)
	}
	return nil
}

// readWheel looks at a wheel that nobody trustworthy made: its paths stay in one tree, it holds nothing but files and
// folders, each once, and it says once what it is.
func readWheel(r io.ReaderAt, size int64) (*wheelInfo, error) {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	var metadata *zip.File
	for _, f := range z.File {
		name := strings.TrimSuffix(f.Name, "/")
		switch mode := f.Mode(); {
		case !filepath.IsLocal(name) || path.Clean(name) != name || strings.ContainsAny(name, "\\\x00"):
			return nil, fmt.Errorf("the path %q leads out of it", f.Name)
		case !mode.IsDir() && !mode.IsRegular():
			return nil, fmt.Errorf("%q is neither a file nor a folder (%s)", f.Name, mode.Type())
		case seen[name]:
			return nil, fmt.Errorf("the path %q is there twice", f.Name)
		}
		seen[name] = true
		dir, base := path.Split(name)
		if base != "METADATA" || !strings.HasSuffix(dir, ".dist-info/") || strings.Count(dir, "/") != 1 {
			continue
		}
		if metadata != nil {
			return nil, errors.New("it says twice what it is")
		}
		metadata = f
	}
	if metadata == nil {
		return nil, errors.New("it does not say what it is")
	}
	content, err := metadata.Open()
	if err != nil {
		return nil, err
	}
	header, err := textproto.NewReader(bufio.NewReader(io.LimitReader(content, maxRead))).ReadMIMEHeader()
	if err = errors.Join(err, content.Close()); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("METADATA: %w", err)
	}
	return &wheelInfo{name: Normalize(header.Get("Name")), version: header.Get("Version"), header: header}, nil
}

func hashFile(path string) (sum string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil)), errors.Join(err, f.Close())
}
