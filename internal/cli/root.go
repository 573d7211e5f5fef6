package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// root is the command tree. The groups and their order are those of the help.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "tarn",
		Short: "Versioned tables and files, and the functions that make them",
		Long: `Tarn keeps tables and files in one history with branches, and runs the Python and
SQL functions that make them: checked, published as one commit or not at all, and
reproducible.`,
		Example: `  tarn init flights && cd flights     # a new project with a small pipeline
  tarn file put data/ raw/            # store files
  tarn switch -c dev                  # try something on a branch
  tarn merge dev --into main          # and keep it`,
		Args:          cobra.ArbitraryArgs,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknown(c, args[0])
			}
			return c.Help()
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(badFlag)
	root.PersistentFlags().BoolVar(&a.json, "json", false, "print one JSON document")
	root.PersistentFlags().StringVar(&a.project, "project", "", "the project `NAME`, instead of that of this folder")
	root.AddGroup(
		&cobra.Group{ID: groupWork, Title: "Work"},
		&cobra.Group{ID: groupData, Title: "Data"},
		&cobra.Group{ID: groupHistory, Title: "History"},
		&cobra.Group{ID: groupSetup, Title: "Set-up"},
	)
	root.AddCommand(
		a.initCommand(), a.runCommand(), a.queryCommand(), a.planCommand(), a.checkCommand(), a.statusCommand(),
		a.debugCommand(), a.whyCommand(), a.logsCommand(), a.cancelCommand(), a.rerunCommand(),
		a.tableCommand(), a.fileCommand(), a.mountCommand(), a.assetCommand(), a.showCommand(),
		a.branchCommand(), a.switchCommand(), a.mergeCommand(), a.diffCommand(), a.logCommand(), a.tagCommand(), a.revertCommand(), a.forgetCommand(), a.provenanceCommand(),
		a.envCommand(), a.secretCommand(), a.runsCommand(),
		a.projectCommand(), a.serverCommand(), a.fsckCommand(), a.gcCommand(), a.backupCommand(), a.restoreCommand(), a.loadtestCommand(), a.doctorCommand(), a.versionCommand(),
	)
	root.SetHelpCommand(a.helpCommand(root))
	root.SetHelpCommandGroupID(groupSetup)
	cobra.AddTemplateFunc("exits", exitLine)
	cobra.AddTemplateFunc("trimRight", func(s string) string { return strings.TrimRight(s, " \n") })
	root.SetHelpTemplate(helpTemplate)
	return root
}

const helpTemplate = `{{with (or .Long .Short)}}{{. | trimRight}}

{{end}}Usage: {{if .HasAvailableSubCommands}}{{.CommandPath}} COMMAND{{else}}{{.UseLine}}{{end}}
{{if .HasAvailableSubCommands}}{{$cmds := .Commands}}{{if .Groups}}{{range $group := .Groups}}
{{.Title}}
{{range $cmds}}{{if (and (eq .GroupID $group.ID) .IsAvailableCommand)}}  {{rpad .Name .NamePadding}} {{.Short}}
{{end}}{{end}}{{end}}{{else}}
{{range $cmds}}{{if .IsAvailableCommand}}  {{rpad .Name .NamePadding}} {{.Short}}
{{end}}{{end}}{{end}}{{end}}{{if .HasExample}}
Examples
{{.Example | trimRight}}
{{end}}{{if .HasAvailableLocalFlags}}
Flags
{{.LocalFlags.FlagUsages | trimRight}}
{{end}}{{if and .HasAvailableInheritedFlags .Runnable (not .HasAvailableSubCommands)}}
Everywhere
{{.InheritedFlags.FlagUsages | trimRight}}
{{end}}{{if not .HasAvailableSubCommands}}
Exit codes
  {{exits .}}
{{end}}`
