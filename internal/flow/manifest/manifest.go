// Package manifest holds the declarations of a project: what discovery found in its Python, SQL and
// script files. It is plain data; nothing here runs or reads anything.
//
// The JSON form is the contract with sdk/python (tarn._discover writes it), is stored in the history
// under def/NAME, and is versioned by Version.
package manifest

import (
	"encoding/json"
	"slices"

	"tarn.dev/tarn/internal/image"
)

// Version of the JSON form.
const Version = 1

// Manifest is everything a project declares.
type Manifest struct {
	Version   int        `json:"version"`
	Functions []Function `json:"functions"`
	Errors    []Problem  `json:"errors,omitempty"`
}

// Problem is a declaration that cannot be used.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line,omitempty"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// Kind says what a function is for.
type Kind string

// The kinds of functions.
const (
	Asset Kind = "asset"      // its output is in the history
	Check Kind = "check"      // it judges an asset or a table
	Plain Kind = "function"   // it is only called
	Entry Kind = "entrypoint" // a command line calls it, in the caller's own terminal
)

// Language says how a function is run.
type Language string

// The languages. Python and SQL know tables; a command gets files.
const (
	Python  Language = "python"
	SQL     Language = "sql"
	Command Language = "command"
)

// Mode says what publishing does with what was there before.
type Mode string

// The modes.
const (
	Replace Mode = "replace"
	Append  Mode = "append"
	Merge   Mode = "merge"
)

// Severity of a check.
type Severity string

// The severities: Fail stops the publish, Warn is only shown.
const (
	Fail Severity = "fail"
	Warn Severity = "warn"
)

// Function is one declared function.
type Function struct {
	Name        string      `json:"name"`
	Kind        Kind        `json:"kind"`
	Language    Language    `json:"language,omitempty"` // empty in what Python writes: Python
	File        string      `json:"file"`
	Line        int         `json:"line"`
	Module      string      `json:"module,omitempty"`
	Qualname    string      `json:"qualname,omitempty"`
	Description string      `json:"description,omitempty"`
	Env         *image.Spec `json:"env,omitempty"` // nil: the lookup order; only Name set: [env.NAME]
	Inputs      []Input     `json:"inputs,omitempty"`
	Params      []Param     `json:"params,omitempty"`
	Outputs     []string    `json:"outputs,omitempty"` // tables it makes; empty when it only writes files
	Mode        Mode        `json:"mode,omitempty"`
	Key         []string    `json:"key,omitempty"`
	Checks      []string    `json:"checks,omitempty"`
	Warn        []string    `json:"warn,omitempty"`
	CheckOf     string      `json:"check_of,omitempty"`
	Severity    Severity    `json:"severity,omitempty"`
	Options     Options     `json:"options"`
	// Partitions and Items are declared by the SDK already; nothing runs them yet.
	Partitions json.RawMessage `json:"partitions,omitempty"`
	Items      json.RawMessage `json:"items,omitempty"`
	SQL        string          `json:"sql,omitempty"`     // body, for SQL
	Command    []string        `json:"command,omitempty"` // argv, for Command
	OutFormats Formats         `json:"out_formats,omitempty"`
	Code       Code            `json:"code"`
}

// Formats maps an output of a command to the file format it writes.
type Formats map[string]string

// InputKind says what an input is.
type InputKind string

// The kinds of inputs.
const (
	InTable     InputKind = "table"
	InFiles     InputKind = "files"
	InLocal     InputKind = "local"
	InSecret    InputKind = "secret"
	InOutputDir InputKind = "output_dir"
	InContext   InputKind = "context"
	InPartition InputKind = "partition"
)

// Input is one declared input. Which fields are set follows from Kind.
type Input struct {
	Param   string    `json:"param"`
	Kind    InputKind `json:"kind"`
	Line    int       `json:"line,omitempty"`
	Table   string    `json:"table,omitempty"`
	Ref     string    `json:"ref,omitempty"`
	Columns []string  `json:"columns,omitempty"`
	Where   string    `json:"where,omitempty"`
	Format  string    `json:"format,omitempty"`
	Rows    string    `json:"rows,omitempty"`
	Glob    string    `json:"glob,omitempty"`
	Each    Each      `json:"each,omitempty"`
	GroupBy string    `json:"group_by,omitempty"`
	Batch   int       `json:"batch,omitempty"`
	Secret  string    `json:"secret,omitempty"`
}

// Each is what one item of an input is: "" for no items, "*" for one file, else a column's name.
// In JSON it is false, true or the column.
type Each string

// EachFile is the Each of tarn.files(each=True).
const EachFile Each = "*"

// MarshalJSON writes false, true or the column.
func (e Each) MarshalJSON() ([]byte, error) {
	switch e {
	case "":
		return []byte("false"), nil
	case EachFile:
		return []byte("true"), nil
	}
	return json.Marshal(string(e))
}

