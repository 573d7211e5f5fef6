package cli

import (
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/pattern"
	"tarn.dev/tarn/internal/system/home"
)

// ErrNoProject is returned outside of a project.
var ErrNoProject = errdef.New(errdef.FailedPrecondition, "cli.no_project", "no project here").
	WithNext("tarn init", "cd into a project", "--project NAME (tarn status lists the projects)")

// projectFile makes a folder a project.
const projectFile = "tarn.toml"

// defaultBranch is the current branch of a project that nobody has switched.
const defaultBranch = "main"

// projectName is the name of the project that a command is about.
func (a *app) projectName() (string, error) {
	if a.project != "" {
		return a.project, nil
	}
	dir, err := projectDir()
	if err != nil {
		return "", err
	}
	return nameOf(dir)
}

// projectDir is the nearest folder upwards that holds tarn.toml.
func projectDir() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", errdef.Newf(errdef.FailedPrecondition, "cli.no_project", "find this folder: %w", err)
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		_, err := os.Stat(filepath.Join(dir, projectFile))
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			return "", errdef.Newf(errdef.FailedPrecondition, "cli.no_project", "look for %s: %w", projectFile, err)
		}
		if dir == filepath.Dir(dir) {
			return "", ErrNoProject.Errorf("no %s in %s or a folder above it", projectFile, start)
		}
	}
}

var notInNames = pattern.Of(`[^A-Za-z0-9_-]+`)

// nameOf is [project] name of tarn.toml, else the folder's name with a hash of its path, so that two
// folders of one name are two projects.
func nameOf(dir string) (string, error) {
	file := filepath.Join(dir, projectFile)
	b, err := os.ReadFile(file)
	if err != nil {
		return "", errdef.Newf(errdef.FailedPrecondition, "cli.project_file", "read %s: %w", file, err)
	}
	var config struct {
		Project struct {
			Name string `toml:"name"`
		} `toml:"project"`
	}
	if err := toml.Unmarshal(b, &config); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			row, column := at.Position()
			return "", errdef.Newf(errdef.InvalidArgument, "cli.project_file", "%s:%d:%d: %s", file, row, column, at.Error())
		}
		return "", errdef.Newf(errdef.InvalidArgument, "cli.project_file", "%s: %w", file, err)
	}
	if config.Project.Name != "" {
		return config.Project.Name, nil
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	sum := blake3.Sum256([]byte(dir))
	base := strings.Trim(notInNames().ReplaceAllString(filepath.Base(dir), "-"), "-_")
	if base == "" {
		base = "project"
	}
	return base[:min(len(base), 60)] + "-" + hex.EncodeToString(sum[:3]), nil
}

// currentBranch is TARN_BRANCH, else what `tarn switch` chose, else main.
func currentBranch(project string) (string, error) {
	if b := os.Getenv("TARN_BRANCH"); b != "" {
		return b, nil
	}
	h, err := home.Find()
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(h.CurrentBranch(filepath.Base(project)))
	if errors.Is(err, fs.ErrNotExist) {
		return defaultBranch, nil
	}
	if err != nil {
		return "", errdef.Newf(errdef.FailedPrecondition, "cli.current_branch", "read the current branch: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// setCurrentBranch remembers what `tarn switch` chose. Renaming makes it whole or not at all.
func setCurrentBranch(project, branch string) error {
	h, err := home.Find()
	if err != nil {
		return err
	}
	file := h.CurrentBranch(filepath.Base(project))
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "cli.current_branch", "remember the current branch: %w", err)
	}
	next, err := os.CreateTemp(filepath.Dir(file), ".new-")
	if err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "cli.current_branch", "remember the current branch: %w", err)
	}
	_, err = next.WriteString(branch + "\n")
	if err = errors.Join(err, next.Close()); err == nil {
		err = os.Rename(next.Name(), file)
	}
	if err != nil {
		return errdef.Newf(errdef.FailedPrecondition, "cli.current_branch", "remember the current branch: %w", errors.Join(err, os.Remove(next.Name())))
	}
	return nil
}
