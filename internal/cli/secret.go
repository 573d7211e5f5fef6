package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/ids"
	"tarn.dev/tarn/internal/cli/ui"
)

var errSecretInput = errdef.New(errdef.InvalidArgument, "cli.secret", "no value for a secret")

// seenFrom is how long a value must be to be hidden in what functions print.
const seenFrom = 4

func (a *app) secretCommand() *cobra.Command {
	c := group("secret", "List, set and remove secrets: texts that functions get and nobody reads back", groupSetup,
		a.secretListCommand(), a.secretSetCommand(), a.secretRemoveCommand())
	c.Long = `List, set and remove the secrets of this project.

A function declares the ones that it needs: secrets=["OPENAI_API_KEY"] gives it that variable, and
x=tarn.secret("OPENAI_API_KEY") a parameter. They are encrypted in this home, with the key in
TARN_HOME/secrets.key, and shown as *** in whatever a function prints.`
	return c
}

func (a *app) secretListCommand() *cobra.Command {
	return codes(&cobra.Command{
		Use:     "ls",
		Short:   "List the names of secrets, and when they were set",
		Example: "  tarn secret ls",
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			resp, err := t.Secrets.List(c.Context(), &tarnv1.ListSecretsRequest{Project: t.project})
			if err != nil {
				return err
			}
			a.print(map[string]any{"secrets": secretDocuments(resp.GetSecrets())}, func() {
				var rows [][]string
				for _, s := range resp.GetSecrets() {
					rows = append(rows, []string{a.out.Bold(s.GetName()), a.out.Time(s.GetSet().AsTime())})
				}
				a.out.Table(columns("secret", "set"), rows)
				if len(rows) == 0 {
					a.note("no secrets. Set one: tarn secret set NAME")
				}
			})
			return nil
		},
	}, errdef.FailedPrecondition, errdef.DataLoss)
}

func (a *app) secretSetCommand() *cobra.Command {
	var from string
	c := codes(&cobra.Command{
		Use:   "set NAME | --from FILE",
		Short: "Set a secret, or those of a file",
		Long: `Set a secret. Its value is asked for, or read from stdin when that is no terminal; one newline at
its end is dropped.

--from reads a file of lines NAME=value, as .env files have them: # begins a comment, a value in
quotes may have several lines, nothing is expanded.`,
		Example: "  tarn secret set OPENAI_API_KEY\n  tarn secret set DEPLOY_KEY < key.pem\n  tarn secret set --from .env",
		Args:    args(0, 1),
		RunE: func(c *cobra.Command, args []string) error {
			if (len(args) == 1) == (from != "") {
				return usage(c, "%s needs %s", c.CommandPath(), wants(c))
			}
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			var values map[string]string
			if from != "" {
				values, err = readEnvFile(from)
			} else {
				values, err = a.askSecret(args[0])
			}
			if err != nil {
				return err
			}
			resp, err := t.Secrets.Set(c.Context(), &tarnv1.SetSecretsRequest{RequestId: ids.Request(), Project: t.project, Values: values})
			if err != nil {
				return err
			}
			a.print(map[string]any{"set": secretDocuments(resp.GetSecrets())}, func() {
				for _, s := range resp.GetSecrets() {
					a.note("set %s", s.GetName())
					if len(values[s.GetName()]) < seenFrom {
						a.note("%s", a.err.Warn(s.GetName()+" is too short to be hidden in what functions print"))
					}
				}
			})
			return nil
		},
	}, errdef.FailedPrecondition, errdef.NotFound, errdef.DataLoss)
	c.Flags().StringVar(&from, "from", "", "set each NAME=value of `FILE`")
	return c
}

func (a *app) secretRemoveCommand() *cobra.Command {
	return codes(&cobra.Command{
		Use:     "rm NAME...",
		Short:   "Remove secrets",
		Example: "  tarn secret rm OPENAI_API_KEY",
		Args:    args(1, -1),
		RunE: func(c *cobra.Command, args []string) error {
			t, err := a.reach(c.Context())
			if err != nil {
				return err
			}
			resp, err := t.Secrets.Remove(c.Context(), &tarnv1.RemoveSecretsRequest{RequestId: ids.Request(), Project: t.project, Names: args})
			if err != nil {
				return err
			}
			a.print(map[string]any{"removed": secretDocuments(resp.GetSecrets())}, func() {
				for _, s := range resp.GetSecrets() {
					a.note("removed %s", s.GetName())
				}
			})
			return nil
		},
	}, errdef.NotFound, errdef.FailedPrecondition, errdef.DataLoss)
}

