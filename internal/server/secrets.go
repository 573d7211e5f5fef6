package server

import (
	"context"

	"google.golang.org/protobuf/types/known/timestamppb"

	tarnv1 "tarn.dev/tarn/api/gen/tarn/v1"
	"tarn.dev/tarn/internal/flow/secret"
)

type secretService struct{ projects Projects }

func (s *secretService) open(ctx context.Context, project string) (*secret.Store, error) {
	p, err := s.projects.Open(ctx, project)
	if err != nil {
		return nil, err
	}
	return p.Flow.Secrets(), nil
}

func (s *secretService) Set(ctx context.Context, in *tarnv1.SetSecretsRequest) (*tarnv1.SetSecretsResponse, error) {
	if err := checkRequestID(in.GetRequestId()); err != nil {
		return nil, err
	}
	store, err := s.open(ctx, in.GetProject())
	if err != nil {
		return nil, err
	}
	set, err := store.Set(ctx, in.GetRequestId(), in.GetValues())
	return &tarnv1.SetSecretsResponse{Secrets: toSecrets(set)}, err
}

func (s *secretService) List(ctx context.Context, in *tarnv1.ListSecretsRequest) (*tarnv1.ListSecretsResponse, error) {
	store, err := s.open(ctx, in.GetProject())
	if err != nil {
		return nil, err
	}
	have, err := store.List(ctx)
	return &tarnv1.ListSecretsResponse{Secrets: toSecrets(have)}, err
}

func (s *secretService) Remove(ctx context.Context, in *tarnv1.RemoveSecretsRequest) (*tarnv1.RemoveSecretsResponse, error) {
	if err := checkRequestID(in.GetRequestId()); err != nil {
		return nil, err
	}
	store, err := s.open(ctx, in.GetProject())
	if err != nil {
		return nil, err
	}
	removed, err := store.Remove(ctx, in.GetRequestId(), in.GetNames())
	return &tarnv1.RemoveSecretsResponse{Secrets: toSecrets(removed)}, err
}

func toSecrets(infos []secret.Info) []*tarnv1.Secret {
	var out []*tarnv1.Secret
	for _, x := range infos {
		out = append(out, &tarnv1.Secret{Name: x.Name, Set: timestamppb.New(x.Set)})
	}
	return out
}
