package membership

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"io"
	"slices"
	"time"

	"github.com/starling-sync/starling/sdk"
)

// Limits of invitations.
const (
	DefaultLife    = 10 * time.Minute
	keptFor        = 24 * time.Hour // past its end an invitation is remembered, to say why it is refused
	maxInvitations = 64
)

// Join is what an invited device sends to its inviter.
type Join struct {
	Secret    []byte // from the code
	Name      string // of the device that joins
	Addresses []Address
}

// Pairing makes invitations and admits the devices that present them. Its methods may be called at once; they wait
// for one another. Invitations survive a restart.
type Pairing struct {
	members *Members
	random  io.Reader
	life    time.Duration

	turn token // of the one call in progress
}

// NewPairing returns the pairing of the device and library of members. random gives the secrets (crypto/rand.Reader);
// life is how long a code is good (zero or less: DefaultLife).
func NewPairing(members *Members, random io.Reader, life time.Duration) *Pairing {
	if life <= 0 {
		life = DefaultLife
	}
	return &Pairing{members: members, random: random, life: life, turn: make(token, 1)}
}

// invitation is a code as it is remembered.
type invitation struct {
	Hash    []byte       `json:"hash"` // SHA-256 of the secret
	Expires time.Time    `json:"expires"`
	UsedBy  sdk.DeviceID `json:"used_by"`
}

// Invite returns a code that admits one device until expires. It needs a library, and an address that peers can dial.
func (p *Pairing) Invite(ctx context.Context) (code string, expires time.Time, err error) {
	if err := p.turn.take(ctx); err != nil {
		return "", expires, err
	}
	defer p.turn.leave()
	o := p.members.o
	if _, ok, err := Current(ctx, o.Meta); err != nil {
		return "", expires, err
	} else if !ok {
		return "", expires, sdk.Errorf(sdk.CodeUnavailable, "this device belongs to no library yet; let it join one with: starling join CODE")
	}
	if err := p.mayAdmit(); err != nil {
		return "", expires, err
	}
	addresses, err := p.members.ownAddresses()
	if err != nil {
		return "", expires, err
	}
	if len(addresses) == 0 {
		return "", expires, sdk.Errorf(sdk.CodeUnavailable, "this device listens nowhere, so nobody can reach it; set listen in a transport block of config.hcl and start it again")
	}
	secret := make([]byte, secretBytes)
	if _, err := io.ReadFull(p.random, secret); err != nil {
		return "", expires, sdk.Errorf(sdk.CodeInternal, "make an invitation: %w", err)
	}
	list, err := p.load(ctx)
	if err != nil {
		return "", expires, err
	}
	expires = o.Now().Add(p.life)
	hash := sha256.Sum256(secret)
	list = append(list, invitation{Hash: hash[:], Expires: expires})
	if err := p.store(ctx, list); err != nil {
		return "", expires, err
	}
	return Ticket{Inviter: o.Self.ID(), Addresses: addresses, Secret: secret}.Encode(), expires, nil
}

// Accept admits the device peer, which has shown in its session that it holds key, if join carries a good invitation.
// It returns once the peer's membership is durable here. An invitation is bound to the first device that presents it:
// that device may repeat the call (its answer may have been lost), no other may.
func (p *Pairing) Accept(ctx context.Context, peer sdk.DeviceID, key ed25519.PublicKey, join Join) (Welcome, error) {
	if err := p.checkJoin(peer, key, join); err != nil {
		return Welcome{}, err
	}
	if err := p.turn.take(ctx); err != nil {
		return Welcome{}, err
	}
	defer p.turn.leave()
	o := p.members.o
	library, ok, err := Current(ctx, o.Meta)
	if err != nil {
		return Welcome{}, err
	}
	if !ok {
		return Welcome{}, sdk.Errorf(sdk.CodeUnavailable, "the inviting device belongs to no library")
	}
	if err := p.mayAdmit(); err != nil {
		return Welcome{}, err
	}
	if err := p.redeem(ctx, peer, join.Secret); err != nil {
		return Welcome{}, err
	}
	if err := p.enrol(ctx, peer, key, join); err != nil {
		return Welcome{}, err
	}
	own, ok1 := p.members.Member(o.Self.ID())
	admitted, ok2 := p.members.Member(peer)
	if !ok1 || !ok2 {
		return Welcome{}, sdk.Errorf(sdk.CodeUnavailable, "the inviting device's own membership is not ready; try again with the same code")
	}
	own.PublicKey = o.Self.PublicKey()
	encoded, err := json.Marshal([]introduced{introduce(own), introduce(admitted)})
	if err != nil {
		return Welcome{}, sdk.Errorf(sdk.CodeInternal, "introduce the members: %w", err)
	}
	o.Log.Info("a device has joined", "peer", peer, "name", join.Name)
	return Welcome{Library: library.ID, LibraryName: library.Name, Members: encoded}, nil
}

