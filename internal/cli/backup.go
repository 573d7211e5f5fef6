package cli

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/cli/ui"
	"tarn.dev/tarn/internal/system"
	"tarn.dev/tarn/internal/system/backup"
	"tarn.dev/tarn/internal/system/home"
)

// errRemote is for what only works where the home is.
var errRemote = errdef.New(errdef.FailedPrecondition, "cli.remote", "this works on the server's host only")

type backupJSON struct {
	ID       string    `json:"id"`
	Created  time.Time `json:"created"`
	Tarn     string    `json:"tarn"`
	Projects []string  `json:"projects"`
	Blobs    int64     `json:"blobs"`
	Bytes    int64     `json:"bytes"`
	Copied   int64     `json:"copied_bytes"`
}

func (a *app) backupCommand() *cobra.Command {
	return codes(&cobra.Command{
		Use:   "backup FOLDER|BUCKET",
		Short: "Copy everything that the home has, of all projects, into a folder or bucket",
		Long: `Copy everything that the home has, of all projects, into a folder, such as that of another disk,
or into a bucket, s3://BUCKET/PREFIX, with the credentials that the server has.

The first backup copies all, each later one to the same place what is new. Every backup stays, and
can be restored by its name. Work goes on meanwhile: a backup has what was there when it began.

It has no logs of the server and not the key of the secrets, so who has the backup cannot read them.`,
		GroupID: groupSetup,
		Example: "  tarn backup /mnt/backups/tarn\n  tarn backup s3://backups/tarn\n  tarn restore --list /mnt/backups/tarn",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			to, err := placeOfBackups(args[0])
			if err != nil {
				return err
			}
			cl, err := a.connect(c.Context())
			if err != nil {
				return err
			}
			stream, err := cl.System.Backup(c.Context(), &tarnv1.BackupRequest{To: to})
			if err != nil {
				return err
			}
			var bar *ui.Bar
			var done *tarnv1.Backup
			err = recv(stream, func(m *tarnv1.BackupResponse) error {
				if p := m.GetProgress(); p.GetWaiting() != "" {
					a.note("%s", ui.Clean(p.GetWaiting()))
				} else if p != nil {
					if bar == nil {
						bar = a.err.Progress(p.GetTotalBytes(), "copying")
					}
					bar.Set(p.GetCopiedBytes())
				}
				if m.GetDone() != nil {
					done = m.GetDone()
				}
				return nil
			})
			if bar != nil {
				bar.Done()
			}
			if err != nil {
				return err
			}
			doc := backupJSON{done.GetId(), done.GetCreated().AsTime(), done.GetVersion(), append([]string{}, done.GetProjects()...), done.GetBlobs(), done.GetBytes(), done.GetCopiedBytes()}
			a.print(doc, func() {
				a.out.Printf("%s\n", done.GetId())
				a.note("%s of %s, %s of them new", ui.Size(done.GetBytes()), ui.Count(int64(len(done.GetProjects())), "project"), ui.Size(done.GetCopiedBytes()))
			})
			if done.GetSecrets() {
				a.note("secrets are in it as they are stored, encrypted. Keep their key elsewhere: %s", filepath.Join(cl.Server.GetHome(), "secrets.key"))
			}
			return nil
		},
	}, errdef.FailedPrecondition, errdef.DataLoss)
}

func (a *app) restoreCommand() *cobra.Command {
	var id string
	var list bool
	var places system.Places
	c := codes(&cobra.Command{
		Use:   "restore FOLDER|BUCKET",
		Short: "Fill a new home from a backup",
		Long: `Fill a new home from a backup: the newest, or the one that --backup names.

The home is that of TARN_HOME, and must not have anything in it. Every byte is verified. Until all is
there the home cannot be used; when it is interrupted, the same command goes on.

With --blob, tables and files go into a bucket, and with --meta history and runs into a Postgres
database: a prefix and a database that have nothing in them. See tarn server start --help.`,
		GroupID: groupSetup,
		Example: "  tarn restore --list /mnt/backups/tarn\n  TARN_HOME=~/restored tarn restore /mnt/backups/tarn\n  TARN_HOME=~/restored tarn restore /mnt/backups/tarn --backup 20260301T\n  tarn restore s3://backups/tarn --blob s3://bucket/tarn2 --meta postgres://tarn@db.example.com/tarn2",
		Args:    args(1, 1),
		RunE: func(c *cobra.Command, args []string) error {
			from, err := placeOfBackups(args[0])
			if err != nil {
				return err
			}
			if list && id != "" {
				return ErrUsage.Errorf("--list shows all backups; --backup chooses one to restore")
			}
			if list {
				return a.listBackups(c, from)
			}
			if url := os.Getenv("TARN_URL"); url != "" {
				return errRemote.Errorf("TARN_URL is set to %s: a backup is restored on the host that will have it", url).WithNext("unset TARN_URL")
			}
			h, err := home.Find()
			if err != nil {
				return err
			}
			var bar *ui.Bar
			b, err := system.Restore(c.Context(), h, places.OrEnvironment(), from, id, func(p backup.Progress) {
				if bar == nil {
					bar = a.err.Progress(p.Total, "restoring")
				}
				bar.Set(p.Bytes)
			})
			if bar != nil {
				bar.Done()
			}
			if err != nil {
				return err
			}
			a.print(backupDocument(b), func() {
				a.note("restored %s into %s: %s of %s", b.ID, h.Dir, ui.Size(b.Bytes), ui.Count(int64(len(b.Projects)), "project"))
			})
			return nil
		},
	}, errdef.FailedPrecondition, errdef.DataLoss, errdef.NotFound)
	c.Flags().StringVar(&id, "backup", "", "the backup, or how its name begins; default is the newest")
	placeFlags(c, &places)
	c.Flags().BoolVar(&list, "list", false, "show which backups are there, and restore none")
	return c
}

// placeOfBackups is a bucket, or a folder of this host as a server on it finds it.
func placeOfBackups(text string) (string, error) {
	if scheme, _, ok := strings.Cut(text, "://"); ok && scheme != "s3" {
		return "", errdef.Newf(errdef.InvalidArgument, "cli.backup_place", "%.200s: backups are in a folder, or in a bucket: s3://BUCKET/PREFIX", text)
	} else if ok {
		return text, nil
	}
	abs, err := filepath.Abs(text)
	if err != nil {
		return "", errdef.Newf(errdef.InvalidArgument, "cli.backup_place", "%s: %w", text, err)
	}
	return abs, nil
}

func (a *app) listBackups(c *cobra.Command, from string) error {
	all, err := system.Backups(c.Context(), from)
	if err != nil {
		return err
	}
	docs, rows := []backupJSON{}, [][]string{}
	for _, b := range all {
		docs = append(docs, backupDocument(b))
		rows = append(rows, []string{a.out.ID(b.ID), a.out.Time(b.Created), ui.Size(b.Bytes), ui.Size(b.Copied), ui.Clean(strings.Join(b.Projects, ", "))})
	}
	a.print(map[string]any{"backups": docs}, func() {
		a.out.Table(columns("backup", "made", "size", "new", "projects"), rows)
	})
	return nil
}

func backupDocument(b backup.Backup) backupJSON {
	return backupJSON{b.ID, b.Created, b.Tarn, append([]string{}, b.Projects...), b.Blobs, b.Bytes, b.Copied}
}
