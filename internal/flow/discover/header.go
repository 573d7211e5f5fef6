package discover

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow/manifest"
	"tarn.dev/tarn/internal/image"
)

// ErrHeader is a "tarn:" header that cannot be read.
var ErrHeader = errdef.New(errdef.InvalidArgument, "discover.header", "header cannot be read")

// header is what the "-- tarn:" or "# tarn:" lines of a file may say: the decorator's option names.
type header struct {
	Mode       string            `toml:"mode"`
	Key        []string          `toml:"key"`
	Checks     []string          `toml:"checks"`
	Warn       []string          `toml:"warn"`
	Params     map[string]any    `toml:"params"`
	Check      string            `toml:"check"`
	Severity   string            `toml:"severity"`
	Inputs     map[string]string `toml:"inputs"`
	Outputs    map[string]string `toml:"outputs"`
	Env        string            `toml:"env"`
	Tags       []string          `toml:"tags"`
	Owners     []string          `toml:"owners"`
	Timeout    string            `toml:"timeout"`
	Retry      int               `toml:"retry"`
	Network    bool              `toml:"network"`
	Fresh      string            `toml:"fresh"`
	Cache      *bool             `toml:"cache"`
	Secrets    []string          `toml:"secrets"`
	Memory     string            `toml:"memory"`
	Disk       string            `toml:"disk"`
	CPU        float64           `toml:"cpu"`
	Concurrent int               `toml:"concurrency"`
}

var headerKeys = []string{
	"mode", "key", "checks", "warn", "params", "check", "severity", "inputs", "outputs", "env", "tags",
	"owners", "timeout", "retry", "network", "fresh", "cache", "secrets", "memory", "disk", "cpu", "concurrency",
}

// byteOrderMark begins text files of some editors.
const byteOrderMark = "\ufeff"

var commentMarks = []string{"--", "#", "//"}

// readHeader collects the tarn lines among a file's leading comments. found is false when there is none.
// The first comment without "tarn:" is the description.
func readHeader(file string, src []byte) (h header, description string, line int, found bool, err error) {
	n := 0
	for raw := range bytes.Lines(bytes.TrimPrefix(src, []byte(byteOrderMark))) {
		n++
		text := strings.TrimSpace(string(raw))
		if text == "" || strings.HasPrefix(text, "#!") || text == "<?php" {
			continue
		}
		body, ok := comment(text)
		if !ok {
			break
		}
		opts, ok := strings.CutPrefix(body, "tarn:")
		if !ok {
			if description == "" {
				description = body
			}
			continue
		}
		if !found {
			found, line = true, n
		}
		if err := h.merge(opts); err != nil {
			return h, "", n, true, ErrHeader.Errorf("%s:%d: %w", file, n, err)
		}
	}
	return h, description, line, found, nil
}

func comment(text string) (string, bool) {
	for _, mark := range commentMarks {
		if body, ok := strings.CutPrefix(text, mark); ok {
			return strings.TrimSpace(strings.TrimLeft(body, "-#/")), true
		}
	}
	return "", false
}

// merge reads one line: the inside of a TOML inline table.
func (h *header) merge(opts string) error {
	md, err := toml.Decode("x = {"+opts+"}", &struct{ X *header }{X: h})
	if err != nil {
		return fmt.Errorf("%q is not TOML: %w", strings.TrimSpace(opts), err)
	}
	if extra := md.Undecoded(); len(extra) > 0 {
		name := extra[0][len(extra[0])-1]
		if len(extra[0]) > 1 {
			name = extra[0][1]
		}
		return fmt.Errorf("unknown option %q. %sOptions: %s", name, manifest.DidYouMean(name, headerKeys), strings.Join(headerKeys, ", "))
	}
	return nil
}

