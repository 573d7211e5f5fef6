package cli

import (
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commandTree is `tarn help --json`: what programs (completions, documents) know of the CLI.
type commandTree struct {
	Name     string           `json:"name"`
	Usage    string           `json:"usage"`
	Short    string           `json:"short"`
	Long     string           `json:"long,omitempty"`
	Group    string           `json:"group,omitempty"`
	Examples string           `json:"examples,omitempty"`
	Flags    []commandFlag    `json:"flags,omitempty"`
	Exits    map[int][]string `json:"exit_codes,omitempty"`
	Commands []commandTree    `json:"commands,omitempty"`
}

type commandFlag struct {
	Name    string `json:"name"`
	Short   string `json:"short,omitempty"`
	Type    string `json:"type"`
	Default string `json:"default,omitempty"`
	Usage   string `json:"usage"`
}

func (a *app) helpCommand(root *cobra.Command) *cobra.Command {
	return codes(&cobra.Command{
		Use:     "help [COMMAND...]",
		Short:   "Explain a command, or list them all",
		Example: "  tarn help merge\n  tarn help --json      # the whole command tree",
		RunE: func(_ *cobra.Command, words []string) error {
			c := root
			for _, word := range words {
				next := child(c, word)
				if next == nil {
					return unknown(c, word)
				}
				c = next
			}
			if a.json {
				a.document(tree(c))
				return nil
			}
			c.InitDefaultHelpFlag()
			return c.Help()
		},
	})
}

func child(c *cobra.Command, name string) *cobra.Command {
	for _, child := range c.Commands() {
		if child.Name() == name || child.HasAlias(name) {
			return child
		}
	}
	return nil
}

func tree(c *cobra.Command) commandTree {
	t := commandTree{Name: c.CommandPath(), Usage: c.UseLine(), Short: c.Short, Long: c.Long, Group: c.GroupID, Examples: strings.TrimRight(c.Example, "\n")}
	if !c.HasAvailableSubCommands() {
		t.Exits = exits(c)
	}
	c.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden && f.Name != "help" {
			t.Flags = append(t.Flags, commandFlag{f.Name, f.Shorthand, f.Value.Type(), f.DefValue, f.Usage})
		}
	})
	for _, child := range c.Commands() {
		if child.IsAvailableCommand() {
			t.Commands = append(t.Commands, tree(child))
		}
	}
	return t
}
