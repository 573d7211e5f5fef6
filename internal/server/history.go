package server

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"math"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/lake"
)

// maxShown bounds the changes that Show lists: it is for a page, Diff has them all.
const maxShown = 100

type historyService struct{ projects Projects }

// list describes refs with their commits.
func list(ctx context.Context, l *lake.Lake, refs iter.Seq2[lake.Ref, error]) ([]*tarnv1.Ref, error) {
	var out []*tarnv1.Ref
	for r, err := range refs {
		if err != nil {
			return nil, err
		}
		ref, err := toRef(ctx, l, r)
		if err != nil {
			return nil, err
		}
		out = append(out, ref)
	}
	return out, nil
}

func toRef(ctx context.Context, l *lake.Lake, r lake.Ref) (*tarnv1.Ref, error) {
	c, err := l.Commit(ctx, r.Commit)
	if err != nil {
		return nil, err
	}
	return &tarnv1.Ref{Name: r.Name, Commit: toCommit(c)}, nil
}

func (s *historyService) ListBranches(ctx context.Context, req *tarnv1.ListBranchesRequest) (*tarnv1.ListBranchesResponse, error) {
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return nil, err
	}
	refs, err := list(ctx, p.Lake, p.Lake.Branches(ctx))
	if err != nil {
		return nil, err
	}
	retentions, err := p.Lake.Retentions(ctx)
	for _, ref := range refs {
		if r, ok := retentions[ref.GetName()]; ok {
			ref.Retention = toRetention(r)
		}
	}
	return &tarnv1.ListBranchesResponse{Branches: refs}, err
}

func toRetention(r lake.Retention) *tarnv1.Retention {
	if r == (lake.Retention{}) {
		return nil
	}
	return &tarnv1.Retention{KeepSeconds: int64(r.Keep / time.Second), Last: int32(r.Last)}
}

func (s *historyService) RetainBranch(ctx context.Context, req *tarnv1.RetainBranchRequest) (*tarnv1.RetainBranchResponse, error) {
	if err := checkRequestID(req.GetRequestId()); err != nil {
		return nil, err
	}
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return nil, err
	}
	keep := req.GetRetention().GetKeepSeconds()
	if keep > math.MaxInt64/int64(time.Second) || keep < 0 {
		return nil, lake.ErrInvalidRetention.Errorf("a branch cannot keep %d seconds", keep)
	}
	r := lake.Retention{Keep: time.Duration(keep) * time.Second, Last: int(req.GetRetention().GetLast())}
	b, err := p.Lake.Retain(ctx, req.GetName(), r, lake.CommitInfo{RequestID: req.GetRequestId(), Author: req.GetAuthor()})
	if err != nil {
		return nil, err
	}
	ref, err := toRef(ctx, p.Lake, b)
	if err != nil {
		return nil, err
	}
	ref.Retention = toRetention(r)
	return &tarnv1.RetainBranchResponse{Branch: ref}, nil
}

func (s *historyService) CreateBranch(ctx context.Context, req *tarnv1.CreateBranchRequest) (*tarnv1.CreateBranchResponse, error) {
	p, from, err := s.from(ctx, req.GetProject(), req.GetRequestId(), req.GetFrom())
	if err != nil {
		return nil, err
	}
	b, err := p.Lake.CreateBranch(ctx, req.GetName(), from.ID, req.GetRequestId())
	if err != nil {
		return nil, err
	}
	ref, err := toRef(ctx, p.Lake, b)
	return &tarnv1.CreateBranchResponse{Branch: ref}, err
}

// from is the beginning of every request that makes a name for a commit.
func (s *historyService) from(ctx context.Context, project, requestID, ref string) (*Project, lake.Commit, error) {
	if err := checkRequestID(requestID); err != nil {
		return nil, lake.Commit{}, err
	}
	p, err := s.projects.Open(ctx, project)
	if err != nil {
		return nil, lake.Commit{}, err
	}
	c, err := p.Lake.Resolve(ctx, ref)
	return p, c, err
}

