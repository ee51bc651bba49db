package control

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/starling-sync/starling/hlc"
	"github.com/starling-sync/starling/sdk"
)

// Status is the state of a device.
type Status struct {
	DeviceID    sdk.DeviceID      `json:"device_id"`
	DeviceName  string            `json:"device"`
	LibraryID   string            `json:"library_id"` // empty: it belongs to no library yet
	LibraryName string            `json:"library"`
	Version     string            `json:"version"` // of the host
	Started     time.Time         `json:"started_at"`
	StoreKind   string            `json:"store"`           // such as "sqlite"
	StoreBytes  int64             `json:"store_bytes"`     // 0 where StoreAway
	ClockState  string            `json:"clock"`           // "ok", or what is wrong with it
	ClockOffset time.Duration     `json:"clock_offset_ns"` // this clock minus its peers'
	Models      []ModelStatus     `json:"models"`
	Transports  []TransportStatus `json:"transports"`
	Plugins     []Plugin          `json:"plugins"`
	Sources     []SourceStatus    `json:"sources"`
	Peers       []Peer            `json:"peers"`
	Refused     int64             `json:"refused"`   // changes of peers that could not be stored here
	Conflicts   int64             `json:"conflicts"` // entries in the conflict journal

	RefusedChanges []RefusedChange `json:"refused_changes"` // the latest of Refused, newest first

	// Warnings are conditions that want a person, gravest first. The backend gives those that it alone knows (WarnRunsTwice,
	// WarnRestored, WarnClockAhead, WarnRestamped); the server adds those that follow from the rest of the status.
	Warnings  []StatusWarning `json:"warnings"`
	RetiredAt time.Time       `json:"retired_at,omitzero"` // when this device was retired, as far as it has heard of it
	Log       LogStatus       `json:"log"`
	Shadow    ShadowStatus    `json:"shadow"`
	Retention Retention       `json:"retention"`
	Repaired  int64           `json:"repaired"` // records that audits have put right here since the start
	Refusals  []RefusedInput  `json:"refusals"` // input of peers over a limit, since the start; none: nothing was
}

// StoreAway reports whether the database did not answer, so that nothing of what it holds is known: StoreBytes, Models, Refused,
// Conflicts, RefusedChanges, Log, and of Shadow all but its bound. Warnings say why. As JSON, these are null then.
func (s *Status) StoreAway() bool {
	return slices.ContainsFunc(s.Warnings, func(w StatusWarning) bool { return w.Code == WarningStoreAway })
}

// MarshalJSON implements json.Marshaler.
func (s Status) MarshalJSON() ([]byte, error) {
	type plain Status
	if !s.StoreAway() {
		return json.Marshal(plain(s))
	}
	type unknown *struct{}
	return json.Marshal(struct {
		plain
		StoreBytes     unknown `json:"store_bytes"` // each hides what plain has by this name
		Models         unknown `json:"models"`
		Refused        unknown `json:"refused"`
		Conflicts      unknown `json:"conflicts"`
		RefusedChanges unknown `json:"refused_changes"`
		Log            unknown `json:"log"`
		Shadow         unknown `json:"shadow"`
	}{plain: plain(s)})
}

// LogStatus is the log of shared changes.
type LogStatus struct {
	Entries int64     `json:"entries"`
	Bytes   int64     `json:"bytes"`
	Oldest  time.Time `json:"oldest,omitzero"` // when the oldest entry was written
}

// ShadowStatus counts the records that have clocks and are not visible, of all models.
type ShadowStatus struct {
	Deleted      int64 `json:"deleted"`
	NotInserted  int64 `json:"not_inserted"` // changes of them have come, and their insert has not
	Waiting      int64 `json:"waiting"`      // for records that they refer to
	WaitingBound int64 `json:"waiting_bound"`
}

// Retention is how long what not every device has acknowledged is kept. 0 is without limit.
type Retention struct {
	Age       time.Duration `json:"age_ns"` // of entries of the log and of tombstones
	Bytes     int64         `json:"bytes"`  // of the log
	Conflicts time.Duration `json:"conflicts_ns"`
}

// RefusedInput counts what peers sent that was over a limit.
type RefusedInput struct {
	Limit string `json:"limit"` // as config.hcl calls it: frame_bytes
	Count int64  `json:"count"`
}

