//go:build linux

package process

import (
	"bufio"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// maxMessage bounds one line of a message. It is far above what any message needs and bounds what a
// broken command can make the server hold.
const maxMessage = 64 << 20

// drainGrace is how long after its supervisor's end a stream may stay open. Only a process that escaped
// can hold it open.
const drainGrace = 250 * time.Millisecond

// stream reads a pipe to its end, or, after finish, until it is empty.
type stream struct {
	f    *os.File
	tail bool
}

func (s *stream) Read(p []byte) (int, error) {
	if !s.tail {
		n, err := s.f.Read(p)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		s.tail = true
	}
	// Past the deadline the file gives nothing, although bytes may lie in the pipe.
	raw, err := s.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	n := 0
	cerr := raw.Control(func(fd uintptr) {
		n, err = syscall.Read(int(fd), p)
	})
	switch {
	case cerr != nil:
		return 0, cerr
	case err != nil: // EAGAIN: empty, and nobody who counts writes to it
		return 0, io.EOF
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// outputs copies a command's streams to their takers.
type outputs struct {
	files []*os.File
	wg    sync.WaitGroup
	write sync.Mutex // both outputs may go to one writer
}

// text copies from f to w as it comes. When w fails the rest is dropped: the command must not hang.
func (o *outputs) text(f *os.File, w io.Writer) {
	o.files = append(o.files, f)
	o.wg.Go(func() {
		r, buf := &stream{f: f}, make([]byte, 64<<10)
		for {
			n, err := r.Read(buf)
			if n > 0 && w != nil {
				o.write.Lock()
				if _, werr := w.Write(buf[:n]); werr != nil {
					w = nil
				}
				o.write.Unlock()
			}
			if err != nil {
				return
			}
		}
	})
}

// lines gives each line of f to take. After a line that is too long it calls tooLong and drops the rest.
func (o *outputs) lines(f *os.File, take func([]byte), tooLong func()) {
	o.files = append(o.files, f)
	o.wg.Go(func() {
		r := bufio.NewReaderSize(&stream{f: f}, 64<<10)
		var long []byte // the beginning of a line that did not fit the reader's buffer
		for {
			part, err := r.ReadSlice('\n')
			if take != nil && len(long)+len(part) > maxMessage {
				take, long = nil, nil
				tooLong()
			}
			if take == nil {
				if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
					return
				}
				continue
			}
			if errors.Is(err, bufio.ErrBufferFull) {
				long = append(long, part...)
				continue
			}
			line := part
			if len(long) > 0 {
				line, long = append(long, part...), nil
			}
			if err == nil {
				take(line[:len(line)-1])
				continue
			}
			if len(line) > 0 { // the last line may lack its newline
				take(line)
			}
			return
		}
	})
}

// finish waits until everything has been delivered. The command's tree is gone.
func (o *outputs) finish() {
	for _, f := range o.files {
		f.SetReadDeadline(time.Now().Add(drainGrace)) //nolint:errcheck // pipes have deadlines
	}
	o.wg.Wait()
}
