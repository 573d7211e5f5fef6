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
	files, size, err := findLinks(ctx, p, req, may)
	if err != nil {
		return nil, err
	}
	pub, err := p.Flow.Publish(ctx, publication(write, putMessage("Link", files), func(ctx context.Context, tx *lake.Tx) error {
		return publishFiles(ctx, tx, p.Lake.Tree(tx.Head.Tree), files)
	}))
	if err != nil {
		return nil, err
	}
	return &tarnv1.LinkResponse{Files: int64(len(files)), Bytes: size, Written: written(write.GetInto(), pub)}, nil
}

// findLinks looks at all originals, and returns links to them by path. may is asked for the key of each.
func findLinks(ctx context.Context, p *Project, req *tarnv1.LinkRequest, may func(key string) error) (map[string]lake.Entry, int64, error) {
	to := req.GetTo()
	folder := to == "" || to == "." || strings.HasSuffix(to, "/")
	switch {
	case len(req.GetUrls()) == 0:
		return nil, 0, errPath.Errorf("nothing to link was named")
	case len(req.GetUrls()) > 1 && !folder:
		return nil, 0, errPath.Errorf("several originals need a folder to go to: %s/ with a slash at its end", to)
	}
	to = strings.TrimPrefix(path.Clean("/"+to), "/")
	files, from, size := map[string]lake.Entry{}, map[string]string{}, int64(0)
	for _, url := range req.GetUrls() {
		for found, err := range p.Flow.Originals.Find(ctx, url) {
			if err != nil {
				return nil, 0, err
			}
			name := to
			if folder || !found.One {
				// Not path.Join: a name of a bucket that no file can have must be refused, not made another one.
				name = strings.TrimPrefix(to+"/"+found.Name, "/")
			}
			if name, err = filePath(name); err != nil {
				return nil, 0, err
			}
			if other, twice := from[name]; twice {
				return nil, 0, errPath.Errorf("%s and %s would both become %s", other, found.URL, name)
			}
			if err := may(lake.FileKey(name)); err != nil {
				return nil, 0, err
			}
			files[name], from[name] = lake.ExternalEntry(found.State), found.URL
			size += found.Size
		}
	}
	return files, size, nil
}
