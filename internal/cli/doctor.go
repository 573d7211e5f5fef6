package cli

import (
	"strings"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
)

// errUnwell is how `tarn doctor` ends when something is broken.
var errUnwell = errdef.New(errdef.FailedPrecondition, "cli.unwell", "something is wrong")

type finding struct {
	Name  string `json:"name"`
	Level string `json:"level"`
	Text  string `json:"text"`
	Next  string `json:"next,omitempty"`
}

func (a *app) doctorCommand() *cobra.Command {
	return codes(&cobra.Command{
		Use:     "doctor",
		Short:   "Look for what is wrong with this host and home, and say what to do",
		GroupID: groupSetup,
		Example: "  tarn doctor",
		Args:    args(0, 0),
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			resp, err := cl.System.Doctor(c.Context(), &tarnv1.DoctorRequest{})
			if err != nil {
				return err
			}
			var findings []finding
			var broken []string
			for _, f := range resp.GetFindings() {
				level := strings.ToLower(strings.TrimPrefix(f.GetLevel().String(), "LEVEL_"))
				findings = append(findings, finding{f.GetName(), level, f.GetText(), f.GetNext()})
				if f.GetLevel() == tarnv1.Finding_LEVEL_FAIL {
					broken = append(broken, f.GetName())
				}
			}
			if len(broken) > 0 && a.json {
				return errUnwell.Errorf("wrong: %s", strings.Join(broken, ", ")).WithDetail("findings", findings)
			}
			a.print(map[string]any{"findings": findings}, func() {
				rows := make([][]string, len(findings))
				for i, f := range findings {
					mark := a.out.Good("ok")
					switch f.Level {
					case "warn":
						mark = a.out.Warn("warn")
					case "fail":
						mark = a.out.Bad("fail")
					}
					text := f.Text
					if f.Next != "" {
						text += ". " + f.Next
					}
					rows[i] = []string{mark, f.Name, text}
				}
				a.out.Table(columns("", "check", "result"), rows)
			})
			if len(broken) > 0 {
				return errUnwell.Errorf("wrong: %s", strings.Join(broken, ", "))
			}
			return nil
		},
	}, errdef.FailedPrecondition)
}
