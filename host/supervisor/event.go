package supervisor

import "time"

// EventKind says what happened to a plugin.
type EventKind string

// The kinds of events.
const (
	Swapped        EventKind = "swapped"     // another build took its place, and stayed
	RolledBack     EventKind = "rolled back" // another build took its place, and had to give it back
	SwapRefused    EventKind = "refused"     // another build was not let in its place
	Crashed        EventKind = "crashed"     // its process ended by itself, hung, or could not be used
	WasQuarantined EventKind = "quarantined"
	WasRestarted   EventKind = "restarted" // because somebody asked for it
	WasAdded       EventKind = "added"
	WasRemoved     EventKind = "removed"
	WasPaused      EventKind = "paused"
	WasResumed     EventKind = "resumed"
)

// EventKinds returns all of them.
func EventKinds() []EventKind {
	return []EventKind{Swapped, RolledBack, SwapRefused, Crashed, WasQuarantined, WasRestarted, WasAdded, WasRemoved, WasPaused, WasResumed}
}

// Event is something that happened to a plugin, for people.
type Event struct {
	At       time.Time
	Kind     EventKind
	Plugin   string
	By       string // who or what wanted it, such as "starling reload"; empty: nobody did
	Why      string
	From, To Build // zero: none
}

// Build names one build of a plugin.
type Build struct {
	Version string // as it says itself
	SHA256  string // in hexadecimal
	Path    string // where it was taken from
}

func (k *keeper) record(e Event) {
	e.At, e.Plugin = k.options.Now(), k.name
	if k.options.Record != nil {
		k.options.Record(e)
	}
}
