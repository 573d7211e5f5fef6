package lake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/base/fault"
	"tarn.dev/tarn/internal/base/near"
	"tarn.dev/tarn/internal/meta"
)

// MainBranch exists in every lake from the start and cannot be deleted.
const MainBranch = "main"

// MaxRef bounds the name of a branch or tag.
const MaxRef = 255

// Errors about refs. Their messages name what was asked for and what there is.
var (
	ErrInvalidRef     = errdef.New(errdef.InvalidArgument, "lake.invalid_ref", "invalid ref")
	ErrRefNotFound    = errdef.New(errdef.NotFound, "lake.ref_not_found", "no such ref")
	ErrBranchNotFound = errdef.New(errdef.NotFound, "lake.branch_not_found", "no such branch")
	ErrTagNotFound    = errdef.New(errdef.NotFound, "lake.tag_not_found", "no such tag")
	ErrRefExists      = errdef.New(errdef.AlreadyExists, "lake.ref_exists", "the name is taken")
	ErrAmbiguousRef   = errdef.New(errdef.InvalidArgument, "lake.ambiguous_ref", "several commits begin with this id")
	ErrMainBranch     = errdef.New(errdef.FailedPrecondition, "lake.main_branch", "the branch main cannot be deleted")
)

// Ref is a branch or a tag with the commit it names.
type Ref struct {
	Name   string
	Commit Hash
	Time   time.Time // of a branch: when it last moved; of a tag: when it was made
}

// refRow is the row of a branch or tag.
type refRow struct {
	Commit Hash      `json:"commit"`
	Time   time.Time `json:"time"`
}

// requestRow is what an idempotent request has come to.
type requestRow struct {
	Did    string    `json:"did,omitempty"` // one of the constants below; an update when empty
	Branch string    `json:"branch"`        // or tag
	Before Hash      `json:"before,omitzero"`
	Commit Hash      `json:"commit"`
	Time   time.Time `json:"time"`
}

const (
	didUpdate       = ""
	didCreateBranch = "create branch"
	didDeleteBranch = "delete branch"
	didCreateTag    = "create tag"
	didDeleteTag    = "delete tag"
	didUndelete     = "undelete branch"
	didRetain       = "retain"
)

// Rows of the history. A ref's name is the tail of its key as it is, so that refs list in order.
func (l *Lake) branchKey(name string) string { return l.prefix + "branch/" + name }
func (l *Lake) tagKey(name string) string    { return l.prefix + "tag/" + name }
func (l *Lake) commitKey(id string) string   { return l.prefix + "commit/" + id }
func (l *Lake) requestKey(id string) string  { return l.prefix + "request/" + meta.Key(id) }

// CheckRefName returns ErrInvalidRef, with the reason, for a name that no branch or tag may have.
func CheckRefName(name string) error {
	bad := func(format string, args ...any) error {
		return ErrInvalidRef.Errorf("invalid ref name %q: "+format, append([]any{clip(name)}, args...)...).
			WithNext("Use letters, digits, '.', '_', '-', and '/' between parts.")
	}
	switch {
	case name == "":
		return ErrInvalidRef.Errorf("the ref name is empty")
	case len(name) > MaxRef:
		return bad("it has %d bytes, at most %d are allowed", len(name), MaxRef)
	case !utf8.ValidString(name) || !norm.NFC.IsNormalString(name):
		return bad("it is not UTF-8 in normal form C")
	}
	for _, r := range name {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) && !strings.ContainsRune("._-/", r) {
			return bad("%q is not allowed", r)
		}
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "":
			return bad("a part between slashes is empty")
		case part[0] == '.' || part[0] == '-':
			return bad("a part may not begin with %q", part[:1])
		case strings.Contains(part, ".."):
			return bad("\"..\" is not allowed")
		}
	}
	if _, err := ParseHash(name); err == nil {
		return bad("it would hide a commit id")
	}
	return nil
}

// Branches yields all branches in order of their names.
func (l *Lake) Branches(ctx context.Context) iter.Seq2[Ref, error] {
	return l.refs(ctx, l.branchKey(""))
}

// Tags yields all tags in order of their names.
func (l *Lake) Tags(ctx context.Context) iter.Seq2[Ref, error] { return l.refs(ctx, l.tagKey("")) }

func (l *Lake) refs(ctx context.Context, prefix string) iter.Seq2[Ref, error] {
	return func(yield func(Ref, error) bool) {
		for row, err := range l.rows.Scan(ctx, meta.Prefix(prefix)) {
			var ref Ref
			if err == nil {
				ref, err = parseRef(strings.TrimPrefix(row.Key, prefix), row)
			}
			if !yield(ref, err) || err != nil {
				return
			}
		}
	}
}

