package replica

import (
	"context"
	"maps"
	"slices"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/host/history"
	"github.com/starling-sync/starling/host/peerlog"
	"github.com/starling-sync/starling/host/peersync"
	"github.com/starling-sync/starling/host/registry"
	"github.com/starling-sync/starling/sdk"
)

// pruneRows is how much one transaction forgets, so that it does not keep writers waiting.
const pruneRows = 2000

// Keeper remembers what others have, and forgets what nobody needs. It implements peersync.Keeper. All fields are required.
type Keeper struct {
	DB       *database.DB
	Registry *registry.Registry
	Journal  *peerlog.Log
	// Sealer closes a stamp of an own stream: transaction.Manager.Seal.
	Sealer func(ctx context.Context, kind sdk.Ownership) error
}

// Acknowledge implements peersync.Keeper, in one transaction.
func (k *Keeper) Acknowledge(ctx context.Context, acks []peersync.Acknowledged) error {
	return k.DB.Write(ctx, func(tx *database.Tx) error {
		for i := range acks {
			if acks[i].All {
				if err := k.Journal.ForgetAcknowledgements(tx, acks[i].Peer); err != nil {
					return err
				}
			}
			for key, heads := range acks[i].Heads {
				if err := k.Journal.Acknowledge(tx, acks[i].Peer, key, heads); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// Prune implements peersync.Keeper, in as many transactions as it takes. Each leaves floors and what is kept in agreement.
func (k *Keeper) Prune(ctx context.Context, a peersync.Prune) error {
	keys := make([]history.Stream, 0, len(a.Floors))
	for key := range a.Floors {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, history.Stream.Compare)
	for _, key := range keys {
		through := a.Floors[key]
		err := k.steps(ctx, func(tx *database.Tx) (bool, error) {
			if key.Kind == sdk.SharedByAll {
				out, err := k.Journal.Prune(tx, key.Origin, through, pruneRows)
				return out.More, err
			}
			if err := k.Journal.RaiseFloor(tx, key, through); err != nil {
				return false, err
			}
			n, err := k.Registry.PruneTombstones(tx, key.Origin, through, pruneRows)
			return n == pruneRows, err
		})
		if err != nil {
			return err
		}
	}
	if a.Shadow > 0 {
		var at registry.ShadowCursor
		err := k.steps(ctx, func(tx *database.Tx) (more bool, err error) {
			_, at, err = k.Registry.PruneShadow(tx, a.Shadow, at, pruneRows)
			return at != registry.ShadowCursor{}, err
		})
		if err != nil {
			return err
		}
	}
	if len(a.Epochs)+len(a.Snapshots) == 0 {
		return nil
	}
	return k.DB.Write(ctx, func(tx *database.Tx) error {
		for _, scope := range a.Snapshots {
			if err := k.Journal.EndSnapshot(tx, scope.Kind, scope.Origin); err != nil {
				return err
			}
		}
		return k.Journal.ForgetEpochs(tx, a.Epochs)
	})
}

// Floors implements peersync.Keeper.
func (k *Keeper) Floors(ctx context.Context) (map[history.Stream]hlc.Stamp, error) {
	return k.Journal.Floors(ctx)
}

// steps runs step, each in a transaction of its own, while there is more.
func (k *Keeper) steps(ctx context.Context, step func(*database.Tx) (more bool, err error)) error {
	for {
		var more bool
		err := k.DB.Write(ctx, func(tx *database.Tx) (err error) {
			more, err = step(tx)
			return err
		})
		if err != nil || !more {
			return err
		}
	}
}

// Seal implements peersync.Keeper.
func (k *Keeper) Seal(ctx context.Context) error { return k.Sealer(ctx, sdk.SharedByAll) }

// Tidy keeps the log within mostBytes (zero: no limit) whoever may still need what goes, and the conflict journal to what was
// decided after before. It returns the floors that rose, which the sync engine must be told of.
func (k *Keeper) Tidy(ctx context.Context, mostBytes int64, before hlc.Stamp) (map[history.Stream]hlc.Stamp, error) {
	floors := map[history.Stream]hlc.Stamp{}
	if mostBytes > 0 {
		err := k.steps(ctx, func(tx *database.Tx) (bool, error) {
			out, err := k.Journal.TrimTo(tx, mostBytes, pruneRows)
			maps.Copy(floors, out.Floors) // those of a later step are greater
			return out.More, err
		})
		if err != nil {
			return floors, err
		}
	}
	if before == 0 {
		return floors, nil
	}
	return floors, k.steps(ctx, func(tx *database.Tx) (bool, error) {
		n, err := k.Registry.PruneConflicts(tx, before, pruneRows)
		return n >= pruneRows, err
	})
}
