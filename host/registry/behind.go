package registry

import (
	"context"
	"fmt"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/host/database"
	"github.com/starling-sync/starling/sdk"
)

// CountState counts what ReadState would return of the changes after since, all pages together, up to most. It reads indexes
// only.
func (r *Registry) CountState(ctx context.Context, origin sdk.DeviceID, since hlc.Stamp, most int) (n int, err error) {
	err = r.db.Read(ctx, func(tx *database.Tx) error {
		owner, err := tx.DeviceNumber(origin)
		if err != nil {
			return err
		}
		count := func(from string) error {
			var more int
			_, err := tx.One("SELECT count(*) FROM (SELECT 1 FROM "+from+" LIMIT ?) AS x", []any{owner, int64(since), most - n}, &more) //nolint:gosec // stamps fit
			n += more
			return err
		}
		for _, s := range r.catalog.Load().order {
			if s.shared || n >= most {
				continue
			}
			if err := count(s.table + " WHERE _owner = ? AND _stamp > ?"); err != nil {
				return fmt.Errorf("count %s: %w", s.name, err)
			}
		}
		for _, from := range []string{
			"_shadow WHERE owner = ? AND stamp > ?", "_tombstone WHERE owner = ? AND stamp > ?", "_parked WHERE origin = ? AND stamp > ? AND shared = 0",
		} {
			if n >= most {
				break
			}
			if err := count(from); err != nil {
				return fmt.Errorf("count the stream of %s: %w", origin, err)
			}
		}
		return nil
	})
	return n, err
}