func (s *historyService) DeleteBranch(ctx context.Context, req *tarnv1.DeleteBranchRequest) (*tarnv1.DeleteBranchResponse, error) {
	if err := checkRequestID(req.GetRequestId()); err != nil {
		return nil, err
	}
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return nil, err
	}
	b, err := p.Lake.DeleteBranch(ctx, req.GetName(), req.GetRequestId())
	if err != nil {
		return nil, err
	}
	resp := &tarnv1.DeleteBranchResponse{}
	if resp.Branch, err = toRef(ctx, p.Lake, b); err != nil {
		return nil, err
	}
	for m, err := range p.Lake.Reflog(ctx, req.GetName()) {
		if err != nil {
			return nil, err
		}
		if m.Commit.IsZero() && m.Request == req.GetRequestId() {
			resp.KeptUntil = timestamppb.New(m.Time.Add(flow.KeepDeleted))
			break
		}
	}
	return resp, nil
}

func (s *historyService) BranchLog(ctx context.Context, req *tarnv1.BranchLogRequest, out *connect.ServerStream[tarnv1.BranchLogResponse]) error {
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return err
	}
	if err := lake.CheckRefName(req.GetName()); err != nil {
		return err
	}
	// Each move is sent when the one before it is known: that is where it came from.
	var next *tarnv1.Move
	sent := 0
	for m, err := range p.Lake.Reflog(ctx, req.GetName()) {
		if err != nil {
			return err
		}
		move, err := toMove(ctx, p.Lake, m)
		if err != nil {
			return err
		}
		if next != nil {
			next.From = move.GetTo()
			if err := out.Send(&tarnv1.BranchLogResponse{Move: next}); err != nil {
				return err
			}
			if sent++; sent == int(req.GetLimit()) {
				return nil
			}
		}
		next = move
	}
	if next == nil {
		_, err := p.Lake.Branch(ctx, req.GetName()) // says which branches there are
		return err
	}
	return out.Send(&tarnv1.BranchLogResponse{Move: next})
}

func toMove(ctx context.Context, l *lake.Lake, m lake.Move) (*tarnv1.Move, error) {
	move := &tarnv1.Move{Time: timestamppb.New(m.Time), Why: m.Why, Author: m.Author, Request: m.Request}
	if m.Commit.IsZero() {
		move.KeptUntil = timestamppb.New(m.Time.Add(flow.KeepDeleted))
		return move, nil
	}
	c, err := l.Commit(ctx, m.Commit)
	move.To, move.Commit = m.Commit.String(), toCommit(c)
	return move, err
}

func (s *historyService) UndeleteBranch(ctx context.Context, req *tarnv1.UndeleteBranchRequest) (*tarnv1.UndeleteBranchResponse, error) {
	if err := checkRequestID(req.GetRequestId()); err != nil {
		return nil, err
	}
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return nil, err
	}
	var at lake.Commit
	if req.GetAt() != "" {
		if at, err = p.Lake.Resolve(ctx, req.GetAt()); err != nil {
			return nil, err
		}
	}
	b, err := p.Lake.UndeleteBranch(ctx, req.GetName(), at.ID, lake.CommitInfo{RequestID: req.GetRequestId(), Author: req.GetAuthor()})
	if err != nil {
		return nil, err
	}
	ref, err := toRef(ctx, p.Lake, b)
	return &tarnv1.UndeleteBranchResponse{Branch: ref}, err
}

func (s *historyService) ListTags(ctx context.Context, req *tarnv1.ListTagsRequest) (*tarnv1.ListTagsResponse, error) {
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return nil, err
	}
	refs, err := list(ctx, p.Lake, p.Lake.Tags(ctx))
	return &tarnv1.ListTagsResponse{Tags: refs}, err
}

func (s *historyService) CreateTag(ctx context.Context, req *tarnv1.CreateTagRequest) (*tarnv1.CreateTagResponse, error) {
	p, from, err := s.from(ctx, req.GetProject(), req.GetRequestId(), req.GetFrom())
	if err != nil {
		return nil, err
	}
	t, err := p.Lake.CreateTag(ctx, req.GetName(), from.ID, req.GetRequestId())
	if err != nil {
		return nil, err
	}
	ref, err := toRef(ctx, p.Lake, t)
	return &tarnv1.CreateTagResponse{Tag: ref}, err
}

