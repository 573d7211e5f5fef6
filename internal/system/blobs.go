package system

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/blob"
	"tarn.dev/tarn/internal/blob/cacheblob"
	"tarn.dev/tarn/internal/blob/fsblob"
	"tarn.dev/tarn/internal/blob/s3blob"
	"tarn.dev/tarn/internal/meta"
	"tarn.dev/tarn/internal/system/home"
)

// ErrOtherBlobs is returned for a home that is opened with another bucket than before: its rows name what
// is in that one.
var ErrOtherBlobs = errdef.New(errdef.FailedPrecondition, "system.other_blobs", "the home belongs to another bucket")

// blobs is where projects have their bulk data: below the home, or in a bucket with copies in the home.
type blobs struct {
	home   home.Home
	bucket *s3blob.Store    // nil: below the home
	copies *cacheblob.Cache // of what is far away: in the bucket, or linked
	news   string           // the URL of the bucket, if the home does not remember it yet
}

// openBlobs opens the bulk data of a home: in the bucket of a URL, or for "" where it was before. The home
// remembers the bucket, so that no command that lacks its URL starts with empty projects.
func openBlobs(ctx context.Context, h home.Home, url string) (*blobs, error) {
	b, err := os.ReadFile(h.Blobs())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errdef.Newf(errdef.FailedPrecondition, "system.blobs", "read where the bulk data is: %w", err)
	}
	known := strings.TrimSpace(string(b))
	if url == "" {
		url = known
	}
	budget, err := blobCacheBudget()
	if err != nil {
		return nil, err
	}
	copies, err := cacheblob.Open(h.BlobCache(), budget)
	if err != nil {
		return nil, err
	}
	if url == "" {
		return &blobs{home: h, copies: copies}, nil
	}
	at, err := s3blob.Parse(url)
	if err != nil {
		return nil, err
	}
	if err := checkSame(h, known, at); err != nil {
		return nil, err
	}
	bucket, err := s3blob.Open(ctx, at)
	if err != nil {
		return nil, err
	}
	out := &blobs{home: h, bucket: bucket, copies: copies}
	if url != known {
		out.news = url
	}
	return out, nil
}

// checkSame refuses a bucket that is not where the home's projects are. How it is reached may change.
func checkSame(h home.Home, known string, at s3blob.Location) error {
	if known == "" {
		entries, err := os.ReadDir(filepath.Dir(h.Project("x")))
		if err == nil && len(entries) > 0 {
			return ErrOtherBlobs.Errorf("the projects of %s are in the home itself, and stay there", h.Dir).WithNext("export TARN_HOME=/a/new/folder")
		}
		return nil
	}
	before, err := s3blob.Parse(known)
	if err != nil {
		return ErrOtherBlobs.Errorf("%s does not say where the projects are: %w", h.Blobs(), err)
	}
	if before.Bucket != at.Bucket || before.Prefix != at.Prefix {
		return ErrOtherBlobs.Errorf("the projects of %s are in %s, not in %s", h.Dir, before, at).
			WithNext("start the server without a bucket, or with that one", "export TARN_HOME=/a/new/folder")
	}
	return nil
}

// bulkKey is the row that says where the bulk data is that the rows name.
const bulkKey = "bulk"

// bind makes sure that the bulk data is what the rows name, and notes that: with the rows and in the home. Homes that
// share their rows share both: one without the bucket would find that everything is missing.
func (b *blobs) bind(ctx context.Context, rows meta.Store) error {
	here := "the home"
	if b.bucket != nil {
		here = b.bucket.URI("")
	}
	row, err := rows.Get(ctx, bulkKey)
	fresh := errors.Is(err, meta.ErrNotFound)
	if err != nil && !fresh {
		return err
	}
	if there := string(row.Value); !fresh && there != here {
		return ErrOtherBlobs.Errorf("the rows name bulk data in %s, and this server has it in %s", there, here).
			WithNext("start every server of these rows with the same bucket: --blob s3://...")
	}
	if b.bucket != nil {
		if err := b.claim(ctx, rows); err != nil {
			return err
		}
	}
	if fresh {
		_, err := rows.Txn(ctx, []meta.Condition{meta.Absent(bulkKey)}, []meta.Write{meta.Set(bulkKey, []byte(here))})
		if errors.Is(err, meta.ErrConditionFailed) { // another server was first
			return b.bind(ctx, rows)
		}
		if err != nil {
			return err
		}
	}
	if b.news == "" {
		return nil
	}
	return b.home.RememberBlobs(b.news)
}

// ownerKey is the row with the name under which the rows own their place in a bucket.
const ownerKey = "bulk/owner"

// claim refuses a place in a bucket that other rows own: what one names is garbage to the other.
func (b *blobs) claim(ctx context.Context, rows meta.Store) error {
	own := rand.Text()
	_, err := rows.Txn(ctx, []meta.Condition{meta.Absent(ownerKey)}, []meta.Write{meta.Set(ownerKey, []byte(own))})
	if errors.Is(err, meta.ErrConditionFailed) { // since an earlier start
		var row meta.Row
		row, err = rows.Get(ctx, ownerKey)
		own = string(row.Value)
	}
	if err != nil {
		return err
	}
	owner, err := b.bucket.Claim(ctx, own)
	if err == nil && owner != own {
		err = ErrOtherBlobs.Errorf("%s holds the projects of another home", b.bucket.URI("")).
			WithNext("use another prefix: "+b.bucket.URI("other"), "start with the rows of that home: tarn server start --help")
	}
	return err
}

// project is the bulk data of one project.
func (b *blobs) project(name string) (blob.FileStore, error) {
	if b.bucket == nil {
		return fsblob.Open(b.home.Project(name))
	}
	return b.copies.Of(b.bucket.Below("projects/" + name)), nil
}

// original is the bulk data of one project without copies, for who reads all of it once.
func (b *blobs) original(name string) (blob.Store, error) {
	if b.bucket == nil {
		return b.project(name)
	}
	return b.bucket.Below("projects/" + name), nil
}

// holds says whether a place in a bucket is the one with the home's projects, or in it.
func (b *blobs) holds(at s3blob.Location) bool {
	return b.bucket != nil && b.bucket.Within(at)
}

// blobCacheDefault is enough for the tables that one machine works on at a time.
const blobCacheDefault = 10 << 30

// blobCacheBudget reads TARN_BLOB_CACHE: how much copies of what is in a bucket may take on the disk.
func blobCacheBudget() (int64, error) {
	return sizeOf("TARN_BLOB_CACHE", blobCacheDefault, "system.blob_cache", "export TARN_BLOB_CACHE=10GiB, or 0 to keep only what is in use")
}