// function builds what SQL and scripts have in common.
func (h header) function(file, description string, line int) (manifest.Function, error) {
	stem := strings.TrimSuffix(path.Base(file), path.Ext(file))
	f := manifest.Function{
		Name: stem, Kind: manifest.Asset, File: file, Line: max(line, 1), Description: description,
		Mode: manifest.Mode(h.Mode), Key: h.Key, Checks: h.Checks, Warn: h.Warn, Outputs: []string{stem},
		Options: manifest.Options{
			Network: h.Network, Cache: h.Cache, Secrets: h.Secrets, Tags: h.Tags, Owners: h.Owners, Concurrency: h.Concurrent,
		},
	}
	if f.Mode == "" {
		f.Mode = manifest.Replace
	}
	if !slices.Contains([]manifest.Mode{manifest.Replace, manifest.Append, manifest.Merge}, f.Mode) {
		return f, ErrHeader.Errorf("%s:%d: mode = %q. Modes: replace, append, merge", file, line, h.Mode)
	}
	if f.Mode == manifest.Merge && len(f.Key) == 0 {
		return f, ErrHeader.Errorf("%s:%d: mode = \"merge\" needs key = [\"column\"]", file, line)
	}
	if h.Env != "" {
		f.Env = &image.Spec{Name: h.Env}
	}
	if h.Retry > 0 {
		f.Options.Retry = &manifest.Retry{Times: h.Retry}
	}
	if h.Memory != "" || h.Disk != "" || h.CPU != 0 {
		f.Options.Resources = &manifest.Resources{Memory: h.Memory, Disk: h.Disk, CPU: h.CPU}
	}
	for _, d := range []struct {
		name, text string
		to         *float64
	}{{"timeout", h.Timeout, &f.Options.Timeout}, {"fresh", h.Fresh, &f.Options.Fresh}} {
		if d.text == "" {
			continue
		}
		v, err := time.ParseDuration(d.text)
		if err != nil || v <= 0 {
			return f, ErrHeader.Errorf("%s:%d: %s = %q. Write a time such as \"90s\" or \"5m\"", file, line, d.name, d.text)
		}
		*d.to = v.Seconds()
	}
	if h.Check != "" {
		f.Kind, f.CheckOf, f.Outputs = manifest.Check, h.Check, nil
		f.Severity = manifest.Fail
		if h.Severity != "" {
			f.Severity = manifest.Severity(h.Severity)
		}
		if f.Severity != manifest.Fail && f.Severity != manifest.Warn {
			return f, ErrHeader.Errorf("%s:%d: severity = %q. Severities: fail, warn", file, line, h.Severity)
		}
	}
	return f, h.params(&f)
}

func (h header) params(f *manifest.Function) error {
	for name, v := range h.Params {
		kind := paramType(v)
		if at, ok := v.(time.Time); ok {
			kind, v = timeParam(at)
		}
		b, err := json.Marshal(v)
		if err != nil {
			return ErrHeader.Errorf("%s:%d: parameter %s: %w", f.File, f.Line, name, err)
		}
		f.Params = append(f.Params, manifest.Param{Name: name, Type: kind, Default: b})
	}
	slices.SortFunc(f.Params, func(a, b manifest.Param) int { return strings.Compare(a.Name, b.Name) })
	return nil
}

func paramType(v any) string {
	switch v.(type) {
	case int64:
		return "int"
	case float64:
		return "float"
	case bool:
		return "bool"
	case string:
		return "str"
	}
	return "json"
}

// timeParam tells a date from a time, and leaves out the zone where none is written: TOML's own is that of
// this machine, and the same code must mean the same elsewhere.
func timeParam(at time.Time) (kind, text string) {
	switch at.Location().String() { // names that toml gives to what has no zone
	case "date-local":
		return "date", at.Format(time.DateOnly)
	case "time-local":
		return "str", at.Format("15:04:05.999999999")
	case "datetime-local":
		return "datetime", at.Format("2006-01-02T15:04:05.999999999")
	}
	return "datetime", at.Format(time.RFC3339Nano)
}
