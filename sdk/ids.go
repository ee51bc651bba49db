package sdk

import (
	"bytes"
	"fmt"

	"github.com/google/uuid"

	"github.com/starling-sync/starling/hlc"
)

// ModelName names a kind of record: lower-case letters, digits and underscores, starting with a letter, at most 48 bytes.
// It is also the name of the model's table.
type ModelName string

// RecordID names a record, the same in every device. The zero RecordID names none.
type RecordID uuid.UUID

// DeviceID names a device and is bound to its key. The zero DeviceID names none.
type DeviceID uuid.UUID

// NewRecordID returns a fresh id whose text and bytes sort by time of creation (UUIDv7), which keeps indexes compact.
func NewRecordID() RecordID { return RecordID(uuid.Must(uuid.NewV7())) }

// ParseRecordID reads the 36-character form of a UUID. The zero UUID, which names no record, is an error.
func ParseRecordID(text string) (RecordID, error) {
	id, err := parseUUID(text)
	if err == nil && id == uuid.Nil {
		err = Errorf(CodeInvalid, "%q names no record", text)
	}
	return RecordID(id), err
}

// ParseDeviceID reads the 36-character form of a UUID.
func ParseDeviceID(text string) (DeviceID, error) {
	id, err := parseUUID(text)
	return DeviceID(id), err
}

func parseUUID(text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil || len(text) != 36 {
		return uuid.Nil, Errorf(CodeInvalid, "%q is not a UUID; want 36 characters such as 0192f3c0-6f3e-7cc1-a36b-5d0d5b6f3a01", text)
	}
	return id, nil
}

func (id RecordID) String() string { return uuid.UUID(id).String() }

// IsZero reports whether id names no record.
func (id RecordID) IsZero() bool { return id == RecordID{} }

// Compare orders ids by their bytes, as the databases do.
func (id RecordID) Compare(other RecordID) int { return bytes.Compare(id[:], other[:]) }

// MarshalText returns the 36-character form.
func (id RecordID) MarshalText() ([]byte, error) { return uuid.UUID(id).MarshalText() }

// UnmarshalText reads the 36-character form.
func (id *RecordID) UnmarshalText(text []byte) error {
	parsed, err := ParseRecordID(string(text))
	*id = parsed
	return err
}

func (id DeviceID) String() string { return uuid.UUID(id).String() }

// IsZero reports whether id names no device.
func (id DeviceID) IsZero() bool { return id == DeviceID{} }

// Compare orders ids by their bytes, as the databases do.
func (id DeviceID) Compare(other DeviceID) int { return bytes.Compare(id[:], other[:]) }

// MarshalText returns the 36-character form.
func (id DeviceID) MarshalText() ([]byte, error) { return uuid.UUID(id).MarshalText() }

// UnmarshalText reads the 36-character form.
func (id *DeviceID) UnmarshalText(text []byte) error {
	parsed, err := ParseDeviceID(string(text))
	*id = parsed
	return err
}

// Version names one write in the total order of all writes: by stamp, then by device.
// The zero Version is before every write.
type Version struct {
	Stamp  hlc.Stamp
	Device DeviceID
}

// Compare returns -1, 0 or +1 as v is before, equal to or after other in the total order.
func (v Version) Compare(other Version) int {
	switch {
	case v.Stamp < other.Stamp:
		return -1
	case v.Stamp > other.Stamp:
		return 1
	}
	return v.Device.Compare(other.Device)
}

// IsZero reports whether v names no write.
func (v Version) IsZero() bool { return v == Version{} }

func (v Version) String() string { return fmt.Sprintf("%s@%s", v.Stamp, v.Device) }
