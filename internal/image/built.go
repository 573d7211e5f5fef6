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

// pinned is a requirements file that admits one file per package: uv takes no other than that of the hash.
func (w wheels) pinned(b *box, packages []Package) string {
	var text strings.Builder
	for _, p := range packages {
		if built, ok := w[p.Name]; ok {
			fmt.Fprintf(&text, "%s @ file://%s --hash=sha256:%s\n", p.Name, path.Join(b.Path(built.mount), filepath.Base(built.path)), built.sha256)
		} else {
			fmt.Fprintf(&text, "%s==%s --hash=sha256:%s\n", p.Name, p.Version, p.SHA256)
		}
	}
	return text.String()
}

func (p Package) isWheel() bool { return strings.HasSuffix(p.File, ".whl") }

// buildAll makes a wheel of each source distribution among packages that this host has none of yet.
func (s *Store) buildAll(ctx context.Context, view View, packages []Package, progress func(string)) (wheels, error) {
	built := wheels{}
	for i, p := range packages {
		if p.isWheel() {
			continue
		}
		file, err := s.built(ctx, view, p, progress)
		if err != nil {
			return nil, err
		}
		sum, err := hashFile(file)
		if err != nil {
			return nil, err
		}
		built[p.Name] = builtWheel{path: file, sha256: sum, mount: fmt.Sprint("wheel-", i)}
	}
	return built, nil
}

// built returns the wheel of a source distribution, which it builds unless it is there.
func (s *Store) built(ctx context.Context, view View, p Package, progress func(string)) (string, error) {
	name := p.SHA256 + "-cp" + view.Lock.Python
	dir := filepath.Join(s.dir, "built", name)
	if file, err := onlyWheel(dir); err == nil {
		return file, nil
	}
	release, err := s.lock(ctx, "built-"+name)
	if err != nil {
		return "", err
	}
	defer release()
	if file, err := onlyWheel(dir); err == nil {
		return file, nil // another process was faster
	}
	progress("building " + p.Name + " " + p.Version + " from its sources")
	staging := filepath.Join(s.dir, "built", ".staging-"+name)
	err = os.RemoveAll(staging) // of a process that died
	if err == nil {
		err = os.Mkdir(staging, 0o755)
	}
	if err == nil {
		err = s.buildWheel(ctx, view, p, staging)
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
	return b.takeWheel(file, dir, p)
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
func (b *box) takeWheel(name, dir string, p Package) (err error) {
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
	if err := checkWheel(to, size, p); err != nil {
		return ErrUnsafe.Errorf("%s: its wheel is refused: %w", b.what, err)
	}
	return nil
}

// checkWheel looks at a wheel that nobody trustworthy made: its paths stay in one tree, it holds nothing but files and
// folders, each once, and it is the package and version that it was built as.
func checkWheel(r io.ReaderAt, size int64, p Package) error {
	z, err := zip.NewReader(r, size)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	var metadata *zip.File
	for _, f := range z.File {
		name := strings.TrimSuffix(f.Name, "/")
		switch mode := f.Mode(); {
		case !filepath.IsLocal(name) || path.Clean(name) != name || strings.ContainsAny(name, "\\\x00"):
			return fmt.Errorf("the path %q leads out of it", f.Name)
		case !mode.IsDir() && !mode.IsRegular():
			return fmt.Errorf("%q is neither a file nor a folder (%s)", f.Name, mode.Type())
		case seen[name]:
			return fmt.Errorf("the path %q is there twice", f.Name)
		}
		seen[name] = true
		dir, base := path.Split(name)
		if base != "METADATA" || !strings.HasSuffix(dir, ".dist-info/") || strings.Count(dir, "/") != 1 {
			continue
		}
		if metadata != nil {
			return errors.New("it says twice what it is")
		}
		metadata = f
	}
	if metadata == nil {
		return errors.New("it does not say what it is")
	}
	content, err := metadata.Open()
	if err != nil {
		return err
	}
	header, err := textproto.NewReader(bufio.NewReader(io.LimitReader(content, maxRead))).ReadMIMEHeader()
	if err = errors.Join(err, content.Close()); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("METADATA: %w", err)
	}
	if name, version := header.Get("Name"), header.Get("Version"); Normalize(name) != p.Name || version != p.Version {
		return fmt.Errorf("it says that it is %s %s", name, version)
	}
	return nil
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