func (s *historyService) DeleteTag(ctx context.Context, req *tarnv1.DeleteTagRequest) (*tarnv1.DeleteTagResponse, error) {
	if err := checkRequestID(req.GetRequestId()); err != nil {
		return nil, err
	}
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return nil, err
	}
	t, err := p.Lake.DeleteTag(ctx, req.GetName(), req.GetRequestId())
	if err != nil {
		return nil, err
	}
	ref, err := toRef(ctx, p.Lake, t)
	return &tarnv1.DeleteTagResponse{Tag: ref}, err
}

func (s *historyService) Resolve(ctx context.Context, req *tarnv1.ResolveRequest) (*tarnv1.ResolveResponse, error) {
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return nil, err
	}
	c, err := p.Lake.Resolve(ctx, req.GetRef())
	if err != nil {
		return nil, err
	}
	isBranch, err := isBranch(ctx, p.Lake, req.GetRef())
	if err != nil {
		return nil, err
	}
	counts, err := count(ctx, p.Lake.Tree(c.Tree))
	return &tarnv1.ResolveResponse{Commit: toCommit(c), Branch: isBranch, Counts: counts}, err
}

func isBranch(ctx context.Context, l *lake.Lake, name string) (bool, error) {
	_, err := l.Branch(ctx, name)
	if errors.Is(err, lake.ErrBranchNotFound) || errors.Is(err, lake.ErrInvalidRef) {
		return false, nil
	}
	return err == nil, err
}

// count tells how many keys of each kind a tree has. Tables and definitions are few and are counted;
// files may be millions, and are the rest of a total that the tree knows.
func count(ctx context.Context, t lake.Tree) (map[string]int64, error) {
	counts := map[string]int64{}
	total, err := t.Count(ctx)
	if err != nil {
		return nil, err
	}
	for kind, prefix := range map[lake.Kind]string{lake.KindTable: lake.TablePrefix, lake.KindDef: lake.DefPrefix} {
		for _, err := range t.Scan(ctx, prefix, "") {
			if err != nil {
				return nil, err
			}
			counts[string(kind)]++
			total--
		}
	}
	counts[string(lake.KindFile)] = total
	return counts, nil
}

func (s *historyService) Log(ctx context.Context, req *tarnv1.LogRequest, out *connect.ServerStream[tarnv1.LogResponse]) error {
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return err
	}
	if req.GetName() == "" {
		c, err := p.Lake.Resolve(ctx, req.GetRef())
		if err != nil {
			return err
		}
		_, err = sendLog(ctx, p.Lake, c.ID, "", int(req.GetLimit()), out)
		return err
	}
	return inCommit(ctx, p.Lake, req.GetRef(), req.GetName(), func(c lake.Commit, name, ref string) error {
		if folder, ok := strings.CutSuffix(name, "/"); ok {
			n, err := sendLog(ctx, p.Lake, c.ID, lake.FileKey(folder)+"/", int(req.GetLimit()), out)
			if err == nil && n == 0 {
				err = noEntry(ctx, p.Lake.Tree(c.Tree), lake.FilePrefix, "folder", name, ref)
			}
			return err
		}
		ke, found, err := entryAt(ctx, p.Lake.Tree(c.Tree), name)
		if err != nil {
			return err
		}
		keys := []string{ke.Key}
		if !found { // it may have been removed
			if keys, err = candidates(name); err != nil {
				return err
			}
		}
		for _, key := range keys {
			if n, err := sendLog(ctx, p.Lake, c.ID, key, int(req.GetLimit()), out); n > 0 || err != nil {
				return err
			}
		}
		missing := noEntry(ctx, p.Lake.Tree(c.Tree), "", "table or file", name, ref)
		if _, err := p.Lake.Resolve(ctx, name); err == nil { // a branch, given where a table is expected
			missing = errdef.As(missing).WithNext("tarn log --ref " + name)
		}
		return missing
	})
}

func sendLog(ctx context.Context, l *lake.Lake, from lake.Hash, key string, limit int, out *connect.ServerStream[tarnv1.LogResponse]) (sent int, err error) {
	for c, err := range l.Log(ctx, from, lake.LogOptions{Key: key, Limit: limit}) {
		if err != nil {
			return sent, err
		}
		if err := out.Send(&tarnv1.LogResponse{Commit: toCommit(c)}); err != nil {
			return sent, err
		}
		sent++
	}
	return sent, nil
}