func parseRef(name string, row meta.Row) (Ref, error) {
	var r refRow
	if err := json.Unmarshal(row.Value, &r); err != nil || r.Commit.IsZero() {
		return Ref{}, ErrCorrupt.Errorf("row %s is not that of a ref", row.Key)
	}
	return Ref{Name: name, Commit: r.Commit, Time: r.Time.UTC()}, nil
}

// Branch returns one branch, or ErrBranchNotFound.
func (l *Lake) Branch(ctx context.Context, name string) (Ref, error) {
	ref, _, err := l.branch(ctx, name)
	return ref, err
}

// branch returns a branch with the version of its row.
func (l *Lake) branch(ctx context.Context, name string) (Ref, int64, error) {
	if err := CheckRefName(name); err != nil {
		return Ref{}, 0, err
	}
	row, err := l.rows.Get(ctx, l.branchKey(name))
	if errors.Is(err, meta.ErrNotFound) {
		return Ref{}, 0, l.refNotFound(ctx, ErrBranchNotFound, "branch", name, l.Branches)
	}
	if err != nil {
		return Ref{}, 0, err
	}
	ref, err := parseRef(name, row)
	return ref, row.Version, err
}

// refNotFound words the absence of a ref: what was typed, what is close, what there is.
func (l *Lake) refNotFound(ctx context.Context, sentinel *errdef.Error, what, name string, lists ...func(context.Context) iter.Seq2[Ref, error]) error {
	var names []string
	for _, list := range lists {
		for ref, err := range list(ctx) {
			if err != nil {
				return err
			}
			if !strings.HasPrefix(ref.Name, "run/") || strings.HasPrefix(name, "run/") {
				names = append(names, ref.Name)
			}
		}
	}
	text := fmt.Sprintf("there is no %s '%s'.", what, clip(name))
	if meant := near.Nearest(name, names); meant != "" {
		text += " Did you mean " + meant + "?"
	}
	switch {
	case len(names) == 0:
		return sentinel.Errorf("%s", text)
	case len(lists) > 1:
		return sentinel.Errorf("%s Branches and tags: %s.", text, some(names))
	case what == "tag":
		return sentinel.Errorf("%s Tags: %s.", text, some(names))
	}
	return sentinel.Errorf("%s Branches: %s.", text, some(names))
}

// CreateBranch makes a branch that names the commit from. With a request id it is done once: the same
// request again returns the same branch.
func (l *Lake) CreateBranch(ctx context.Context, name string, from Hash, request string) (Ref, error) {
	ref, err := l.changeRef(ctx, request, didCreateBranch, name, func() (Ref, []meta.Condition, []meta.Write, error) {
		ref, conditions, writes, err := l.newBranch(ctx, name, moveRow{Commit: from, Why: "create", Request: request})
		if err != nil {
			return Ref{}, nil, nil, err
		}
		return ref, conditions, writes, fault.Point("lake.branch.create.before_txn")
	})
	if err != nil {
		return Ref{}, l.taken(name, err)
	}
	return ref, fault.Point("lake.branch.create.after_txn")
}

// newBranch is what the transaction asserts and writes that makes a branch.
func (l *Lake) newBranch(ctx context.Context, name string, move moveRow) (Ref, []meta.Condition, []meta.Write, error) {
	var last time.Time // of a deleted branch of that name
	for m, err := range l.moves(ctx, name, time.Time{}, 1) {
		if err != nil {
			return Ref{}, nil, nil, err
		}
		last = m.Time
	}
	ref, value, err := l.newRef(ctx, name, move.Commit, after(last))
	return ref, l.free(name, move.Commit), []meta.Write{
		l.touch(move.Commit), meta.Set(l.branchKey(name), value), meta.Set(l.moveKey(name, ref.Time), mustJSON(move)),
	}, err
}

// CreateTag makes a tag that names the commit for good; with a request id, once.
func (l *Lake) CreateTag(ctx context.Context, name string, commit Hash, request string) (Ref, error) {
	ref, err := l.changeRef(ctx, request, didCreateTag, name, func() (Ref, []meta.Condition, []meta.Write, error) {
		ref, value, err := l.newRef(ctx, name, commit, time.Now().UTC())
		return ref, l.free(name, commit), []meta.Write{l.touch(commit), meta.Set(l.tagKey(name), value)}, err
	})
	if err != nil {
		return Ref{}, l.taken(name, err)
	}
	return ref, nil
}

