package system

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"tarn.dev/tarn/internal/base/build"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/system/backup"
	"tarn.dev/tarn/internal/system/home"
)

// Errors of restores into a database.
var (
	errRowsThere = errdef.New(errdef.FailedPrecondition, "system.rows_there", "the database has rows already")
	errRestoring = errdef.New(errdef.FailedPrecondition, "system.restoring", "a restore into the database is not finished")
)

const (
	// restoringKey is a row that is there while a restore fills the others: the token of the home that it is for.
	restoringKey = "restoring"
	// restoredKey is in its place afterwards, with the ID of the backup: a restore may die before its home knows.
	restoredKey = "restored"
)

// Restore fills a home that has nothing yet from a backup: the one whose ID begins with id, or the newest. Rows and bulk data
// go where places say, which must have none.
func Restore(ctx context.Context, h home.Home, places Places, from, id string, progress func(backup.Progress)) (_ backup.Backup, err error) {
	place, all, err := openBackups(ctx, from)
	if err != nil {
		return backup.Backup{}, err
	}
	b, err := backup.Find(all, id)
	if err != nil {
		return b, fmt.Errorf("backups in %s: %w", from, err)
	}
	wait, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	unlock, err := h.LockForRestore(wait, build.Current().Version)
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	token, err := h.Restoring()
	if err != nil {
		return b, err
	}
	if err := restoreInto(ctx, h, places, token, b, place, progress); err != nil {
		return b, fmt.Errorf("restore backup %s: %w", b.ID, err)
	}
	return b, h.Restored()
}

func restoreInto(ctx context.Context, h home.Home, places Places, token string, b backup.Backup, place blob.Store, progress func(backup.Progress)) (err error) {
	rows, err := openRows(ctx, h, places.Meta)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	done, err := beginRows(ctx, rows, token, b.ID)
	if errors.Is(err, errRowsThere) || errors.Is(err, errRestoring) {
		return errors.Join(err, h.ForgetRows())
	}
	if err != nil || done {
		return err
	}
	bulk, err := openBlobs(ctx, h, places.Blob)
	if err != nil {
		return err
	}
	if err := bulk.bind(ctx, rows); err != nil {
		return err
	}
	err = b.Restore(ctx, place, rows, func(project string) (blob.Store, error) {
		if !projectName().MatchString(project) {
			return nil, backup.ErrDamaged.Errorf("no project can be called %.100q", project)
		}
		return bulk.original(project)
	}, progress)
	if err != nil {
		return err
	}
	_, err = rows.Txn(ctx, []meta.Condition{meta.Exists(restoringKey)}, []meta.Write{meta.Delete(restoringKey), meta.Set(restoredKey, []byte(restoredBy(token, b.ID)))})
	return errors.Join(err, fault.Point("restore.rows.done"))
}

func restoredBy(token, id string) string { return token + " " + id }

// beginRows takes rows for the restore into one home: nobody else uses them until it is done. Rows that an interrupted one brought
// go, for they may be those of another backup; done says that it brought all of this one.
func beginRows(ctx context.Context, rows meta.Store, token, id string) (done bool, err error) {
	last, err := valueOf(ctx, rows, restoredKey)
	if err != nil || last == restoredBy(token, id) {
		return err == nil, err
	}
	_, err = rows.Txn(ctx, []meta.Condition{meta.Absent(restoringKey)}, []meta.Write{meta.Set(restoringKey, []byte(token))})
	begun := err == nil
	if errors.Is(err, meta.ErrConditionFailed) {
		var holder string
		if holder, err = valueOf(ctx, rows, restoringKey); err == nil && holder != token {
			err = errRestoring.Errorf("another home is being restored into this database").WithNext("finish that restore, by the same command", "use another database, an empty one")
		}
	}
	if err != nil {
		return false, err
	}
	if begun && !strings.HasPrefix(last, restoredBy(token, "")) {
		return false, refuseOthers(ctx, rows)
	}
	return false, removeRows(ctx, rows)
}

// refuseOthers gives rows back that were there before the restore.
func refuseOthers(ctx context.Context, rows meta.Store) error {
	for row, err := range rows.Scan(ctx, meta.Prefix("")) {
		if err != nil {
			return err
		}
		if row.Key != restoringKey {
			_, err := rows.Txn(ctx, nil, []meta.Write{meta.Delete(restoringKey)})
			return errors.Join(errRowsThere.Errorf("the database holds the rows of other homes; a restore needs an empty one"), err)
		}
	}
	return nil
}

// removeRows removes all but those that say whose the rows are, and whose place in a bucket.
func removeRows(ctx context.Context, rows meta.Store) error {
	for {
		var writes []meta.Write
		for row, err := range rows.Scan(ctx, meta.Prefix("")) {
			if err != nil {
				return err
			}
			if row.Key == restoringKey || row.Key == bulkKey || row.Key == ownerKey {
				continue
			}
			if writes = append(writes, meta.Delete(row.Key)); len(writes) == removedAtOnce {
				break
			}
		}
		if len(writes) == 0 {
			return nil
		}
		if _, err := rows.Txn(ctx, nil, writes); err != nil {
			return fmt.Errorf("remove what an interrupted restore left: %w", err)
		}
	}
}

// removedAtOnce go in one transaction.
const removedAtOnce = 1000

// valueOf is a row's value, or "" if it is not there.
func valueOf(ctx context.Context, rows meta.Store, key string) (string, error) {
	row, err := rows.Get(ctx, key)
	if errors.Is(err, meta.ErrNotFound) {
		return "", nil
	}
	return string(row.Value), err
}

// refuseRestoring refuses rows that a restore fills, or has not finished to fill.
func refuseRestoring(ctx context.Context, rows meta.Store) error {
	holder, err := valueOf(ctx, rows, restoringKey)
	if err == nil && holder != "" {
		err = errRestoring.Errorf("a backup is being restored into this database, and not all of it is there").
			WithNext("wait, or do the restore again if it was interrupted: tarn restore")
	}
	return err
}
