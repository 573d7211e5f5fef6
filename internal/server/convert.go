package server

import (
	"maps"

	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/base/errdef"
	"tarn.dev/tarn/internal/flow"
	"tarn.dev/tarn/internal/lake"
)

func toCommit(c lake.Commit) *tarnv1.Commit {
	out := &tarnv1.Commit{
		Id: c.ID.String(), Tree: c.Tree.String(), Author: c.Author, Message: c.Message,
		Time: timestamppb.New(c.Time), Run: c.Run,
	}
	for _, p := range c.Parents {
		out.Parents = append(out.Parents, p.String())
	}
	for _, p := range c.Cut {
		out.Cut = append(out.Cut, p.String())
	}
	return out
}

func toEntry(key string, e lake.Entry) *tarnv1.Entry {
	out := &tarnv1.Entry{
		Name: lake.DisplayKey(key), Key: key, Kind: string(e.Kind), Version: e.Version, Schema: e.Schema,
		Size: e.Location.Size, Rows: e.Location.Rows, Properties: e.Properties,
	}
	if e.Kind == lake.KindExternal { // its time is no part of what it is, but of what is known of it
		out.Properties = maps.Clone(e.Properties)
		maps.Copy(out.Properties, e.Location.Data)
	}
	return out
}

func toChange(c lake.Change) *tarnv1.Change {
	out := &tarnv1.Change{Key: c.Key}
	if c.Before != nil {
		out.Before = toEntry(c.Key, *c.Before)
	}
	if c.After != nil {
		out.After = toEntry(c.Key, *c.After)
	}
	return out
}

func written(branch string, pub flow.Published) *tarnv1.Written {
	return &tarnv1.Written{Branch: branch, Commit: toCommit(pub.Commit), Changed: pub.Changed}
}

// maxRequestID bounds what a client may make the store remember.
const maxRequestID = 200

// checkWrite refuses a mutating request that does not say what it must.
func checkWrite(w *tarnv1.Write) error {
	if w.GetInto() == "" {
		return errdef.New(errdef.InvalidArgument, "server.no_branch", "the request does not say which branch to write to")
	}
	if w.GetDir() != "" {
		if err := checkDir(w.GetDir()); err != nil {
			return err
		}
	}
	return checkRequestID(w.GetRequestId())
}

func checkRequestID(id string) error {
	if id == "" || len(id) > maxRequestID {
		return errdef.New(errdef.InvalidArgument, "server.no_request_id", "a mutating request needs a request_id of at most 200 bytes")
	}
	return nil
}

// info is what a request says about the commit that it makes; otherwise is its message if it has none.
func info(w *tarnv1.Write, otherwise string) lake.CommitInfo {
	message := w.GetMessage()
	if message == "" {
		message = otherwise
	}
	return lake.CommitInfo{Author: w.GetAuthor(), Message: message, RequestID: w.GetRequestId()}
}
