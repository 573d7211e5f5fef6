// Package backup copies a home's store to a folder of blobs, and back. docs/formats/backup.md is its format.
//
// A backup is the rows of one moment, and every blob that was there then. Blobs never change, so one that an earlier backup brought
// there is not copied again: a backup costs what is new. It is there with its last blob, the description; what a backup leaves that
// was interrupted is what the next one need not copy. Nothing is ever overwritten or deleted, so what a backup holds stays.
package backup

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/zeebo/blake3"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/meta"
)

// Format is the newest format of backups that this program reads, and the one that it writes.
const Format = 1

// Errors of backups.
var (
	ErrNotABackup = errdef.New(errdef.FailedPrecondition, "backup.not_a_backup", "not a place of backups")
	ErrNewer      = errdef.New(errdef.FailedPrecondition, "backup.format_newer", "the backups are newer than this program").WithNext("install the newer tarn")
	ErrNotFound   = errdef.New(errdef.NotFound, "backup.not_found", "no such backup")
	ErrDamaged    = errdef.New(errdef.DataLoss, "backup.damaged", "the backup is damaged")
)

// Where the parts of backups are.
const (
	formatName   = "format"
	descriptions = "backups/"
	lists        = "lists/"
	blobsOf      = "blobs/"
)

// Backup describes one.
type Backup struct {
	ID       string    `json:"id"` // begins with when it was made, so that IDs sort by that
	Created  time.Time `json:"created"`
	Tarn     string    `json:"tarn"` // the version that made it
	Projects []string  `json:"projects"`
	Rows     int64     `json:"rows"`
	Blobs    int64     `json:"blobs"`
	Bytes    int64     `json:"bytes"`  // of all blobs
	List     string    `json:"list"`   // BLAKE3 of the blob that lists them
	Copied   int64     `json:"copied"` // bytes that were not there before
}

// Project is one to back up, or where it is restored to.
type Project struct {
	Name  string
	Blobs blob.Store
}

// Source is a store as it is copied.
type Source struct {
	Tarn     string
	Rows     meta.Store
	Projects []Project
	// What is left out: it can be made anew from the rest, or means nothing elsewhere.
	OmitRow  func(key string) bool
	OmitBlob func(name string) bool
	Scratch  string // a folder for the list while it is made
}

// Progress is how far a backup or its restore is. Total is 0 until it is known.
type Progress struct {
	Blobs, Bytes, Total int64
}

// Open checks that a store is a place of backups, or makes an empty one that.
func Open(ctx context.Context, to blob.Store) error {
	err := check(ctx, to)
	if !errors.Is(err, blob.ErrNotFound) {
		return err
	}
	for info, err := range to.List(ctx, "") {
		if err != nil {
			return fmt.Errorf("look at the backups: %w", err)
		}
		return ErrNotABackup.Errorf("it holds no backups and is not empty: %s", info.Name)
	}
	if err := to.Put(ctx, formatName, strings.NewReader(fmt.Sprintf("tarn-backup %d\n", Format))); err != nil && !errors.Is(err, blob.ErrExists) {
		return fmt.Errorf("make a place of backups: %w", err)
	}
	return check(ctx, to) // another one may have been faster
}

// check reads the format; blob.ErrNotFound if there is none.
func check(ctx context.Context, from blob.Store) error {
	text, err := readAll(ctx, from, formatName, 64)
	if err != nil {
		return err
	}
	var n int
	if _, err := fmt.Sscanf(string(text), "tarn-backup %d\n", &n); err != nil || n < 1 {
		return ErrNotABackup.Errorf("its format is %.40q", text)
	}
	if n > Format {
		return ErrNewer.Errorf("the backups have format %d; this tarn reads formats up to %d", n, Format)
	}
	return nil
}

func readAll(ctx context.Context, from blob.Store, name string, most int64) ([]byte, error) {
	r, err := from.Get(ctx, name, 0, most)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(r)
	return text, errors.Join(err, r.Close())
}

// maxDescription is the most that is read of one.
const maxDescription = 16 << 20

