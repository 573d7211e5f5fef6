package image

import (
	"os"
	"path/filepath"
)

// Locked looks a spec up in tarn.lock of projectDir. It resolves nothing and writes nothing.
func (s *Store) Locked(projectDir string, spec Spec) (lock Lock, ok bool, err error) {
	spec, err = spec.canonical()
	if err != nil {
		return Lock{}, false, err
	}
	file, err := readLockFile(projectDir)
	if err != nil {
		return Lock{}, false, err
	}
	locks, _ := s.known(file, []Spec{spec})
	if len(locks) == 0 {
		return Lock{}, false, nil
	}
	return locks[0], true, nil
}

// Installed reports whether the packages of lock are on this host.
func (s *Store) Installed(lock Lock) bool {
	_, err := os.Stat(filepath.Join(s.dir, "views", lock.viewID()))
	return err == nil
}