// RefusedChange is a change of a peer that could not be stored here, and why.
type RefusedChange struct {
	Model   sdk.ModelName `json:"model"`
	ID      sdk.RecordID  `json:"id"`
	Origin  sdk.DeviceID  `json:"origin"`
	Stamp   hlc.Stamp     `json:"stamp"`
	Code    sdk.Code      `json:"code"`
	Message string        `json:"message"`
}

// ModelStatus is the state of one model.
type ModelStatus struct {
	Model     sdk.ModelName `json:"model"`
	Ownership sdk.Ownership `json:"ownership"`
	Version   uint32        `json:"version"`
	Rows      int64         `json:"rows"`    // visible records
	Waiting   int64         `json:"waiting"` // records that wait for one they refer to
	Parked    int64         `json:"parked"`  // changes that wait for the model's plugin
}

// TransportStatus is the state of one transport.
type TransportStatus struct {
	Name    string `json:"name"`
	Kind    string `json:"kind"`
	Address string `json:"address"` // where it listens; empty: it only dials
	State   string `json:"state"`
	Reason  string `json:"reason"` // why it is in that state, if there is something to say
}

// SourceStatus is the state of one source.
type SourceStatus struct {
	Model    sdk.ModelName `json:"model"`
	State    string        `json:"state"`
	Reason   string        `json:"reason"`
	Progress []Progress    `json:"progress"` // by key, then by unit
	Warnings []Warning     `json:"warnings"`
}

// Progress is how far a source is with one of its tasks, in one unit.
type Progress struct {
	Key   string `json:"key"`
	Unit  string `json:"unit"` // of Done and Total: bytes, files, things, or what a plugin calls it
	Done  int64  `json:"done"`
	Total int64  `json:"total"` // 0: unknown
}

// Warning is a counted condition that does not stop a source.
type Warning struct {
	Key     string `json:"key"`
	Count   int64  `json:"count"`
	Message string `json:"message"`
}

// Peer is what this device knows of another one.
type Peer struct {
	ID            sdk.DeviceID  `json:"id"`
	Name          string        `json:"name"`
	State         string        `json:"state"`          // connecting, backfilling, catching up, live, held, offline, retired
	Reason        string        `json:"reason"`         // why, where there is something to say or do
	Behind        time.Duration `json:"behind_ns"`      // how long this device has lacked the oldest of what it lacks of it; 0: it lacks nothing
	BehindMe      time.Duration `json:"behind_me_ns"`   // how long it has lacked the oldest of what it lacks of this device; 0: it lacks nothing
	Progress      float64       `json:"progress"`       // of a backfill, 0 to 1
	Left          time.Duration `json:"left_ns"`        // of a backfill; 0: unknown
	RTT           time.Duration `json:"rtt_ns"`         // 0: unknown
	Skew          time.Duration `json:"skew_ns"`        // its clock minus this one
	Via           string        `json:"via"`            // the transport of its session; empty: none
	Since         time.Time     `json:"since,omitzero"` // of State
	BytesIn       int64         `json:"bytes_in"`
	BytesOut      int64         `json:"bytes_out"`
	RowsIn        int64         `json:"rows_in"`
	RowsPerSecond float64       `json:"rows_per_second"` // while backfilling; else 0
	Addresses     []string      `json:"addresses"`
	RetiredAt     time.Time     `json:"retired_at,omitzero"` // then State is retired, and Since the same time
	RunsTwice     bool          `json:"runs_twice"`          // two processes are at work as this device
	Refuses       bool          `json:"refuses"`             // it answers this device with sdk.CodeDenied; Reason says why
	Audit         Audit         `json:"audit,omitzero"`      // the last one with it since the start
}

// Plugin is the state of one plugin process.
type Plugin struct {
	Name     string          `json:"name"`
	Kind     string          `json:"kind"` // model or transport
	State    string          `json:"state"`
	Reason   string          `json:"reason"`
	PID      int             `json:"pid"` // 0: not running
	Since    time.Time       `json:"since,omitzero"`
	Restarts int             `json:"restarts"`
	Path     string          `json:"path"`
	SHA256   string          `json:"sha256"`
	Version  string          `json:"version"` // of the build that runs or ran last, as it says itself
	Swap     string          `json:"swap"`    // what a swap under way is doing; empty: there is none
	Models   []sdk.ModelName `json:"models"`
	Staged   []Build         `json:"staged"` // in the store, where a swap finds them by Version
}
