package blob

import (
	"context"
	"errors"
	"io"
	"os"

	"tarn.dev/tarn/internal/base/errdef"
)

// ReaderWithContext returns a reader that fails with ctx's cause once ctx has ended. Implementations
// wrap the source of Put and the result of Get with it, so that a long copy ends early.
func ReaderWithContext(ctx context.Context, r io.Reader) io.Reader {
	return &contextReader{ctx, r}
}

type contextReader struct {
	ctx context.Context //nolint:containedctx // lives as long as the one call it belongs to
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// CheckEnds refuses a ctx that never ends, for File of implementations.
func CheckEnds(ctx context.Context, name string) error {
	if ctx.Done() == nil {
		return errdef.Newf(errdef.Internal, "blob.no_end", "the file of blob %s would be kept for ever", name)
	}
	return nil
}

// Given is a reader of a whole file that its owner gives away: nobody writes to it anymore. A store on the
// same file system may keep the file itself instead of a copy of it.
type Given struct{ *os.File }

// ReadAll returns the whole of a blob that fits into memory.
func ReadAll(ctx context.Context, blobs Store, name string) ([]byte, error) {
	src, err := blobs.Get(ctx, name, 0, -1)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(src)
	if err := errors.Join(err, src.Close()); err != nil {
		return nil, err
	}
	return data, nil
}
