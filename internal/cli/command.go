package cli

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/near"
)

// ErrUsage is what a command line that cannot be right gets.
var ErrUsage = errdef.New(errdef.InvalidArgument, "cli.usage", "bad usage")

// Groups of commands in the help, as users think of them.
const (
	groupWork    = "work"
	groupData    = "data"
	groupHistory = "history"
	groupSetup   = "setup"
)

const codesKey = "codes"

// always are the codes that any command may end with.
var always = []errdef.Code{errdef.InvalidArgument, errdef.Unavailable, errdef.Internal, errdef.Canceled}

// codes says which errors a command is known to end with, besides those that any may.
func codes(c *cobra.Command, list ...errdef.Code) *cobra.Command {
	var names []string
	for _, code := range append(slices.Clone(always), list...) {
		names = append(names, code.String())
	}
	c.Annotations = map[string]string{codesKey: strings.Join(names, ",")}
	return c
}

// exits is the table of exit codes of a command: number and what it means.
func exits(c *cobra.Command) map[int][]string {
	m := map[int][]string{0: {"ok"}}
	if c.Annotations[codesKey] == "" {
		return m
	}
	for _, name := range strings.Split(c.Annotations[codesKey], ",") {
		exit := errdef.ParseCode(name).Row().Exit
		if !slices.Contains(m[exit], name) {
			m[exit] = append(m[exit], name)
		}
	}
	return m
}

func exitLine(c *cobra.Command) string {
	m := exits(c)
	numbers := make([]int, 0, len(m))
	for n := range m {
		numbers = append(numbers, n)
	}
	sort.Ints(numbers)
	parts := make([]string, len(numbers))
	for i, n := range numbers {
		parts[i] = fmt.Sprintf("%d %s", n, strings.Join(m[n], "|"))
	}
	return strings.Join(parts, ", ")
}

// args bounds the number of arguments; usage errors name what the command takes.
func args(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < least:
			return usage(c, "%s needs %s", c.CommandPath(), wants(c))
		case most >= 0 && len(args) > most:
			return usage(c, "%s takes %s, not also %q", c.CommandPath(), wants(c), args[most])
		}
		return nil
	}
}

func wants(c *cobra.Command) string {
	_, rest, _ := strings.Cut(c.Use, " ")
	if rest == "" {
		return "no arguments"
	}
	return rest
}

func usage(c *cobra.Command, format string, args ...any) error {
	return ErrUsage.Errorf(format, args...).WithNext(c.CommandPath() + " --help")
}

// group makes a command that only has subcommands.
func group(use, short, id string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, GroupID: id,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknown(c, args[0])
			}
			return c.Help()
		},
	}
	c.AddCommand(children...)
	return c
}

// unknown is the error for a command that does not exist, with the nearest one that does.
func unknown(c *cobra.Command, word string) error {
	var names []string
	for _, child := range c.Commands() {
		if child.IsAvailableCommand() {
			names = append(names, child.Name())
		}
	}
	e := ErrUsage.Errorf("%s has no command %q", c.CommandPath(), word)
	if meant := near.Nearest(word, names); meant != "" {
		e = e.Errorf("%s has no command %q. Did you mean %s?", c.CommandPath(), word, meant).WithNext(c.CommandPath() + " " + meant)
	}
	return e.WithNext(c.CommandPath() + " --help")
}

func badFlag(c *cobra.Command, err error) error {
	text := err.Error()
	flag, found := strings.CutPrefix(text, "unknown flag: --")
	if !found {
		return usage(c, "%s: %s", c.CommandPath(), text)
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	c.InheritedFlags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if meant := near.Nearest(flag, names); meant != "" {
		return usage(c, "%s has no flag --%s. Did you mean --%s?", c.CommandPath(), flag, meant)
	}
	return usage(c, "%s has no flag --%s", c.CommandPath(), flag)
}

// sortedKeys lists a map's keys in one order.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
