// Package ui is how the CLI looks: columns, sizes, times, colours, progress. What goes to a terminal may
// be coloured and relative; what goes into a pipe is plain and exact.
package ui

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/fatih/color"
	"github.com/mattn/go-isatty"
	"github.com/mattn/go-runewidth"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// Out is a stream that people or programs read.
type Out struct {
	io.Writer
	// Terminal tells whether a person looks at it.
	Terminal bool
}

// File wraps a stream of the process.
func File(f *os.File) Out { return Out{f, isatty.IsTerminal(f.Fd())} }

// Width is the number of columns, 80 when unknown.
func (o Out) Width() int {
	if f, ok := o.Writer.(*os.File); ok && o.Terminal {
		if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w
		}
	}
	return 80
}

// Printf writes text. A stream that cannot be written to has no reader to tell.
func (o Out) Printf(format string, args ...any) {
	fmt.Fprintf(o.Writer, format, args...) //nolint:errcheck
}

func (o Out) paint(text string, attributes ...color.Attribute) string {
	if !o.Terminal || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return text
	}
	c := color.New(attributes...)
	c.EnableColor()
	return c.Sprint(text)
}

// Colours by meaning.
func (o Out) Bold(s string) string { return o.paint(s, color.Bold) }
func (o Out) Dim(s string) string  { return o.paint(s, color.Faint) }
func (o Out) Good(s string) string { return o.paint(s, color.FgGreen) }
func (o Out) Warn(s string) string { return o.paint(s, color.FgYellow) }
func (o Out) Bad(s string) string  { return o.paint(s, color.FgRed) }
func (o Out) ID(s string) string   { return o.paint(s, color.FgYellow) }

// Column describes one column of a table.
type Column struct {
	Name  string
	Right bool
}

// Table prints rows in aligned columns. The head is for people: into a pipe go the rows alone.
func (o Out) Table(columns []Column, rows [][]string) {
	all := rows
	if o.Terminal && len(rows) > 0 {
		head := make([]string, len(columns))
		for i, c := range columns {
			head[i] = o.Dim(c.Name)
		}
		all = append([][]string{head}, rows...)
	}
	widths := make([]int, len(columns))
	for _, row := range all {
		for i, cell := range row {
			widths[i] = max(widths[i], visible(cell))
		}
	}
	var b strings.Builder
	for _, row := range all {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 {
				line.WriteString("  ")
			}
			pad := strings.Repeat(" ", widths[i]-visible(cell))
			if columns[i].Right {
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " "))
		b.WriteByte('\n')
	}
	o.Printf("%s", b.String())
}

// visible is the width of a cell on the screen, without colours.
func visible(s string) int {
	for {
		i := strings.Index(s, "\x1b[")
		if i < 0 {
			return runewidth.StringWidth(s)
		}
		j := strings.IndexByte(s[i:], 'm')
		if j < 0 {
			return runewidth.StringWidth(s)
		}
		s = s[:i] + s[i+j+1:]
	}
}

// Size is a number of bytes as people write it.
func Size(n int64) string {
	if n < 0 {
		return "-"
	}
	return humanize.IBytes(uint64(n))
}

// Count is a number with its noun: "1 file", "3,000 files".
func Count(n int64, noun string) string {
	if n != 1 {
		noun += "s"
		if strings.HasSuffix(noun, "chs") {
			noun = strings.TrimSuffix(noun, "s") + "es"
		}
	}
	return humanize.Comma(n) + " " + noun
}

// Time is relative on a terminal and exact in a pipe.
func (o Out) Time(t time.Time) string {
	if o.Terminal {
		return humanize.Time(t)
	}
	return t.UTC().Format(time.RFC3339)
}

// Clean makes text from elsewhere safe to print: a file's name may hold anything, and an escape
// sequence in it must not reach the terminal.
func Clean(s string) string {
	for _, r := range s {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) || r == '\uFFFD' {
			return fmt.Sprintf("%q", s)
		}
	}
	return s
}

// Busy shows what is under way on a line that does not stay: Settle, or the next one, takes it away.
func (o Out) Busy(text string) {
	o.Printf("\r\x1b[K%s\r", o.Dim(runewidth.Truncate(text, o.Width()-1, "…")))
}

// Settle clears the line for what stays.
func (o Out) Settle() {
	if o.Terminal {
		o.Printf("\x1b[K")
	}
}

// Progress shows how much of total bytes is done; it shows nothing where nobody looks. Total < 0 means
// unknown.
func (o Out) Progress(total int64, what string) *Bar {
	return o.bar(total, what, progressbar.OptionShowBytes(true), progressbar.OptionUseIECUnits(true))
}

// Steps is Progress of things that are counted.
func (o Out) Steps(total int64, what string) *Bar {
	return o.bar(total, what, progressbar.OptionShowCount(), progressbar.OptionShowIts())
}

func (o Out) bar(total int64, what string, options ...progressbar.Option) *Bar {
	if !o.Terminal {
		return &Bar{}
	}
	return &Bar{progressbar.NewOptions64(total, append(options,
		progressbar.OptionSetWriter(o.Writer), progressbar.OptionSetDescription(what), progressbar.OptionSetWidth(20),
		progressbar.OptionThrottle(100*time.Millisecond), progressbar.OptionClearOnFinish(), progressbar.OptionSetRenderBlankState(false),
	)...)}
}

// Bar is a progress bar, or nothing.
type Bar struct{ bar *progressbar.ProgressBar }

// Add moves the bar on.
func (b *Bar) Add(n int) {
	if b.bar != nil {
		b.bar.Add(n) //nolint:errcheck // a picture
	}
}

// Set says how much is done by now.
func (b *Bar) Set(n int64) {
	if b.bar != nil {
		b.bar.Set64(n) //nolint:errcheck // a picture
	}
}

// Done takes the bar away.
func (b *Bar) Done() {
	if b.bar != nil {
		b.bar.Finish() //nolint:errcheck // a picture
	}
}
