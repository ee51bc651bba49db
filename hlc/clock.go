package hlc

import (
	"fmt"
	"sync"
	"time"
)

// greatest is the last stamp that a clock takes from elsewhere: what is left up to MaxStamp is room for its own.
const greatest = MaxStamp - 1<<40

// DriftError says that a stamp lies further ahead of the local wall clock than the clock allows.
type DriftError struct {
	Stamp Stamp
	Ahead time.Duration // how far the stamp is ahead of the local wall clock
	Max   time.Duration
}

func (e *DriftError) Error() string {
	if e.Stamp > greatest {
		return fmt.Sprintf("stamp %s is too near to the greatest stamp %s", e.Stamp, MaxStamp)
	}
	return fmt.Sprintf("stamp %s is %s ahead of the local clock (at most %s is accepted)", e.Stamp, e.Ahead.Round(time.Millisecond), e.Max)
}

// Clock issues this device's stamps. Its methods may be called from several goroutines and never block.
//
// HAZARD: a Clock made from a high-water mark older than the last stamp used issues stamps again; store
// Last() in the transaction that uses the stamp.
type Clock struct {
	now      func() time.Time
	maxDrift time.Duration

	mu   sync.Mutex
	salt uint16
	last Stamp // every stamp issued or observed is <= last
}

// MaxSalt is one more than the greatest salt: what is left of the counter is for the stamps of one millisecond.
const MaxSalt = 1 << 12

// Salt has the first stamp of each millisecond begin with this counter, less than MaxSalt, instead of zero. Two copies of a device
// that run at once, which draw their salts at random, so do not give two changes of one millisecond the same stamp.
func (c *Clock) Salt(salt uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.salt = salt % MaxSalt
}

// NewClock returns a clock that continues after last, reads wall time from now, and refuses remote stamps
// more than maxDrift ahead of it (zero or less: only those so near to MaxStamp that no room is left after them).
func NewClock(now func() time.Time, last Stamp, maxDrift time.Duration) *Clock {
	return &Clock{now: now, last: last, maxDrift: maxDrift}
}

// Now issues the next stamp: max(wall, last+1). A full counter borrows the next millisecond.
func (c *Clock) Now() Stamp {
	wall := c.wall()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(wall+Stamp(c.salt), c.last+1)
	return c.last
}

// Observe merges a remote stamp, so that every later stamp of this clock is greater.
// It returns a *DriftError, and merges nothing, if remote is too far ahead.
func (c *Clock) Observe(remote Stamp) error {
	if err := c.Check(remote); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = max(c.last, remote)
	return nil
}

// Check returns a *DriftError if remote is too far ahead of the local wall clock, and merges nothing.
func (c *Clock) Check(remote Stamp) error {
	if c.maxDrift <= 0 && remote <= greatest {
		return nil
	}
	if ahead := remote.Time().Sub(c.now()); ahead > c.maxDrift || remote > greatest {
		return &DriftError{Stamp: remote, Ahead: ahead, Max: c.maxDrift}
	}
	return nil
}

// Last returns the greatest stamp issued or observed: the high-water mark to store.
func (c *Clock) Last() Stamp {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// Ahead returns how far the next stamp is ahead of the wall clock; zero if it is not. More than the bound on remote stamps
// means that the wall clock has been set back, or was wrong before: peers refuse this device's stamps until it catches up.
func (c *Clock) Ahead() time.Duration { return max(0, c.Last().Time().Sub(c.now())) }

func (c *Clock) wall() Stamp { return New(max(0, c.now().UnixMilli()), 0) }