// changeRef makes, changes or removes one ref in a transaction that prepare makes up; of a request that
// was answered before, it returns the answer.
func (l *Lake) changeRef(ctx context.Context, request, did, name string, prepare func() (Ref, []meta.Condition, []meta.Write, error)) (Ref, error) {
	if err := (CommitInfo{RequestID: request}).check(); err != nil {
		return Ref{}, err
	}
	for {
		if r, ok, err := l.request(ctx, request, did, name); ok || err != nil {
			return Ref{Name: name, Commit: r.Commit, Time: r.Time}, err
		}
		ref, conditions, writes, err := prepare()
		if err != nil {
			return Ref{}, err
		}
		if request != "" {
			once, row, err := l.requestRows(request, requestRow{Did: did, Branch: name, Commit: ref.Commit, Time: ref.Time})
			if err != nil {
				return Ref{}, err
			}
			conditions, writes = append(conditions, once), append(writes, row)
		}
		_, err = l.rows.Txn(ctx, conditions, writes)
		if request == "" || !errors.Is(err, meta.ErrConditionFailed) {
			return ref, err
		}
		// The same request, sent twice at once, may have broken any of the conditions.
		if _, ok, asked := l.request(ctx, request, did, name); !ok || asked != nil {
			return ref, errors.Join(err, asked)
		}
	}
}

// free are the conditions of a new ref.
func (l *Lake) free(name string, commit Hash) []meta.Condition {
	return []meta.Condition{meta.Absent(l.branchKey(name)), meta.Absent(l.tagKey(name)), meta.Exists(l.commitKey(commit.String()))}
}

// touch is written by whoever names a commit again, on condition that its row exists: garbage collection,
// which may be about to remove the row, sees that it changed.
func (l *Lake) touch(commit Hash) meta.Write { return meta.Set(l.commitKey(commit.String()), nil) }

func (l *Lake) newRef(ctx context.Context, name string, commit Hash, now time.Time) (Ref, []byte, error) {
	if err := CheckRefName(name); err != nil {
		return Ref{}, nil, err
	}
	if _, err := l.rows.Get(ctx, l.commitKey(commit.String())); err != nil {
		if errors.Is(err, meta.ErrNotFound) {
			err = ErrRefNotFound.Errorf("there is no commit %s", commit)
		}
		return Ref{}, nil, err
	}
	ref := Ref{Name: name, Commit: commit, Time: now}
	value, err := json.Marshal(refRow{Commit: ref.Commit, Time: ref.Time})
	return ref, value, err
}

// taken words the failed condition of a new ref.
func (l *Lake) taken(name string, err error) error {
	var failed *meta.ConditionError
	if !errors.As(err, &failed) {
		return err
	}
	switch failed.Condition.Key {
	case l.branchKey(name):
		return ErrRefExists.Errorf("there is a branch '%s' already", name)
	case l.tagKey(name):
		return ErrRefExists.Errorf("there is a tag '%s' already; tags do not move", name).
			WithNext("tarn tag rm "+name, "or choose another name")
	}
	return err
}

// DeleteBranch removes a branch and returns what it was; its commits stay. With a request id it is done
// once. An update that is under way on it fails with ErrBranchNotFound.
func (l *Lake) DeleteBranch(ctx context.Context, name, request string) (Ref, error) {
	if name == MainBranch {
		return Ref{}, ErrMainBranch
	}
	for {
		ref, err := l.changeRef(ctx, request, didDeleteBranch, name, func() (Ref, []meta.Condition, []meta.Write, error) {
			ref, version, err := l.branch(ctx, name)
			if err != nil {
				return Ref{}, nil, nil, err
			}
			log := mustJSON(moveRow{Why: "delete", Request: request})
			return ref, []meta.Condition{meta.At(l.branchKey(name), version)},
				[]meta.Write{meta.Delete(l.branchKey(name)), meta.Delete(l.retainKey(name)), meta.Set(l.moveKey(name, after(ref.Time)), log)}, nil
		})
		if !errors.Is(err, meta.ErrConditionFailed) { // else it moved
			return ref, err
		}
	}
}

// DeleteTag removes a tag and returns what it was; its commit stays. With a request id it is done once.
func (l *Lake) DeleteTag(ctx context.Context, name, request string) (Ref, error) {
	for {
		ref, err := l.changeRef(ctx, request, didDeleteTag, name, func() (Ref, []meta.Condition, []meta.Write, error) {
			if err := CheckRefName(name); err != nil {
				return Ref{}, nil, nil, err
			}
			row, err := l.rows.Get(ctx, l.tagKey(name))
			if errors.Is(err, meta.ErrNotFound) {
				err = l.refNotFound(ctx, ErrTagNotFound, "tag", name, l.Tags)
			}
			if err != nil {
				return Ref{}, nil, nil, err
			}
			ref, err := parseRef(name, row)
			return ref, []meta.Condition{meta.At(row.Key, row.Version)}, []meta.Write{meta.Delete(row.Key)}, err
		})
		if !errors.Is(err, meta.ErrConditionFailed) {
			return ref, err
		}
	}
}