func (s *historyService) Diff(ctx context.Context, req *tarnv1.DiffRequest, out *connect.ServerStream[tarnv1.DiffResponse]) error {
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return err
	}
	from, err := p.Lake.Resolve(ctx, req.GetFrom())
	if err != nil {
		return err
	}
	to, err := p.Lake.Resolve(ctx, req.GetTo())
	if err != nil {
		return err
	}
	a, b := p.Lake.Tree(from.Tree), p.Lake.Tree(to.Tree)
	prefix, exact := "", false
	if name := req.GetName(); strings.HasSuffix(name, "/") {
		prefix = lake.FileKey(strings.TrimSuffix(name, "/")) + "/"
	} else if name != "" {
		ke, found, err := entryAt(ctx, a, name)
		if err == nil && !found {
			ke, found, err = entryAt(ctx, b, name)
		}
		if err == nil && !found {
			err = noEntry(ctx, b, "", "table or file", name, req.GetFrom()+" or "+req.GetTo())
		}
		if err != nil {
			return err
		}
		prefix, exact = ke.Key, true
	}
	for c, err := range a.Diff(ctx, b, prefix) {
		if err != nil {
			return err
		}
		if exact && c.Key != prefix {
			continue
		}
		if err := out.Send(&tarnv1.DiffResponse{Change: toChange(c)}); err != nil {
			return err
		}
	}
	return nil
}

func (s *historyService) Merge(ctx context.Context, req *tarnv1.MergeRequest) (*tarnv1.MergeResponse, error) {
	if err := checkWrite(req.GetWrite()); err != nil {
		return nil, err
	}
	p, err := s.projects.Open(ctx, req.GetWrite().GetProject())
	if err != nil {
		return nil, err
	}
	source, err := p.Lake.Resolve(ctx, req.GetSource())
	if err != nil {
		return nil, err
	}
	into := req.GetWrite().GetInto()
	before, err := p.Lake.Branch(ctx, into)
	if err != nil {
		return nil, err
	}
	prefer := map[string]lake.Side{}
	for name, side := range req.GetPrefer() {
		key, err := preferred(ctx, p.Lake, name, source.ID, before.Commit)
		if err != nil {
			return nil, err
		}
		prefer[key] = lake.Side(side)
	}
	result, pub, err := p.Flow.Merge(ctx, flow.MergeRequest{
		Source: source.ID, Branch: into, Info: info(req.GetWrite(), ""), Dir: req.GetWrite().GetDir(), Prefer: prefer, DryRun: req.GetDryRun(),
	})
	// Conflicts are the answer, dry run or not, and are worded the same.
	conflicts := errors.Is(err, lake.ErrMergeConflict)
	if err != nil && !conflicts {
		return nil, err
	}
	resp := &tarnv1.MergeResponse{}
	for _, ch := range result.Changes {
		resp.Changes = append(resp.Changes, toChange(ch))
	}
	for _, k := range result.Conflicts {
		doc := &tarnv1.Conflict{Key: k.Key, Name: lake.DisplayKey(k.Key), Reason: k.Reason, Message: k.Message}
		if k.Details != nil {
			b, err := json.Marshal(k.Details)
			if err != nil {
				return nil, err
			}
			doc.DetailsJson = string(b)
		}
		resp.Conflicts = append(resp.Conflicts, doc)
	}
	if !req.GetDryRun() && !conflicts {
		resp.Written = written(into, pub)
	}
	return resp, nil
}

// preferred is the key that a name stands for on either side of a merge.
func preferred(ctx context.Context, l *lake.Lake, name string, sides ...lake.Hash) (string, error) {
	for _, id := range sides {
		c, err := l.Commit(ctx, id)
		if err != nil {
			return "", err
		}
		ke, found, err := entryAt(ctx, l.Tree(c.Tree), name)
		if found || err != nil {
			return ke.Key, err
		}
	}
	return "", errNoEntry.Errorf("prefer %s: neither side has it", name)
}

