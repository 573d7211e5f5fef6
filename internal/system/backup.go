package system

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/blob/fsblob"
	"tarn.dev/tarn/internal/blob/s3blob"
	"tarn.dev/tarn/internal/lake"
	"tarn.dev/tarn/internal/system/backup"
)

var errPlace = errdef.New(errdef.InvalidArgument, "system.backup_place", "backups cannot be there")

// Backup implements server.Control.
func (s *System) Backup(ctx context.Context, to string, progress func(*tarnv1.BackupProgress)) (_ *tarnv1.Backup, err error) {
	defer s.Hold()()
	place, err := s.openPlace(ctx, to)
	if err != nil {
		return nil, err
	}
	source, err := s.source(ctx)
	if err != nil {
		return nil, err
	}
	release, err := s.undisturbed(ctx, source.Projects, func(what string) { progress(&tarnv1.BackupProgress{Waiting: what}) })
	defer func() { err = errors.Join(err, release(ctx)) }()
	if err != nil {
		return nil, err
	}
	b, err := backup.Write(ctx, source, place, func(p backup.Progress) {
		progress(&tarnv1.BackupProgress{Blobs: p.Blobs, CopiedBytes: p.Bytes, TotalBytes: p.Total})
	})
	if err != nil {
		return nil, fmt.Errorf("back up to %s: %w", to, err)
	}
	out := &tarnv1.Backup{
		Id: b.ID, Created: timestamppb.New(b.Created), Version: b.Tarn, Projects: b.Projects,
		Rows: b.Rows, Blobs: b.Blobs, Bytes: b.Bytes, CopiedBytes: b.Copied,
	}
	if _, err := os.Stat(s.config.Home.SecretKey()); err == nil {
		out.Secrets = true
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, errdef.Newf(errdef.FailedPrecondition, "system.secrets", "look for the key of the secrets: %w", err)
	}
	return out, nil
}

// undisturbed keeps garbage collections from beginning: a backup takes the rows of one moment and then, for
// as long as it takes, the blobs that they name.
func (s *System) undisturbed(ctx context.Context, projects []backup.Project, waiting func(string)) (release func(context.Context) error, err error) {
	var releases []func(context.Context) error
	release = func(ctx context.Context) error {
		var errs []error
		for _, r := range releases {
			errs = append(errs, r(ctx))
		}
		return errors.Join(errs...)
	}
	for _, p := range projects {
		r, err := lake.Undisturbed(ctx, s.meta, lakePrefix(p.Name), s.parts.session, waiting)
		if err != nil {
			return release, err
		}
		releases = append(releases, r)
	}
	return release, nil
}

// openPlace opens where backups go: a bucket, or a folder of this host, apart from what is backed up.
func (s *System) openPlace(ctx context.Context, to string) (blob.Store, error) {
	if !strings.HasPrefix(to, s3blob.Scheme+"://") {
		dir := s.config.Home.Dir
		if rel, err := filepath.Rel(dir, to); !filepath.IsAbs(to) || err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return nil, errPlace.Errorf("%s: a backup is in a folder outside of the home, %s", to, dir)
		}
		return fsblob.Open(to)
	}
	at, err := s3blob.Parse(to)
	if err != nil {
		return nil, err
	}
	if s.projects.bulk.holds(at) {
		return nil, errPlace.Errorf("%s: the home has its projects there; a backup needs another prefix, or better another bucket", at)
	}
	place, err := s3blob.Open(ctx, at)
	if err != nil { // not the store, which would be one that is nil
		return nil, err
	}
	return place, nil
}

// source is all that this system has.
func (s *System) source(ctx context.Context) (backup.Source, error) {
	names, err := s.projects.Names(ctx)
	if err != nil {
		return backup.Source{}, err
	}
	out := backup.Source{Tarn: s.config.Build.Version, Rows: s.meta, OmitRow: omitted, OmitBlob: lake.IndexBlob, Scratch: s.config.Home.Scratch()}
	for _, name := range names {
		blobs, err := s.projects.bulk.original(name)
		if err != nil {
			return backup.Source{}, err
		}
		out.Projects = append(out.Projects, backup.Project{Name: name, Blobs: blobs})
	}
	return out, nil
}

// omitted tells the rows that no backup has: of lakes' indexes, of sessions, which end with their servers, of where the
// bulk data is, which is elsewhere once it was restored, and of restores.
func omitted(key string) bool {
	if strings.HasPrefix(key, sessionPrefix+"/") || key == bulkKey || key == ownerKey || key == restoringKey || key == restoredKey {
		return true
	}
	rest, ok := strings.CutPrefix(key, "p/")
	if !ok {
		return false
	}
	_, rest, ok = strings.Cut(rest, "/lake/")
	return ok && lake.IndexRow(rest)
}

// Backups are the backups that are there, the oldest first.
func Backups(ctx context.Context, from string) ([]backup.Backup, error) {
	_, all, err := openBackups(ctx, from)
	return all, err
}

// openBackups opens a bucket, or a folder, that has backups. It writes nothing there: it may be on a disk that cannot be written.
func openBackups(ctx context.Context, from string) (place blob.Store, all []backup.Backup, err error) {
	if strings.HasPrefix(from, s3blob.Scheme+"://") {
		var at s3blob.Location
		if at, err = s3blob.Parse(from); err == nil {
			place, err = s3blob.OpenReading(ctx, at)
		}
	} else if _, serr := os.Stat(from); serr != nil {
		err = errPlace.Errorf("open the backups: %w", serr)
	} else {
		place, err = fsblob.OpenReading(from)
	}
	if err == nil {
		all, err = backup.List(ctx, place)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("backups in %s: %w", from, err)
	}
	return place, all, nil
}