// UnmarshalJSON reads null, false, true or the column.
func (e *Each) UnmarshalJSON(b []byte) error {
	switch string(b) {
	case "null", "false":
		*e = ""
		return nil
	case "true":
		*e = EachFile
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	*e = Each(s)
	return nil
}

// Param is a run parameter: a plain default of the function.
type Param struct {
	Name    string          `json:"name"`
	Type    string          `json:"type,omitempty"` // int float str bool date datetime json
	Default json.RawMessage `json:"default"`
}

// Options are the options every decorator takes. Times are in seconds.
type Options struct {
	Resources      *Resources `json:"resources,omitempty"`
	Retry          *Retry     `json:"retry,omitempty"`
	Timeout        float64    `json:"timeout,omitempty"`
	Network        bool       `json:"network,omitempty"`
	Fresh          float64    `json:"fresh,omitempty"`
	Cache          *bool      `json:"cache,omitempty"`
	Secrets        []string   `json:"secrets,omitempty"`
	StartTimeout   float64    `json:"start_timeout,omitempty"`   // of calls
	Priority       int        `json:"priority,omitempty"`        // higher goes first
	ConcurrencyKey string     `json:"concurrency_key,omitempty"` // what the limit is of; empty: the function
	Concurrency    int        `json:"concurrency,omitempty"`
	Tags           []string   `json:"tags,omitempty"`
	Owners         []string   `json:"owners,omitempty"`
	AllowFailed    float64    `json:"allow_failed,omitempty"`
	Isolate        string     `json:"isolate,omitempty"` // IsolateItem, or "": the items of a step share sandboxes
	Isolation      string     `json:"isolation,omitempty"`
}

// IsolateItem gives each item a sandbox of its own.
const IsolateItem = "item"

// Resources that one invocation may use.
type Resources struct {
	CPU    float64 `json:"cpu,omitempty"`
	Memory string  `json:"memory,omitempty"` // "2GiB"
	GPU    string  `json:"gpu,omitempty"`
	Disk   string  `json:"disk,omitempty"`
}

// Retry says when and how a failed attempt is tried again.
type Retry struct {
	Times    int      `json:"times"`
	On       []string `json:"on,omitempty"` // exception class names; empty: any
	Delay    float64  `json:"delay,omitempty"`
	Backoff  float64  `json:"backoff,omitempty"`
	MaxDelay float64  `json:"max_delay,omitempty"`
	Jitter   float64  `json:"jitter,omitempty"` // the share of a delay that chance may take off
}

// Code is what makes two functions the same code.
type Code struct {
	Parts []CodePart `json:"parts"`
	Files []string   `json:"files,omitempty"` // file names that the code names in a literal
	Plain bool       `json:"plain,omitempty"`
	Why   []string   `json:"why,omitempty"` // what made a module not plain
}

// CodePart is one module ("*") or one definition of it, with the hash of its normalised syntax.
type CodePart struct {
	Module string `json:"module"`
	Name   string `json:"name"`
	Hash   string `json:"hash"`
}

// Function returns the function of that name, or nil.
func (m *Manifest) Function(name string) *Function {
	for i := range m.Functions {
		if m.Functions[i].Name == name {
			return &m.Functions[i]
		}
	}
	return nil
}

// Judged is the asset that a check function is of, or nil: it may judge a table that none makes.
func (m *Manifest) Judged(check *Function) *Function {
	for i := range m.Functions {
		if _, ok := check.Judges(&m.Functions[i]); ok {
			return &m.Functions[i]
		}
	}
	return nil
}

// Judges reports whether a check function is of asset a, for it names a or a table of a, and of which table.
func (f *Function) Judges(a *Function) (table string, ok bool) {
	switch {
	case f.Kind != Check || a.Kind != Asset:
		return "", false
	case slices.Contains(a.Outputs, f.CheckOf):
		return f.CheckOf, true
	case a.Name == f.CheckOf && len(a.Outputs) > 0:
		return a.Outputs[0], true
	}
	return f.CheckOf, a.Name == f.CheckOf
}

// Tables are the inputs that are tables, in declaration order.
func (f *Function) Tables() []Input {
	var out []Input
	for _, in := range f.Inputs {
		if in.Kind == InTable {
			out = append(out, in)
		}
	}
	return out
}

// Secrets are the names of the secrets that the function gets, sorted.
func (f *Function) Secrets() []string {
	names := slices.Clone(f.Options.Secrets)
	for _, in := range f.Inputs {
		if in.Kind == InSecret {
			names = append(names, in.Secret)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// WritesFiles reports whether the function has an OutputDir.
func (f *Function) WritesFiles() bool {
	for _, in := range f.Inputs {
		if in.Kind == InOutputDir {
			return true
		}
	}
	return false
}

// ItemInput is the input that cuts the function's work into items, or nil.
func (f *Function) ItemInput() *Input {
	for i, in := range f.Inputs {
		if in.Each != "" || in.GroupBy != "" {
			return &f.Inputs[i]
		}
	}
	return nil
}
