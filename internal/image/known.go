package image

import (
	"os"
	"path/filepath"
)

// Locked looks a spec up in tarn.lock of projectDir. It resolves, builds and writes nothing: of packages of the project that changed
// since they were built, it takes that they need what they needed.
func (s *Store) Locked(projectDir string, spec Spec) (lock Lock, ok bool, err error) {
	spec, err = spec.canonical()
	if err != nil {
		return Lock{}, false, err
	}
	file, err := readLockFile(projectDir)
	if err != nil {
		return Lock{}, false, err
	}
	locks, _, err := s.known(file, []Spec{spec})
	if err != nil || len(locks) == 0 {
		return Lock{}, false, err
	}
	return locks[0], true, nil
}

// Unbuilt are the paths of the project whose packages, of lock, this host has not built yet with the content that they have.
func (s *Store) Unbuilt(lock Lock) []string {
	var paths []string
	for _, p := range lock.Packages {
		if p.Path != "" && !p.isWheel() && !exists(s.builtDir(p.SHA256, lock.Python)) {
			paths = append(paths, p.Path)
		}
	}
	return paths
}

// Installed reports whether the packages of lock are on this host.
func (s *Store) Installed(lock Lock) bool {
	_, err := os.Stat(filepath.Join(s.dir, "views", lock.viewID()))
	return err == nil
}