func (s *historyService) Revert(ctx context.Context, req *tarnv1.RevertRequest) (*tarnv1.RevertResponse, error) {
	if err := checkWrite(req.GetWrite()); err != nil {
		return nil, err
	}
	p, err := s.projects.Open(ctx, req.GetWrite().GetProject())
	if err != nil {
		return nil, err
	}
	undo, err := p.Lake.Resolve(ctx, req.GetCommit())
	if err != nil {
		return nil, err
	}
	into := req.GetWrite().GetInto()
	pub, err := p.Flow.Revert(ctx, undo.ID, into, info(req.GetWrite(), ""), req.GetWrite().GetDir())
	if err != nil {
		return nil, err
	}
	return &tarnv1.RevertResponse{Written: written(into, pub)}, nil
}

func (s *historyService) Show(ctx context.Context, req *tarnv1.ShowRequest) (*tarnv1.ShowResponse, error) {
	p, err := s.projects.Open(ctx, req.GetProject())
	if err != nil {
		return nil, err
	}
	if req.GetDir() != "" {
		if err := checkDir(req.GetDir()); err != nil {
			return nil, err
		}
	}
	// A name is a ref before it is an entry: refs are few and chosen by people.
	c, err := p.Lake.Resolve(ctx, req.GetWhat())
	if err == nil {
		return showRef(ctx, p.Lake, req.GetWhat(), c)
	}
	if !errors.Is(err, lake.ErrRefNotFound) && !errors.Is(err, lake.ErrInvalidRef) {
		return nil, err
	}
	var resp *tarnv1.ShowResponse
	err = inCommit(ctx, p.Lake, req.GetRef(), req.GetWhat(), func(c lake.Commit, name, ref string) error {
		ke, found, err := entryAt(ctx, p.Lake.Tree(c.Tree), name)
		if err != nil {
			return err
		}
		if !found {
			refs, err := refNames(ctx, p.Lake)
			if err != nil {
				return err
			}
			return noEntry(ctx, p.Lake.Tree(c.Tree), "", "branch, tag, commit, table or file", name, ref, refs...)
		}
		resp = &tarnv1.ShowResponse{Kind: string(ke.Entry.Kind), Name: lake.DisplayKey(ke.Key), Commit: toCommit(c), Entry: toEntry(ke.Key, ke.Entry)}
		for last, err := range p.Lake.Log(ctx, c.ID, lake.LogOptions{Key: ke.Key, Limit: 1}) {
			if err != nil {
				return err
			}
			resp.LastChange = toCommit(last)
		}
		return nil
	})
	if errdef.CodeOf(err) != errdef.NotFound {
		return resp, err
	}
	missing := err
	if resp, err = showItem(ctx, p.Flow, req.GetWhat()); resp == nil && err == nil {
		resp, err = showOther(ctx, p.Flow, req.GetDir(), req.GetWhat())
	}
	if resp == nil && err == nil {
		err = missing
	}
	return resp, err
}

func refNames(ctx context.Context, l *lake.Lake) ([]string, error) {
	var names []string
	for _, refs := range []iter.Seq2[lake.Ref, error]{l.Branches(ctx), l.Tags(ctx)} {
		for r, err := range refs {
			if err != nil {
				return nil, err
			}
			names = append(names, r.Name)
		}
	}
	return names, nil
}

func showRef(ctx context.Context, l *lake.Lake, name string, c lake.Commit) (*tarnv1.ShowResponse, error) {
	resp := &tarnv1.ShowResponse{Kind: "commit", Name: name, Commit: toCommit(c)}
	branch, err := isBranch(ctx, l, name)
	if err != nil {
		return nil, err
	}
	if branch {
		resp.Kind = "branch"
	} else {
		for t, err := range l.Tags(ctx) {
			if err != nil {
				return nil, err
			}
			if t.Name == name {
				resp.Kind = "tag"
			}
		}
	}
	var parent lake.Hash
	if len(c.Parents) > 0 {
		first, err := l.Commit(ctx, c.Parents[0])
		if errors.Is(err, lake.ErrCut) {
			return resp, nil // what it changed is not known any more
		}
		if err != nil {
			return nil, err
		}
		parent = first.Tree
	}
	for ch, err := range l.Tree(parent).Diff(ctx, l.Tree(c.Tree), "") {
		if err != nil {
			return nil, err
		}
		if len(resp.GetChanges()) == maxShown {
			resp.More = true
			break
		}
		resp.Changes = append(resp.Changes, toChange(ch))
	}
	return resp, nil
}
