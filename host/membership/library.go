package membership

import (
	"context"
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"github.com/starling-sync/starling/sdk"
)

// LibraryID names a library.
type LibraryID uuid.UUID

func (id LibraryID) String() string { return uuid.UUID(id).String() }

// MarshalText returns the 36-character form.
func (id LibraryID) MarshalText() ([]byte, error) { return uuid.UUID(id).MarshalText() }

// UnmarshalText reads the 36-character form.
func (id *LibraryID) UnmarshalText(text []byte) error { return (*uuid.UUID)(id).UnmarshalText(text) }

// Library is the library that this device belongs to.
type Library struct {
	ID   LibraryID `json:"id"`
	Name string    `json:"name"`
}

// Meta keeps single values in this device's database, durably. Its methods block and may be called at once.
type Meta interface {
	// Meta returns the value of key, nil if there is none.
	Meta(ctx context.Context, key string) ([]byte, error)
	// SetMeta stores the value of key and returns when it is durable.
	SetMeta(ctx context.Context, key string, value []byte) error
	// Mark notes apart from that database that this device belongs to library, and returns when that is durable. It is called
	// before the database says so.
	Mark(library Library) error
}

// The keys in Meta.
const (
	metaLibrary     = "membership.library"
	metaInvitations = "membership.invitations"
)

// standing is how this device stands to its library. It is one value, so that it is stored all or nothing.
type standing struct {
	Library
	Enrolled   bool         `json:"enrolled"`             // this device's own member record has been here
	Introduced []introduced `json:"introduced,omitempty"` // by the inviter; their records have not arrived yet
}

// introduced is a member as it crosses the wire in a Welcome and waits in Meta.
type introduced struct {
	ID        sdk.DeviceID    `json:"id"`
	Name      string          `json:"name"`
	PublicKey []byte          `json:"public_key"`
	Addresses json.RawMessage `json:"addresses,omitempty"`
	JoinedAt  time.Time       `json:"joined_at"`
}

func introduce(m Member) introduced {
	return introduced{ID: m.Device(), Name: m.Name, PublicKey: m.PublicKey, Addresses: m.Addresses, JoinedAt: m.JoinedAt}
}

func (i introduced) member() Member {
	return Member{
		Shared: sdk.Shared{ID: sdk.RecordID(i.ID)}, Name: i.Name, PublicKey: i.PublicKey,
		Addresses: i.Addresses, JoinedAt: i.JoinedAt,
	}
}

// Current returns the library that this device belongs to, and whether there is one.
func Current(ctx context.Context, meta Meta) (Library, bool, error) {
	s, ok, err := readStanding(ctx, meta)
	return s.Library, ok, err
}

func readStanding(ctx context.Context, meta Meta) (s standing, ok bool, err error) {
	stored, err := meta.Meta(ctx, metaLibrary)
	if err != nil || len(stored) == 0 {
		return s, false, err
	}
	if err := json.Unmarshal(stored, &s); err != nil {
		return s, false, sdk.Errorf(sdk.CodeInternal, "read the library from the database: %w", err)
	}
	return s, true, nil
}

func writeStanding(ctx context.Context, meta Meta, s standing) error {
	encoded, err := json.Marshal(s)
	if err != nil {
		return sdk.Errorf(sdk.CodeInternal, "store the library: %w", err)
	}
	return meta.SetMeta(ctx, metaLibrary, encoded)
}

// Found makes a new library called name, with a random id. The device's own member record follows with Announce.
func Found(ctx context.Context, meta Meta, id LibraryID, name string) (Library, error) {
	if err := Free(ctx, meta); err != nil {
		return Library{}, err
	}
	return enter(ctx, meta, standing{Library: Library{ID: id, Name: name}})
}

// Free returns a CodeDenied error if this device belongs to a library already.
func Free(ctx context.Context, meta Meta) error {
	s, ok, err := readStanding(ctx, meta)
	if err != nil {
		return err
	}
	if ok {
		return belongs(s.Library)
	}
	return nil
}

func belongs(l Library) error {
	return sdk.Errorf(sdk.CodeDenied, "this device already belongs to library %q (%s); to join another, make a new device with: starling init DIR --join", l.Name, l.ID)
}

// Welcome is the inviter's answer to a Join.
type Welcome struct {
	Library     LibraryID
	LibraryName string
	Members     []byte // the inviter and the invited, for Joined
}

// Joined stores the library of a Welcome from the device inviter (whose key the session has shown), with the members
// it introduces, all or nothing. self is this device. After it, the device's first session can begin.
// Repeating it with the same library does no harm; another library is refused.
func Joined(ctx context.Context, meta Meta, self, inviter sdk.DeviceID, w Welcome) (Library, error) {
	if w.Library == (LibraryID{}) || w.LibraryName == "" {
		return Library{}, sdk.Errorf(sdk.CodeInvalid, "the inviter named no library; bring both devices to the same version")
	}
	var members []introduced
	if err := json.Unmarshal(w.Members, &members); err != nil {
		return Library{}, sdk.Errorf(sdk.CodeInvalid, "the inviter's members can not be read: %w", err)
	}
	met := map[sdk.DeviceID]bool{}
	for _, m := range members {
		if DeviceIDOf(m.PublicKey) != m.ID {
			return Library{}, sdk.Errorf(sdk.CodeInvalid, "the inviter's members can not be trusted: the id of %q does not follow from its key", m.Name)
		}
		met[m.ID] = true
	}
	if !met[self] || !met[inviter] {
		return Library{}, sdk.Errorf(sdk.CodeInvalid, "the inviter named not both of the devices that meet; bring both to the same version")
	}
	s, ok, err := readStanding(ctx, meta)
	if err != nil {
		return Library{}, err
	}
	if ok && s.ID != w.Library {
		return Library{}, belongs(s.Library)
	}
	if ok {
		return s.Library, nil
	}
	return enter(ctx, meta, standing{Library: Library{ID: w.Library, Name: w.LibraryName}, Introduced: members})
}

// enter has this device belong to a library, of which nothing is said yet.
//
// HAZARD: in the other order a host that is killed in between, and started on another database, would take itself for a new
// device. In this one it is started on its own database, which knows the device, and just belongs to no library yet.
func enter(ctx context.Context, meta Meta, s standing) (Library, error) {
	if err := meta.Mark(s.Library); err != nil {
		return Library{}, err
	}
	return s.Library, writeStanding(ctx, meta, s)
}