// mayAdmit returns why this device can let nobody in: what it writes reaches no member once it is retired.
func (p *Pairing) mayAdmit() error {
	if own, ok := p.members.Member(p.members.o.Self.ID()); ok && own.Retired() {
		return sdk.Errorf(sdk.CodeDenied, "the inviting device was itself retired from the library at %s; invite on one of its members", at(own.RetiredAt))
	}
	return nil
}

func (p *Pairing) checkJoin(peer sdk.DeviceID, key ed25519.PublicKey, join Join) error {
	switch {
	case len(key) != ed25519.PublicKeySize || DeviceIDOf(key) != peer:
		return sdk.Errorf(sdk.CodeDenied, "the device's id does not follow from its key")
	case peer == p.members.o.Self.ID():
		return sdk.Errorf(sdk.CodeInvalid, "this is the device that made the invitation; use the code on the device that is to join")
	case len(join.Secret) != secretBytes:
		return sdk.Errorf(sdk.CodeInvalid, "the invitation's secret has %d bytes; want %d", len(join.Secret), secretBytes)
	}
	if err := checkName(join.Name); err != nil {
		return err
	}
	return checkAddresses(join.Addresses)
}

// redeem binds the invitation of secret to peer, durably, or says why it can not. Wrong secrets are not counted: guessing
// 128 bits is hopeless, and a count would let anybody who can connect keep the invited out.
func (p *Pairing) redeem(ctx context.Context, peer sdk.DeviceID, secret []byte) error {
	now := p.members.o.Now()
	list, err := p.load(ctx)
	if err != nil {
		return err
	}
	hash := sha256.Sum256(secret)
	found := -1
	for i := range list {
		if subtle.ConstantTimeCompare(list[i].Hash, hash[:]) == 1 {
			found = i
		}
	}
	if found < 0 {
		return sdk.Errorf(sdk.CodeDenied, "the inviting device does not know this invitation; ask it for a new one with: starling invite")
	}
	one := &list[found]
	switch {
	case !one.UsedBy.IsZero() && one.UsedBy != peer:
		return sdk.Errorf(sdk.CodeDenied, "this invitation has already been used, by another device; ask for a new one with: starling invite")
	case one.UsedBy == peer:
		return nil // its answer was lost, maybe for longer than the code was good
	case !now.Before(one.Expires):
		return sdk.Errorf(sdk.CodeExpired, "this invitation expired at %s; ask for a new one with: starling invite", one.Expires.UTC().Format(time.RFC3339))
	}
	one.UsedBy = peer
	return p.store(ctx, list)
}

// enrol makes the peer's member record, or brings the one that it has up to date.
func (p *Pairing) enrol(ctx context.Context, peer sdk.DeviceID, key ed25519.PublicKey, join Join) error {
	m := p.members
	if err := m.Reload(ctx); err != nil {
		return err
	}
	record, exists := m.Member(peer)
	switch {
	case exists && record.Retired():
		return retired()
	case exists:
		return m.update(ctx, record, join.Name, join.Addresses)
	}
	record = Member{
		Shared: sdk.Shared{ID: sdk.RecordID(peer)}, Name: join.Name, PublicKey: bytes.Clone(key),
		Addresses: encodeAddresses(join.Addresses), JoinedAt: m.o.Now().UTC(),
	}
	if err := m.insert(ctx, record); err != nil {
		return err
	}
	if err := m.Reload(ctx); err != nil {
		return err
	}
	if record, _ := m.Member(peer); record.Retired() { // its record had been deleted, which does not undo a retirement
		return retired()
	}
	return nil
}

func retired() error {
	return sdk.Errorf(sdk.CodeDenied, "this device was retired from the library; make a new one with: starling init DIR --join")
}

// load returns the invitations that are worth remembering.
func (p *Pairing) load(ctx context.Context) ([]invitation, error) {
	stored, err := p.members.o.Meta.Meta(ctx, metaInvitations)
	if err != nil || len(stored) == 0 {
		return nil, err
	}
	var list []invitation
	if err := json.Unmarshal(stored, &list); err != nil {
		return nil, sdk.Errorf(sdk.CodeInternal, "read the invitations from the database: %w", err)
	}
	now := p.members.o.Now()
	list = slices.DeleteFunc(list, func(i invitation) bool { return now.Sub(i.Expires) > keptFor })
	return list, nil
}

// store keeps the newest of list.
func (p *Pairing) store(ctx context.Context, list []invitation) error {
	list = list[max(0, len(list)-maxInvitations):]
	encoded, err := json.Marshal(list)
	if err != nil {
		return sdk.Errorf(sdk.CodeInternal, "store the invitations: %w", err)
	}
	return p.members.o.Meta.SetMeta(ctx, metaInvitations, encoded)
}
