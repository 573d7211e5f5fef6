package image

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// wheelScore orders the wheels of one release: built for this very Python first, then the one that may
// assume the newest libc, then the highest build number.
type wheelScore struct{ interpreter, libc, build int }

func (s wheelScore) compare(o wheelScore) int {
	return cmp.Or(cmp.Compare(s.interpreter, o.interpreter), cmp.Compare(s.libc, o.libc), cmp.Compare(s.build, o.build))
}

// scoreWheel reads a wheel's name (PEP 427) and reports whether it fits a Python and a platform.
func scoreWheel(file, minor, platform string) (wheelScore, bool) {
	parts := strings.Split(strings.TrimSuffix(file, ".whl"), "-")
	if len(parts) < 5 || len(parts) > 6 || !strings.HasSuffix(file, ".whl") {
		return wheelScore{}, false
	}
	best, fits := wheelScore{}, false
	build := 0
	if len(parts) == 6 {
		build, _ = strconv.Atoi(strings.TrimRight(parts[2], "abcdefghijklmnopqrstuvwxyz_")) // PEP 427: begins with a digit
	}
	tags := parts[len(parts)-3:]
	for python := range strings.SplitSeq(tags[0], ".") {
		for abi := range strings.SplitSeq(tags[1], ".") {
			for plat := range strings.SplitSeq(tags[2], ".") {
				i, ok1 := scoreInterpreter(python, abi, minor)
				l, ok2 := scorePlatform(plat, platform)
				score := wheelScore{i, l, build}
				if ok1 && ok2 && (!fits || score.compare(best) > 0) {
					best, fits = score, true
				}
			}
		}
	}
	return best, fits
}

func scoreInterpreter(python, abi, minor string) (int, bool) {
	v, _ := parsePyVersion(minor) // of our own making
	this := "cp" + strings.ReplaceAll(minor, ".", "")
	switch {
	case python == this && abi == this:
		return 1000, true
	case abi == "abi3" && strings.HasPrefix(python, "cp3"):
		n, err := strconv.Atoi(python[len("cp3"):])
		return 500 + n, err == nil && n <= v.at(1)
	case abi != "none":
		return 0, false
	case python == this:
		return 400, true
	case python == "py3":
		return 100, true
	case strings.HasPrefix(python, "py3"):
		n, err := strconv.Atoi(python[len("py3"):])
		return 200 + n, err == nil && n <= v.at(1)
	}
	return 0, false
}

// newestLibc is the minor version of glibc that uvPlatform lets wheels assume.
const newestLibc = 28

func scorePlatform(tag, platform string) (int, bool) {
	if tag == "any" {
		return 0, true
	}
	arch := strings.Split(platform, "-")[1]
	name, ok := strings.CutSuffix(tag, "_"+arch)
	if !ok {
		return 0, false
	}
	old := []string{"manylinux1", "manylinux2010", "manylinux2014"}
	if i := slices.Index(old, name); i >= 0 {
		return []int{5, 12, 17}[i], true
	}
	if name == "linux" {
		return 1, true
	}
	if rest, ok := strings.CutPrefix(name, "manylinux_2_"); ok {
		n, err := strconv.Atoi(rest)
		return n, err == nil && n <= newestLibc
	}
	return 0, false
}
