package server

import (
	"context"
	"path"
	"strings"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/lake"
)

func (s *fileService) Link(ctx context.Context, req *tarnv1.LinkRequest) (*tarnv1.LinkResponse, error) {
	write := req.GetWrite()
	if err := checkWrite(write); err != nil {
		return nil, err
	}
	p, err := s.projects.Open(ctx, write.GetProject())
	if err != nil {
		return nil, err
	}
	may, err := p.Flow.Writable(ctx, write.GetInto())
	if err != nil {
		return nil, err
	}
	files := newStage(ctx, p.Lake, may)
	defer func() { files.discard() }()
	if err := findLinks(ctx, p, req, files); err != nil {
		return nil, err
	}
	if err := files.done(ctx); err != nil {
		return nil, err
	}
	w, err := files.publish(ctx, p, write, "Link")
	if err != nil {
		return nil, err
	}
	return &tarnv1.LinkResponse{Files: files.files, Bytes: files.bytes, Written: w}, nil
}

// findLinks looks at all originals, and adds links to them.
func findLinks(ctx context.Context, p *Project, req *tarnv1.LinkRequest, files *stage) error {
	to := req.GetTo()
	folder := to == "" || to == "." || strings.HasSuffix(to, "/")
	switch {
	case len(req.GetUrls()) == 0:
		return errPath.Errorf("nothing to link was named")
	case len(req.GetUrls()) > 1 && !folder:
		return errPath.Errorf("several originals need a folder to go to: %s/ with a slash at its end", to)
	}
	to = strings.TrimPrefix(path.Clean("/"+to), "/")
	for _, url := range req.GetUrls() {
		for found, err := range p.Flow.Originals.Find(ctx, url) {
			if err != nil {
				return err
			}
			name := to
			if folder || !found.One {
				// Not path.Join: a name of a bucket that no file can have must be refused, not made another one.
				name = strings.TrimPrefix(to+"/"+found.Name, "/")
			}
			key, err := files.key(name)
			if err != nil {
				return err
			}
			if err := files.add(ctx, key, lake.ExternalEntry(found.State)); err != nil {
				return err
			}
		}
	}
	return nil
}
