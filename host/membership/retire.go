package membership

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// ErrWritten is in the chain of an error of Retire and RetireSelf that came after the device was retired.
var ErrWritten = errors.New("the device is retired")

// Retire takes a device out of the library for good, and returns once that is durable here. It is refused for this device
// itself (RetireSelf does that), for one that is no member, and for one that is retired already.
//
// Each device that hears of it ends its session with the retired one, also a session under way, and opens none again.
// What the retired device wrote until then stays, and still travels between the others; it no longer holds back what
// they may prune. It can not come back: its id follows from its key, and retired_at merges by the greatest value, so
// that no write, by whomever, takes a retirement back. To let it in again, it is made anew and invited.
func (m *Members) Retire(ctx context.Context, id sdk.DeviceID) error {
	if id == m.o.Self.ID() {
		return sdk.Errorf(sdk.CodeDenied, "%s is this device itself; to give it away, retire it with --self, or on another device", id)
	}
	return m.retire(ctx, id)
}

// RetireSelf retires this device, before it is given away. It goes on as before until a peer has heard of it: that peer
// cuts it off, and tells the others. Where there is no other device left to hear of it, it is refused.
func (m *Members) RetireSelf(ctx context.Context) error {
	self := m.o.Self.ID()
	others := func(member Member) bool { return member.Device() != self && !member.Retired() }
	if !slices.ContainsFunc(m.All(), others) {
		return sdk.Errorf(sdk.CodeDenied, "this is the only device of its library, so that nobody is left to hear of its retirement; stop it and remove its folder instead")
	}
	return m.retire(ctx, self)
}

func (m *Members) retire(ctx context.Context, id sdk.DeviceID) error {
	if err := m.Reload(ctx); err != nil {
		return err
	}
	if own, ok := m.Member(m.o.Self.ID()); ok && own.Retired() && id != own.Device() {
		return sdk.Errorf(sdk.CodeDenied, "this device was itself retired at %s, so that no other listens to it; retire %s on a member of the library", at(own.RetiredAt), id)
	}
	stored, err := m.stored(ctx)
	if err != nil {
		return err
	}
	record, arrived := stored[id]
	introduced, known := m.Member(id)
	switch {
	case !arrived && known:
		return sdk.Errorf(sdk.CodeUnavailable, "the member record of %s (%s) is still on its way here; try again when this device has synced", introduced.Name, id)
	case !arrived:
		return sdk.Errorf(sdk.CodeNotFound, "no device %s in this library; its devices are listed by: starling peers", id)
	case record.Retired():
		return sdk.Errorf(sdk.CodeInvalid, "%s (%s) was retired at %s; there is nothing left to do", record.Name, id, at(record.RetiredAt))
	}
	record.RetiredAt = m.o.Now().UTC()
	packer, err := Model().Packer()
	if err != nil {
		return err
	}
	if err := packer.Update(&record, "retired_at"); err != nil {
		return err
	}
	if err := m.commit(ctx, packer.Batch()); err != nil {
		return err
	}
	m.o.Log.Info("a device is retired", "member", id, "name", record.Name)
	if err := m.Reload(ctx); err != nil {
		return sdk.Errorf(sdk.CodeOf(err), "%w, and this device does not heed it yet; look at it with: starling peers: %w", ErrWritten, err)
	}
	return nil
}

func at(t time.Time) string { return t.UTC().Format(time.RFC3339) }