type secretJSON struct {
	Name string    `json:"name"`
	Set  time.Time `json:"set"`
}

func secretDocuments(secrets []*tarnv1.Secret) []secretJSON {
	docs := []secretJSON{}
	for _, s := range secrets {
		docs = append(docs, secretJSON{s.GetName(), s.GetSet().AsTime()})
	}
	return docs
}

// askSecret reads a value from the terminal without showing it, or all of stdin.
func (a *app) askSecret(name string) (map[string]string, error) {
	var b []byte
	var err error
	if f, ok := a.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		a.err.Printf("%s: ", ui.Clean(name))
		b, err = term.ReadPassword(int(f.Fd()))
		a.err.Printf("\n")
	} else {
		b, err = io.ReadAll(io.LimitReader(a.in, 1<<20))
	}
	if err != nil {
		return nil, errSecretInput.Errorf("read the value of %s: %w", name, err)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	if value == "" {
		return nil, errSecretInput.Errorf("the value of %s is empty", name).WithNext("tarn secret set "+name, "tarn secret set "+name+" < FILE")
	}
	return map[string]string{name: value}, checkText(name, value)
}

// checkText refuses what a message of the API could not carry.
func checkText(name, value string) error {
	if !utf8.ValidString(value) {
		return errSecretInput.Errorf("the value of %s is no text: a variable holds UTF-8. Encode it, with base64 say", name)
	}
	return nil
}

func readEnvFile(path string) (map[string]string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, errSecretInput.Errorf("--from %s: %w", path, err)
	}
	values, err := parseEnv(string(b))
	if err != nil {
		return nil, errSecretInput.Errorf("%s:%w", path, err)
	}
	if len(values) == 0 {
		return nil, errSecretInput.Errorf("%s has no line NAME=value", path)
	}
	return values, nil
}

// parseEnv reads lines NAME=value. An error begins with the number of its line and never repeats what may be a value.
func parseEnv(text string) (map[string]string, error) {
	values := map[string]string{}
	text = strings.ReplaceAll(strings.TrimPrefix(text, "\ufeff"), "\r\n", "\n")
	for number := 1; text != ""; {
		line, rest, _ := strings.Cut(text, "\n")
		name, value, found := strings.Cut(strings.TrimSpace(line), "=")
		if name == "" && !found || strings.HasPrefix(name, "#") {
			text, number = rest, number+1
			continue
		}
		name = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(name), "export "))
		if !found || name == "" {
			return nil, fmt.Errorf("%d: this line is not NAME=value", number)
		}
		if first := strings.TrimSpace(value); first != "" && strings.ContainsRune(`"'`, rune(first[0])) {
			opening := strings.IndexByte(text, '=') + 1
			opening += strings.IndexByte(text[opening:], first[0])
			inside, length, ok := quoted(text[opening:])
			if !ok {
				return nil, fmt.Errorf("%d: the quotes of %s do not end", number, name)
			}
			line, rest, _ = strings.Cut(text[opening+length:], "\n")
			if after := strings.TrimSpace(line); after != "" && !strings.HasPrefix(after, "#") {
				return nil, fmt.Errorf("%d: something follows the quotes of %s", number, name)
			}
			number += strings.Count(text[opening:opening+length], "\n")
			value = inside
		} else {
			value, _, _ = strings.Cut(value, " #")
			value = strings.TrimSpace(value)
		}
		if value == "" {
			return nil, fmt.Errorf("%d: %s has no value", number, name)
		}
		if err := checkText(name, value); err != nil {
			return nil, fmt.Errorf("%d: %w", number, err)
		}
		if _, twice := values[name]; twice {
			return nil, fmt.Errorf("%d: %s is there twice", number, name)
		}
		values[name], text, number = value, rest, number+1
	}
	return values, nil
}

// quoted reads a quoted value at the beginning of text, and how much of it that is. In double quotes a backslash
// escapes; in single quotes it is one.
func quoted(text string) (value string, length int, ok bool) {
	var out strings.Builder
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == text[0]:
			return out.String(), i + 1, true
		case c == '\\' && text[0] == '"' && i+1 < len(text):
			i++
			if at := strings.IndexByte("nrt", text[i]); at >= 0 {
				out.WriteByte("\n\r\t"[at])
			} else {
				out.WriteByte(text[i])
			}
		default:
			out.WriteByte(c)
		}
	}
	return "", 0, false
}