// List returns the backups, the oldest first.
func List(ctx context.Context, from blob.Store) ([]Backup, error) {
	if err := check(ctx, from); errors.Is(err, blob.ErrNotFound) {
		return nil, ErrNotABackup.Errorf("it holds no backups")
	} else if err != nil {
		return nil, err
	}
	var all []Backup
	for info, err := range from.List(ctx, descriptions) {
		if err != nil {
			return nil, fmt.Errorf("list the backups: %w", err)
		}
		text, err := readAll(ctx, from, info.Name, maxDescription)
		if err != nil {
			return nil, fmt.Errorf("read a backup's description: %w", err)
		}
		var b Backup
		if err := json.Unmarshal(text, &b); err != nil || descriptions+b.ID != info.Name {
			return nil, ErrDamaged.Errorf("%s does not describe a backup", info.Name)
		}
		all = append(all, b)
	}
	return all, nil
}

// Find returns the backup whose ID begins with id; "" is the newest.
func Find(all []Backup, id string) (Backup, error) {
	if len(all) == 0 {
		return Backup{}, ErrNotFound.Errorf("no backup was completed here")
	}
	if id == "" {
		return all[len(all)-1], nil
	}
	all = slices.DeleteFunc(slices.Clone(all), func(b Backup) bool { return !strings.HasPrefix(b.ID, id) })
	switch len(all) {
	case 0:
		return Backup{}, ErrNotFound.Errorf("no backup's name begins with %.80q", id)
	case 1:
		return all[0], nil
	}
	return Backup{}, ErrNotFound.Errorf("the names of %d backups begin with %q", len(all), id)
}

// Write makes a backup. Another one to the same place at the same time is no harm.
func Write(ctx context.Context, from Source, to blob.Store, progress func(Progress)) (Backup, error) {
	b := Backup{Created: time.Now().UTC().Truncate(time.Microsecond), Tarn: from.Tarn}
	if err := Open(ctx, to); err != nil {
		return b, err
	}
	before, err := List(ctx, to)
	if err != nil {
		return b, err
	}
	if n := len(before); n > 0 && !b.Created.After(before[n-1].Created) { // the newest is the last, whatever the clock says
		b.Created = before[n-1].Created.Add(time.Microsecond)
	}
	var random [4]byte
	rand.Read(random[:]) //nolint:errcheck // it never fails
	b.ID = b.Created.Format("20060102T150405.000000Z") + "-" + hex.EncodeToString(random[:])
	file, err := os.CreateTemp(from.Scratch, "backup-*")
	if err != nil {
		return b, fmt.Errorf("make the backup's list: %w", err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	w := newListWriter(file)
	// Rows before blobs: what a row names was durable before the row, and whoever calls sees to it that nothing goes.
	for row, err := range from.Rows.Scan(ctx, meta.Range{}) {
		if err != nil {
			return b, fmt.Errorf("read the rows: %w", err)
		}
		if from.OmitRow(row.Key) {
			continue
		}
		if err := w.write(line{Key: []byte(row.Key), Value: row.Value}); err != nil {
			return b, err
		}
		b.Rows++
	}
	c := &copier{to: to, progress: progress, list: w, backup: &b, source: from}
	if err := c.all(ctx, before); err != nil {
		return b, err
	}
	if err := w.close(); err != nil {
		return b, err
	}
	hash := blake3.New()
	if _, err := io.Copy(hash, io.NewSectionReader(file, 0, 1<<62)); err != nil {
		return b, fmt.Errorf("read the backup's list: %w", err)
	}
	b.List = hex.EncodeToString(hash.Sum(nil))
	if err := to.Put(ctx, lists+b.ID, io.NewSectionReader(file, 0, 1<<62)); err != nil {
		return b, fmt.Errorf("store the backup's list: %w", err)
	}
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		return b, fmt.Errorf("describe the backup: %w", err)
	}
	if err := to.Put(ctx, descriptions+b.ID, bytes.NewReader(append(text, '\n'))); err != nil {
		return b, fmt.Errorf("complete the backup: %w", err)
	}
	return b, nil
}
