package transaction

import (
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/starling-sync/starling/sdk"
)

// lanes keep the writers of a model apart from who has to write it alone. Whoever waits longest enters first, so that neither
// many writers keep one waiting who wants to be alone, nor the reverse.
type lanes struct {
	mu     sync.Mutex
	models map[sdk.ModelName]*semaphore.Weighted
}

// The shares of a lane.
const (
	one   = 1
	alone = 1 << 20 // more than there are writers at once
)

// enter blocks until the caller has a share of the lane of each model, and returns what gives them back.
func (l *lanes) enter(ctx context.Context, models []sdk.ModelName, share int64) (end func(), err error) {
	models = slices.Clone(models)
	slices.Sort(models) // all in one order, so that no two wait for each other
	var held []*semaphore.Weighted
	end = func() {
		for _, lane := range held {
			lane.Release(share)
		}
	}
	for _, model := range slices.Compact(models) {
		lane := l.lane(model)
		if err := lane.Acquire(ctx, share); err != nil {
			end()
			return nil, err
		}
		held = append(held, lane)
	}
	return end, nil
}

func (l *lanes) lane(model sdk.ModelName) *semaphore.Weighted {
	l.mu.Lock()
	defer l.mu.Unlock()
	lane := l.models[model]
	if lane == nil {
		lane = semaphore.NewWeighted(alone)
		if l.models == nil {
			l.models = make(map[sdk.ModelName]*semaphore.Weighted)
		}
		l.models[model] = lane
	}
	return lane
}
