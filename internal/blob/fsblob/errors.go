package fsblob

import (
	"errors"
	"io/fs"
	"syscall"

	"tarn.dev/tarn/internal/base/errdef"
)

// Errors that the file system gives to this store.
var (
	// ErrDiskFull means that no space, inode or quota is left.
	ErrDiskFull = errdef.New(errdef.ResourceExhausted, "blob.disk_full", "the disk is full")
	// ErrPermission means that this user may not read or write the folder.
	ErrPermission = errdef.New(errdef.PermissionDenied, "blob.permission_denied", "no permission")
	// ErrTooManyFiles means that the process or the machine has no free descriptors.
	ErrTooManyFiles = errdef.New(errdef.ResourceExhausted, "blob.too_many_files", "too many open files")
	// ErrUnreadable means that the disk cannot give back bytes it was given.
	ErrUnreadable = errdef.New(errdef.DataLoss, "blob.unreadable", "stored bytes cannot be read")
	// ErrDevice means that the disk refused to store bytes; nothing became visible.
	ErrDevice = errdef.New(errdef.Unavailable, "blob.device_error", "the disk reports an error")
)

type direction bool

const (
	reading direction = false
	writing direction = true
)

// classify gives a file system's error a code. What nobody foresaw stays as it is: internal.
func classify(err error, doing string, d direction) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return ErrDiskFull.Errorf("%s: the disk is full: %w", doing, err).
			WithNext("free space on that disk, or move TARN_HOME to a larger one")
	case errors.Is(err, syscall.EROFS):
		return ErrPermission.Errorf("%s: the file system is read-only: %w", doing, err)
	case errors.Is(err, fs.ErrPermission):
		return ErrPermission.Errorf("%s: no permission: %w", doing, err)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return ErrTooManyFiles.Errorf("%s: too many open files: %w", doing, err).WithNext("raise `ulimit -n`")
	case errors.Is(err, syscall.EIO), errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV):
		if d == writing {
			return ErrDevice.Errorf("%s: the disk reports an error: %w", doing, err)
		}
		return ErrUnreadable.Errorf("%s: the disk cannot read it: %w", doing, err)
	}
	return errdef.Newf(errdef.Internal, "blob.file_system", "%s: %w", doing, err)
}
