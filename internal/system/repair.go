package system

import (
	"context"

	"tarn.dev/tarn/internal/lake"
)

// RepairRows implements server.Control.
func (s *System) RepairRows(ctx context.Context, report func(lake.Problem)) error {
	defer s.Hold()()
	return lake.RepairRows(ctx, s.meta, s.projects.parts.session, report)
}
